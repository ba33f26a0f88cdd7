// Two episodes over each other, and where they part.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { Columns, gaps } from "./columns.js";
import { Cursor, Zoom } from "./cursor.js";
import { brief, count, learn, returned } from "./format.js";
import { Panel } from "./panels.js";
import { Empty, Id, Loading, Problem, State, useAnswer } from "./parts.js";
import { href, set } from "./route.js";

const MOST = 12;

export function Compare({ values }) {
  const { value: found, error } = useAnswer("compare", { a: values.a, b: values.b });
  const cursor = useMemo(() => new Cursor(Number(values.step) || 0), []);
  const zoom = useMemo(() => new Zoom(), []);
  const [both, setBoth] = useState(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    document.title = `${brief(values.a)} and ${brief(values.b)} · jamboree`;
    if (!found) return undefined;
    const control = new AbortController();
    const loaded = [found.a.id, found.b.id].map((id) => new Columns(id));
    Promise.all(loaded.map((one) => one.load(control.signal))).then(() => {
      cursor.last = Math.max(loaded[0].total + found.a.offset, loaded[1].total + found.b.offset);
      if (!values.step && found.divergence) cursor.go(Math.max(0, found.divergence.step));
      setBoth(loaded);
    }, (one) => one.name !== "AbortError" && setProblem(one));
    return () => control.abort();
  }, [found]);
  useEffect(() => {
    let written = 0;
    const end = cursor.follow((step) => {
      clearTimeout(written);
      written = setTimeout(() => set({ step }, { quiet: true }), 250);
    });
    return () => {
      end();
      clearTimeout(written);
    };
  }, []);
  useEffect(() => {
    function key(event) {
      if (event.target.matches("input, select, textarea")) return;
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      cursor.go(cursor.step + move * (event.shiftKey ? 10 : 1));
    }
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  if (error && !found) return html`<main class="shell">${error.status === 404 ? html`<${Empty} title="There is no such episode"><p>${error.message}</p></${Empty}>` : html`<${Problem} error=${error} />`}</main>`;
  if (!found) return html`<main class="shell"><${Loading} what="both episodes" /></main>`;
  learn(found.a, found.b);
  const sides = [["a", found.a], ["b", found.b]];
  return html`<main class="shell">
    <div class="title"><h1>Two episodes</h1><${Verdict} found=${found} cursor=${cursor} zoom=${zoom} /></div>
    <table class="runs sides"><thead><tr><th scope="col"></th><th scope="col">episode</th><th scope="col">run</th><th scope="col">status</th><th scope="col" class="num">return</th><th scope="col" class="num">steps</th><th scope="col" class="num roomy">seed</th></tr></thead>
      <tbody>${sides.map(([name, one], at) => html`<tr key=${name}><td><i class="swatch" style=${{ background: `var(--line-${at})` }}></i> ${name}</td><td><a href=${href("/episode", { id: one.id })}><${Id} id=${one.id} /></a></td><td><a href=${href("/run", { run: one.run })}>${one.run}</a></td><td><${State} state=${one.status} /></td><td class="num">${returned(one, 6)}</td><td class="num">${count(one.steps)}</td><td class="num roomy">${one.seed ?? "–"}</td></tr>`)}</tbody></table>
    ${problem ? html`<${Problem} error=${problem} />` : null}
    ${both ? html`<${Overlaid} both=${both} found=${found} cursor=${cursor} zoom=${zoom} />` : html`<${Loading} what="steps" />`}
  </main>`;
}

function Verdict({ found, cursor, zoom }) {
  if (!found.divergence) return html`<span class="good">all ${count(found.common_steps)} steps are equal, bit for bit</span>`;
  return html`<span>the first <b class="tabular">${count(found.common_steps)}</b> steps are equal; then <code>${found.divergence.text}</code></span>
    <button type="button" class="small" onClick=${() => { const at = Math.max(0, found.divergence.step); cursor.go(at); zoom.set([Math.max(0, at - 25), Math.min(cursor.last, at + 50)]); }}>go there</button>`;
}

function Overlaid({ both, found, cursor, zoom }) {
  const place = useRef(null);
  useEffect(() => cursor.follow((step) => { place.current.textContent = `step ${count(step)} of ${count(cursor.last)}`; }), []);
  const offsets = [found.a.offset, found.b.offset];
  // What came before a fork earned, too: known where the other one has those steps.
  const earned = offsets.map((offset, side) => {
    const ahead = offset - offsets[1 - side];
    return ahead > 0 && found.common_steps >= offset ? both[1 - side].at("return", ahead) || 0 : 0;
  });
  const isLong = both.some((one) => one.every > 1);
  const panels = useMemo(() => {
    const names = [...new Set(both.flatMap((one) => [...one.columns.keys()]))].filter((one) => !["timestamp", "terminated", "truncated"].includes(one));
    names.sort((one, other) => rank(one) - rank(other));
    return names.slice(0, MOST).map((name) => {
      const x = Array.from({ length: cursor.last + 1 }, (_, at) => at);
      const curves = both.map((columns, side) => ({
        name: `${side ? "b" : "a"} ${name}`, label: side ? "b" : "a", index: side, width: side ? 1.25 : 2,
        values: () => shifted(columns, name, offsets[side], cursor.last + 1, name === "return" ? earned[side] : 0),
        at: (step) => columns.at(name, step - offsets[side]) + (name === "return" ? earned[side] : 0),
        stepped: columns.columns.get(name)?.kind === "choice",
      }));
      return { name, x, curves };
    });
  }, [both]);
  if (isLong) return html`<p class="quiet">These episodes are too long to be drawn over each other. <code>jamboree-gym diff A B</code> says where they part.</p>`;
  const marks = found.divergence ? [Math.max(0, found.divergence.step)] : [];
  return html`<p class="quiet"><span class="tabular" ref=${place}></span>${marks.length ? html`. <span class="dash"></span>the first step that differs` : ""}${offsets.some(Boolean) ? ". Here steps and returns count from the reset. In the table, those of a fork count from the step where it was forked." : ""}</p>
    <div class="panels two">${panels.map((one) => html`<${Panel} key=${one.name} title=${one.name.replace(/^annotation_/, "").replace(/^info_/, "info ")} x=${one.x} curves=${one.curves} cursor=${cursor} zoom=${zoom} version=${1} marks=${marks} />`)}</div>`;
}

function rank(name) {
  const order = ["return", "reward", "action", "annotation", "observation", "info"];
  const at = order.findIndex((one) => name.startsWith(one));
  return at < 0 ? order.length : at;
}

// The values of one side over the steps from the common reset on.
function shifted(columns, name, offset, length, more) {
  const column = columns.columns.get(name);
  const found = new Array(length).fill(null);
  if (column) gaps(column.values).forEach((one, at) => { if (at + offset < length) found[at + offset] = one === null ? null : one + more; });
  return found;
}
