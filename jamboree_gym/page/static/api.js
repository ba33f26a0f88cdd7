// Questions to the server.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function query(values) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "" || value === false) continue;
    asked.set(name, value === true ? "1" : value);
  }
  const text = asked.toString();
  return text ? `?${text}` : "";
}

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The page's server does not answer: is jamboree-gym ui still running?", 0);
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text;
  try {
    message = JSON.parse(text).error || text;
  } catch {
    // it is no JSON: the text says it
  }
  throw new Refused(message, answer.status);
}

export async function ask(name, values = {}, options = {}) {
  return (await asked(`/api/${name}${query(values)}`, options)).json();
}

export async function askBytes(name, values = {}, options = {}) {
  return (await asked(`/api/${name}${query(values)}`, options)).arrayBuffer();
}

// A picture and the step that it shows; null if there is none.
export async function askPicture(values, signal) {
  const answer = await asked(`/api/picture${query(values)}`, { signal });
  if (answer.status === 204) return null;
  const step = Number(answer.headers.get("X-Step"));
  return { image: await createImageBitmap(await answer.blob()), step };
}

export async function setFlag(id, note, step) {
  const body = JSON.stringify({ note, step });
  return (await asked(`/api/flags${query({ id })}`, { method: "POST", body })).json();
}

export async function deleteFlags(id) {
  return (await asked(`/api/flags${query({ id })}`, { method: "DELETE" })).json();
}

// -- what has changed -----------------------------------------------------------------------

const listeners = new Set();
let state = { ok: true, message: "" };

export function onStore(listener) {
  listeners.add(listener);
  listener(state);
  return () => listeners.delete(listener);
}

function tell(ok, message = "") {
  if (state.ok === ok && state.message === message) return;
  state = { ok, message };
  for (const listener of listeners) listener(state);
}

// Events for what is shown; quiet while nobody sees the tab. Returns a function that ends them.
export function watch(values, onChange, onBack) {
  let source = null;
  let isOver = false;
  function open() {
    if (isOver) return;
    if (source || document.hidden) return;
    source = new EventSource(`/api/changes${query(values)}`);
    source.addEventListener("change", (event) => {
      tell(true);
      onChange(JSON.parse(event.data));
    });
    source.addEventListener("away", (event) => tell(false, JSON.parse(event.data).error));
    source.addEventListener("back", () => {
      tell(true);
      if (onBack) onBack();
    });
    source.addEventListener("gone", () => close());
    source.onerror = () => {
      tell(false, "The page's server does not answer: is jamboree-gym ui still running?");
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        setTimeout(open, 1000);
      }
    };
  }
  function close() {
    if (source) source.close();
    source = null;
  }
  function seen() {
    if (document.hidden) close();
    else open();
  }
  document.addEventListener("visibilitychange", seen);
  open();
  return () => {
    document.removeEventListener("visibilitychange", seen);
    close();
    isOver = true;
  };
}
