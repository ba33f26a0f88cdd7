// Return curves of runs; asks only for the points that are new.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { ask } from "./api.js";
import { colour, number } from "./format.js";
import { Plot } from "./plot.js";
import { Choice } from "./parts.js";
import { href, oneOf } from "./route.js";

const AXES = [["episode", "episodes"], ["steps", "steps"], ["at", "time"]];
const SMOOTH = 10;
const PARTS = ["episode", "steps", "at", "mean", "low", "high", "length", "each"];

export function axisOf(values) {
  return oneOf(values.axis, AXES.map(([name]) => name), "episode");
}

// The curves of some runs, by name; kept up to date when the version changes.
export function useCurves(names, version) {
  const curves = useRef(new Map());
  const [turn, setTurn] = useState(0);
  const key = names.join("\n");
  useEffect(() => {
    const control = new AbortController();
    for (const name of names) {
      const held = curves.current.get(name);
      const start = held ? Math.max(0, held.mean.length - 1) : 0; // the last point may have grown
      ask("curve", { run: name, size: held ? held.size : null, start }, { signal: control.signal }).then(
        (found) => {
          const before = curves.current.get(name);
          const joined = { size: found.size, episodes: found.episodes };
          for (const part of PARTS) {
            joined[part] = found.start && before ? [...before[part].slice(0, found.start), ...found[part]] : [...found[part]];
          }
          curves.current.set(name, joined);
          setTurn((one) => one + 1);
        },
        () => {},
      );
    }
    return () => control.abort();
  }, [key, version]);
  return { curves: curves.current, turn };
}

export function ReturnCurves({ names, axis, onAxis, version, onEnd }) {
  const { curves, turn } = useCurves(names, version);
  const { x, series } = useMemo(() => overlaid(names, curves, axis), [names.join("\n"), axis, turn]);
  return html`<div>
    <div class="toolbar tight"><h2>Return</h2>
      <ul class="legend">${names.map((name, at) => html`<li key=${name}><i style=${{ background: colour(at) }}></i><a href=${href("/run", { run: name })}>${name}</a></li>`)}</ul>
      ${names.some((name) => curves.has(name) && isSmooth(curves.get(name))) ? html`<span class="quiet">means of ${SMOOTH} episodes</span>` : null}
      <span class="spacer"></span><${Choice} label="Horizontal axis" value=${axis} choices=${AXES} onChoice=${onAxis} />
      <button type="button" class="small" onClick=${onEnd}>end comparison</button></div>
    <${Plot} key=${`${names.join()}${axis}`} label=${`Returns of ${names.join(", ")}`} x=${x} series=${series} height=${240} isTime=${axis === "at"} />
  </div>`;
}

// Curves over one common axis; where a curve has no point there, a gap that its line spans.
function overlaid(names, curves, axis) {
  const all = new Set();
  for (const name of names) for (const at of curves.get(name)?.[axis] || []) all.add(at);
  const x = [...all].sort((a, b) => a - b);
  const place = new Map(x.map((one, at) => [one, at]));
  const series = names.map((name, index) => {
    const values = new Array(x.length).fill(undefined);
    const curve = curves.get(name);
    if (curve) {
      const means = isSmooth(curve) ? rolling(curve.mean, SMOOTH) : curve.mean;
      curve[axis].forEach((one, at) => { values[place.get(one)] = means[at]; });
    }
    return { label: name, values, index, width: 1.5 };
  });
  return { x, series };
}

export function RunCurves({ name, axis, onAxis, version, marks }) {
  const { curves, turn } = useCurves([name], version);
  const curve = curves.get(name);
  const parts = useMemo(() => {
    if (!curve || !curve.mean.length) return null;
    const x = curve[axis];
    const returns = [{ label: "mean", values: curve.mean, index: 0, width: 1.75 }];
    if (curve.size > 1 && !curve.each.length) {
      returns.push({ label: "highest", values: curve.high, index: 0, band: "range" }, { label: "lowest", values: curve.low, index: 0, band: "range" });
    } else if (curve.each.length) {
      returns.splice(0, 1, ...curve.each[0].map((_, at) => ({ label: `return ${at}`, values: curve.each.map((one) => one[at]), index: at, width: 1.75 })));
    } else if (curve.mean.length > 20) {
      returns[0] = { label: "return", values: curve.mean, stroke: "faint", width: 1 };
      returns.push({ label: "mean of 20", values: rolling(curve.mean, 20), index: 0, width: 1.75 });
    }
    return { x, returns, lengths: [{ label: "length", values: curve.length, stroke: "quiet", width: 1.25 }] };
  }, [turn, axis]);
  const places = (marks || []).map((one) => one[axis]);
  if (!parts) return html`<p class="quiet">No episode has ended yet.</p>`;
  const last = curve.mean.length - 1;
  const newest = curve.each.length ? curve.each[last] : [curve.mean[last]];
  return html`<div>
    <div class="toolbar tight"><h2>Return</h2><span class="quiet tabular">newest: ${newest.map((one) => number(one)).join(", ")}</span>
      ${curve.each.length ? html`<ul class="legend">${newest.map((_, at) => html`<li key=${at}><i style=${{ background: colour(at) }}></i>${at}</li>`)}</ul>` : null}
      <span class="quiet">${curve.each.length ? (curve.size > 1 ? `each point is the mean of ${curve.size} episodes` : "") : curve.size > 1 ? `each point is the mean of ${curve.size} episodes; the area goes from the lowest to the highest` : parts.returns.length > 1 ? "thin line: each episode; thick line: mean of 20" : ""}</span><span class="spacer"></span>
      <${Choice} label="Horizontal axis" value=${axis} choices=${AXES} onChoice=${onAxis} /></div>
    <${Plot} key=${`r${axis}${parts.returns.length}`} label="Return over the run" x=${parts.x} series=${parts.returns} height=${190} isTime=${axis === "at"} marks=${places} />
    <h2>Length</h2>
    <${Plot} key=${`l${axis}`} label="Length over the run" x=${parts.x} series=${parts.lengths} height=${110} isTime=${axis === "at"} marks=${places} />
    ${places.length ? html`<p class="quiet"><span class="dash"></span> the run was cut off here (${places.length} ${places.length === 1 ? "time" : "times"})</p>` : null}
  </div>`;
}

// Single episodes of several runs over each other cannot be told apart.
function isSmooth(curve) {
  return curve.size === 1 && curve.mean.length > 3 * SMOOTH;
}

function rolling(values, width) {
  const found = [];
  let sum = 0;
  values.forEach((one, at) => {
    sum += one ?? 0;
    if (at >= width) sum -= values[at - width] ?? 0;
    found.push(sum / Math.min(at + 1, width));
  });
  return found;
}
