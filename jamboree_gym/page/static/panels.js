// The plots of an episode, all at one cursor and one zoom.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { drawn } from "./columns.js";
import { number } from "./format.js";
import { Plot } from "./plot.js";

const SHOWN = 8;
const MOST_PANELS = 7;

// A cursor line over a plot, and the gestures that move it: drag = scrub, wheel = zoom.
function attach(plot, cursor, zoom) {
  const line = document.createElement("div");
  line.className = "cursor-line";
  plot.over.append(line);
  let scale = null;
  function place(step) {
    const { min, max } = plot.scales.x;
    if (min === null || min === undefined || max === min) return;
    scale = plot.over.clientWidth / (max - min);
    const at = (step - min) * scale;
    line.style.transform = `translateX(${at}px)`;
    line.style.visibility = at < -1 || at > plot.over.clientWidth + 1 ? "hidden" : "visible";
  }
  const end = cursor.follow(place);
  plot.hooks.setScale = [() => place(cursor.step)];
  plot.hooks.setSize = [() => place(cursor.step)];
  function stepAt(event) {
    const box = plot.over.getBoundingClientRect();
    return plot.posToVal(event.clientX - box.left, "x");
  }
  let isDown = false;
  plot.over.addEventListener("pointerdown", (event) => {
    isDown = true;
    plot.over.setPointerCapture(event.pointerId);
    cursor.go(stepAt(event));
  });
  plot.over.addEventListener("pointermove", (event) => isDown && cursor.go(stepAt(event)));
  for (const name of ["pointerup", "pointercancel"]) plot.over.addEventListener(name, () => { isDown = false; });
  plot.over.addEventListener("dblclick", () => zoom.set(null));
  plot.over.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) return; // else the page scrolls
    event.preventDefault();
    const [low, high] = zoom.range || [0, cursor.last];
    const middle = stepAt(event);
    const factor = event.deltaY > 0 ? 1.25 : 0.8;
    const range = [Math.max(0, middle - (middle - low) * factor), Math.min(cursor.last, middle + (high - middle) * factor)];
    zoom.set(range[1] - range[0] < 4 ? zoom.range : range[0] <= 0 && range[1] >= cursor.last ? null : range);
  }, { passive: false });
  const endZoom = zoom.follow(() => plot.setScale("x", { min: zoom.range ? zoom.range[0] : 0, max: zoom.range ? zoom.range[1] : Math.max(1, cursor.last) }));
  return () => {
    end();
    endZoom();
  };
}

// One plot with its values at the cursor. curves: [{ name, label, values(), at(step), ... }]
export function Panel({ title, x, curves, cursor, zoom, height = 84, version, marks, onExact, hasNoX }) {
  const legend = useRef(null);
  const ended = useRef(null);
  const [hidden, setHidden] = useState(() => new Set(curves.slice(SHOWN).map((one) => one.name)));
  const shown = curves.filter((one) => !hidden.has(one.name));
  const series = useMemo(() => shown.map((one) => ({
    label: one.label, values: one.values(), index: one.index, stroke: one.stroke, stepped: one.stepped, width: one.width,
  })), [version, [...hidden].join()]);
  useEffect(() => {
    function write(step) {
      if (!legend.current) return;
      for (const element of legend.current.querySelectorAll("[data-name]")) {
        const curve = curves.find((one) => one.name === element.dataset.name);
        const text = number(curve.at(step));
        if (element.textContent !== text) element.textContent = text;
      }
    }
    const end = cursor.follow(write);
    const endExact = onExact ? onExact(() => write(cursor.step)) : null;
    return () => {
      end();
      if (endExact) endExact();
    };
  }, [version, curves.length]);
  function toggle(name) {
    setHidden((before) => {
      const after = new Set(before);
      if (after.has(name)) after.delete(name);
      else after.add(name);
      return after;
    });
  }
  return html`<section class="panel plot-panel" aria-label=${title}>
    <div class="legend-row"><h3>${title}</h3><ul class="legend" ref=${legend}>${curves.map((one) => html`<li key=${one.name} class=${hidden.has(one.name) ? "off" : ""}>
      <button type="button" class="plain" aria-pressed=${hidden.has(one.name) ? "false" : "true"} title=${one.name} onClick=${() => toggle(one.name)} disabled=${curves.length === 1}>
        ${curves.length === 1 ? "" : html`<i style=${{ background: `var(--line-${(one.index || 0) % 8})` }}></i>${one.label}`}<b data-name=${one.name} class="tabular"></b></button></li>`)}</ul></div>
    <${Plot} key=${[...hidden].join()} label=${`${title} over the episode`} x=${x} series=${series} height=${hasNoX ? height - 14 : height + 8} hasNoX=${hasNoX} marks=${marks}
      range=${() => zoom.range || [0, Math.max(1, cursor.last)]}
      onReady=${(plot) => {
        if (ended.current) ended.current();
        ended.current = plot ? attach(plot, cursor, zoom) : null;
      }} />
  </section>`;
}

export function Panels({ columns, cursor, zoom, envId }) {
  const [isAll, setAll] = useState(false);
  const [range, setRange] = useState(zoom.range);
  useEffect(() => zoom.follow(() => setRange(zoom.range)), []);
  const view = columns.view(range);
  const version = `${columns.version} ${view.first} ${view.stop} ${view.group}`;
  const x = useMemo(() => columns.steps(view), [version]);
  function curve(name, label, more = {}) {
    return { name, label, values: () => columns.curve(name, view), at: (step) => columns.at(name, step), ...more };
  }
  const panels = [];
  if (columns.columns.has("return")) panels.push(["return", [curve("return", "return", { index: 0 })]]);
  if (columns.columns.has("reward")) panels.push(["reward", [curve("reward", "reward", { index: 0 })]]);
  const balance = useMemo(() => balanceOf(columns, envId, view), [version]);
  if (balance) panels.push(["balance", balance]);
  for (const [base, found] of columns.panels()) {
    if (balance && base === "info_balance") continue;
    const title = base.replace(/^annotation_/, "").replace(/^info_/, "info ");
    panels.push([title, found.map((one, index) => curve(one.name, one.name.slice(base.length).replace(/^_/, "") || title, { index, stepped: one.kind === "choice" }))]);
  }
  const shown = isAll ? panels : panels.slice(0, MOST_PANELS);
  return html`<div class="panels">
    ${shown.map(([title, curves], at) => html`<${Panel} key=${title} height=${title === "balance" ? 150 : undefined} hasNoX=${at < shown.length - 1} title=${title} x=${x} curves=${curves} cursor=${cursor} zoom=${zoom} version=${version} onExact=${(listener) => columns.onExact(listener)} />`)}
    ${panels.length > shown.length ? html`<p><button type="button" onClick=${() => setAll(true)}>show ${panels.length - shown.length} more ${panels.length - shown.length === 1 ? "plot" : "plots"}</button></p>` : null}
    <p class="quiet hint">Drag in a plot to move; Ctrl and the wheel zoom, a double click shows all.</p>
  </div>`;
}

const LOWEST_DEMAND = 12;
const WINDOW = 3;

// jamboree/Balance: what the agent cannot see. The balance before a step is the sum of three actions.
function balanceOf(columns, envId, view) {
  if (!/^jamboree\/Balance/.test(envId || "") || columns.every > 1) return null;
  const action = columns.columns.get("action");
  const demand = columns.columns.get("observation");
  if (!action || !demand) return null;
  const balance = new Float32Array(columns.rows);
  for (let step = 0; step < balance.length; step += 1) {
    for (let back = 1; back <= WINDOW && back <= step; back += 1) balance[step] += action.values[step - back] || 0;
  }
  const total = balance.map((one, step) => one + action.values[step]);
  const wanted = demand.values.map((one) => one + LOWEST_DEMAND);
  const curve = (name, values, more) => ({ name, label: name, values: () => drawn(values, values, view), at: (step) => values[step], stepped: true, ...more });
  return [curve("balance", balance, { index: 0, width: 2 }), curve("balance + value", total, { index: 2 }), curve("demand", wanted, { index: 1 })];
}
