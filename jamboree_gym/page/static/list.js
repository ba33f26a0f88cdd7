// A table of any length: only the rows that are seen exist, and only their parts are asked for.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor.js";

export const PART = 100;
const MORE = 6;
const [HEAD, TWO_LINES] = [28, 40]; // height of the names of the columns

export function VirtualTable({ label, columns, total, rowHeight = 30, version, part, row, height, sort, onSort, rowClass, focusRow, compact }) {
  // part(start, count, signal) -> rows; row(item, index) -> cells in the order of the columns.
  const box = useRef(null);
  const head = compact ? TWO_LINES : HEAD;
  const parts = useRef(new Map());
  const [top, setTop] = useState(0);
  const [seen, setSeen] = useState(400);
  const [, redraw] = useState(0);
  const first = Math.max(0, Math.floor(top / rowHeight) - MORE);
  const last = Math.min(total, Math.ceil((top + seen) / rowHeight) + MORE);

  const known = useRef(version);
  if (known.current !== version) {
    known.current = version;
    for (const one of parts.current.values()) one.isOld = true;
  }

  useEffect(() => {
    const control = new AbortController();
    for (let at = Math.floor(first / PART); at * PART < last; at += 1) {
      const held = parts.current.get(at);
      if (held && !held.isOld) continue;
      Promise.resolve(part(at * PART, PART, control.signal)).then(
        (rows) => {
          parts.current.set(at, { rows, isOld: false });
          if (parts.current.size > 40) parts.current.delete(parts.current.keys().next().value);
          redraw((one) => one + 1);
        },
        () => {},
      );
    }
    return () => control.abort();
  }, [version, Math.floor(first / PART), Math.ceil(last / PART), total]);

  useLayoutEffect(() => {
    const element = box.current;
    const sized = new ResizeObserver(() => setSeen(element.clientHeight));
    sized.observe(element);
    return () => sized.disconnect();
  }, []);

  useLayoutEffect(() => {
    if (focusRow === null || focusRow === undefined) return;
    const element = box.current;
    const at = focusRow * rowHeight;
    if (at < element.scrollTop || at + head + 2 * rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = Math.max(0, at - element.clientHeight / 2);
    }
  }, [focusRow]);

  const shown = [];
  for (let index = first; index < last; index += 1) {
    const held = parts.current.get(Math.floor(index / PART));
    const item = held && held.rows[index % PART];
    const isHere = item !== undefined;
    const cells = isHere ? row(item, index) : columns.map(() => "");
    const own = isHere && rowClass ? rowClass(item, index) : "";
    shown.push(html`<div role="row" class=${`row ${own} ${isHere ? "" : "waits"}`} key=${index} aria-rowindex=${index + 2} data-row=${index}
      style=${{ transform: `translateY(${index * rowHeight}px)`, height: `${rowHeight}px` }}>
      ${cells.map((cell, at) => html`<div role="cell" class=${`cell ${columns[at].kind || ""} ${columns[at].wide ? "roomy" : ""}`}>${cell}</div>`)}</div>`);
  }
  const template = columns.map((one) => one.width || "minmax(80px, 1fr)").join(" ");
  const narrow = columns.filter((one) => !one.wide).map((one) => one.narrow || one.width || "minmax(0, 1fr)").join(" ");
  return html`<div class=${`table ${compact ? "compact" : ""}`} role="table" aria-label=${label} aria-rowcount=${total + 1}
    style=${{ "--columns": template, "--narrow": narrow, "--head": `${head}px` }}>
    <div class="body" role="rowgroup" ref=${box} tabindex="0" aria-label=${label} style=${{ height: height || `${Math.min(total, 14) * rowHeight + head}px` }}
      onScroll=${(event) => setTop(event.target.scrollTop)}>
      <div class="head row" role="row" aria-rowindex="1">${columns.map((one) => Head({ one, sort, onSort }))}</div>
      <div role="presentation" style=${{ height: `${total * rowHeight}px` }}></div>${shown}</div>
  </div>`;
}

function Head({ one, sort, onSort }) {
  const isSorted = sort && one.sort && sort.replace("-", "") === one.sort;
  const direction = isSorted ? (sort.startsWith("-") ? "descending" : "ascending") : "none";
  const mark = isSorted ? (direction === "descending" ? " ↓" : " ↑") : "";
  const next = isSorted && direction === "descending" ? one.sort : `-${one.sort}`;
  return html`<div role="columnheader" key=${one.name} title=${one.title} class=${`cell ${one.kind || ""} ${one.wide ? "roomy" : ""}`} aria-sort=${one.sort ? direction : undefined}>
    ${one.sort && onSort ? html`<button type="button" class="plain" onClick=${() => onSort(next)}>${one.name}${mark}</button>` : broken(one.name)}</div>`;
}

// A long name may be broken behind its underscores.
function broken(name) {
  return name.split(/(?<=_)/).map((part) => html`${part}<wbr />`);
}
