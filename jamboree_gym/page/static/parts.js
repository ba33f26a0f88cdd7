// Small parts that several views have.
import { html, useEffect, useRef, useState } from "./vendor.js";
import { Refused, ask } from "./api.js";
import { brief } from "./format.js";

// An answer of the server: { value, error, again }. Asked again when the values change.
export function useAnswer(name, values, { when = true } = {}) {
  const [state, setState] = useState({ value: null, error: null });
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([name, values, when, turn]);
  useEffect(() => {
    if (!when) return undefined;
    const control = new AbortController();
    let timer = 0;
    ask(name, values, { signal: control.signal }).then(
      (value) => setState({ value, error: null }),
      (error) => {
        if (error.name === "AbortError") return;
        setState((before) => ({ ...before, error }));
        if (error instanceof Refused && (error.status === 503 || error.status === 0)) {
          timer = setTimeout(() => setTurn((one) => one + 1), 1000);
        }
      },
    );
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [key]);
  return { ...state, again: () => setTurn((one) => one + 1), setValue: (change) => setState((before) => ({ ...before, value: change(before.value) })) };
}

export function Problem({ error }) {
  return html`<p class="problem" role="alert">${error.message}</p>`;
}

export function Loading({ what }) {
  return html`<p class="quiet loading" role="status">Loading ${what}…</p>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

const STATE_WORDS = {
  running: "running", stopped: "stopped", interrupted: "cut off",
  terminated: "terminated", truncated: "truncated", abandoned: "abandoned",
};

export function State({ state }) {
  return html`<span class=${`state ${state}`}>${STATE_WORDS[state] || state}</span>`;
}

export function Stat({ name, value, title }) {
  return html`<div class="stat" title=${title || ""}><dt>${name}</dt><dd>${value}</dd></div>`;
}

export function Spark({ values, label }) {
  const width = 96;
  const height = 22;
  if (!values || values.length < 2) return html`<svg class="spark" width=${width} height=${height} aria-hidden="true" />`;
  const finite = values.filter((one) => one !== null);
  const low = Math.min(...finite);
  const span = Math.max(...finite) - low || 1;
  const points = values.map((one, at) => {
    const x = 2 + (at / (values.length - 1)) * (width - 4);
    const y = height - 3 - (((one ?? low) - low) / span) * (height - 6);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return html`<svg class="spark" width=${width} height=${height} role="img" aria-label=${label}>
    <polyline points=${points.join(" ")} /></svg>`;
}

// Text that is sent on when the typing pauses, or with Enter.
export function TextField({ label, value, placeholder, onText, wide, invalid }) {
  const [text, setText] = useState(value || "");
  const timer = useRef(0);
  useEffect(() => setText(value || ""), [value]);
  function typed(event) {
    const typedText = event.target.value;
    setText(typedText);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onText(typedText), 350);
  }
  function key(event) {
    if (event.key !== "Enter") return;
    clearTimeout(timer.current);
    onText(event.target.value);
  }
  return html`<input class=${wide ? "wide" : ""} type="text" spellcheck="false" autocomplete="off"
    aria-label=${label} aria-invalid=${invalid ? "true" : "false"} placeholder=${placeholder} value=${text} onInput=${typed} onKeyDown=${key} />`;
}

export function Choice({ label, value, choices, onChoice }) {
  return html`<div class="choice" role="group" aria-label=${label}>
    ${choices.map(([name, text]) => html`<button type="button" key=${name} aria-pressed=${value === name ? "true" : "false"}
      onClick=${() => onChoice(name)}>${text}</button>`)}
  </div>`;
}

// A tree of values as a table of names and values.
export function Values({ values }) {
  const rows = [];
  (function walk(part, path) {
    if (part !== null && typeof part === "object" && !Array.isArray(part) && Object.keys(part).length) {
      for (const [name, inner] of Object.entries(part)) walk(inner, path ? `${path}.${name}` : name);
    } else {
      rows.push([path, typeof part === "string" ? part : JSON.stringify(part)]);
    }
  })(values, "");
  return html`<table class="values"><tbody>
    ${rows.map(([name, value]) => html`<tr key=${name}><th scope="row">${name}</th><td>${value}</td></tr>`)}
  </tbody></table>`;
}

// The id of an episode: short, the whole of it where the mouse rests.
export function Id({ id }) {
  return html`<code class="id" title=${id}>${brief(id)}</code>`;
}

export function Copy({ text, label, name = "copy" }) {
  const [isDone, setDone] = useState(false);
  function copy() {
    navigator.clipboard.writeText(text).then(() => {
      setDone(true);
      setTimeout(() => setDone(false), 1500);
    });
  }
  return html`<button type="button" class="small" onClick=${copy} aria-label=${label}>${isDone ? "copied" : name}</button>`;
}
