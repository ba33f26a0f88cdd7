// Numbers, times and colours as texts.

const whole = new Intl.NumberFormat("en-US");

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return count(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(digits - 2).replaceAll("-", "−");
  const fraction = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  const text = value.toFixed(Math.min(fraction, 6)).replace("-", "−");
  return digits > 5 && text.includes(".") ? text.replace(/\.?0+$/, "") : text; // in a table, digits stand below digits
}

/** The return of an episode; of several numbers, each. */
export function returned(episode, digits = 4) {
  return episode.returns ? `(${episode.returns.map((one) => number(one, digits)).join(", ")})` : number(episode.episode_return, digits);
}

export function meanReturn(run) {
  const several = run.mean_return === null && run.mean_returns;
  return several ? `(${several.map((one) => number(one)).join(", ")})` : number(run.mean_return);
}

export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value).replace("-", "−");
}

export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  const size = Math.abs(value);
  if (size >= 1e9) return `${trimmed(value / 1e9)}G`;
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3)}k`;
  if (size >= 1e3 && Number.isInteger(value)) return count(value);
  if (size && size < 1e-3) return value.toExponential(1).replace(".0e", "e").replaceAll("-", "−");
  return trimmed(value);
}

function trimmed(value) {
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${seconds < 0.01 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function ago(at, now = Date.now() / 1000) {
  if (at === null || at === undefined) return "–";
  const seconds = Math.max(0, now - at);
  return seconds < 1.5 ? "now" : `${duration(seconds)} ago`;
}

const moment = new Intl.DateTimeFormat("en-GB", {
  year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export function time(at) {
  return at === null || at === undefined ? "–" : moment.format(new Date(at * 1000));
}

// As much of an id as has to be typed, where an answer has said how much that is.
const MOST_IDS = 5000;
const shortIds = new Map();

export function learn(...episodes) {
  if (shortIds.size > MOST_IDS) shortIds.clear();
  for (const one of episodes) if (one && one.short) shortIds.set(one.id, one.short);
}

export function brief(id) {
  return id ? shortIds.get(id) || `${id.slice(0, 12)}..${id.slice(-4)}` : "";
}

// The same name has the same colour in each view.
export const PALETTE = 8;

export function colour(index) {
  const style = getComputedStyle(document.documentElement);
  return style.getPropertyValue(`--line-${index % PALETTE}`).trim();
}

export function theme(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
