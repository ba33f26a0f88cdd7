// The address of the page is its state: a reload and a link show the same.
import { useEffect, useState } from "./vendor.js";
import { query } from "./api.js";

const listeners = new Set();

function current() {
  return { path: location.pathname, values: Object.fromEntries(new URLSearchParams(location.search)) };
}

export function href(path, values = {}) {
  return `${path}${query(values)}`;
}

export function go(path, values = {}, { replace = false } = {}) {
  const address = href(path, values);
  if (replace) history.replaceState(null, "", address);
  else {
    history.pushState(null, "", address);
    scrollTo(0, 0);
  }
  for (const listener of listeners) listener(current());
}

// Change some values of the address and stay in the view.
export function set(values, { quiet = false } = {}) {
  const now = current();
  const address = href(now.path, { ...now.values, ...values });
  history.replaceState(null, "", address);
  if (!quiet) for (const listener of listeners) listener(current());
}

// A value of the address that has to be one of some: anybody can write an address.
export function oneOf(value, known, usual) {
  return known.includes(value) ? value : usual;
}

addEventListener("popstate", () => {
  for (const listener of listeners) listener(current());
});

addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest("a[href]");
  const isOurs = link && link.origin === location.origin && !link.target && !link.download;
  if (!isOurs || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(link.pathname, Object.fromEntries(new URLSearchParams(link.search)));
});

export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    listeners.add(setRoute);
    return () => listeners.delete(setRoute);
  }, []);
  return route;
}
