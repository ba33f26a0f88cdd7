// The numbers of an episode, as the server packs them (jamboree_gym/page/columns.py).
import { askBytes } from "./api.js";

const EXACT = 2048;
const LONG_PAUSE_MS = 5000;
const MOST_VALUES = 1250000; // 4 bytes each: as the server, MAX_BYTES in jamboree_gym/page/columns.py
const MOST_POINTS = 2048; // of a curve that is drawn

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const perColumn = header.every === 1 ? header.rows : 2 * Math.ceil(header.rows / header.every);
  let at = 4 + length;
  const columns = new Map();
  for (const one of header.columns) {
    columns.set(one.name, { ...one, values: new Float32Array(buffer, at, perColumn) });
    at += 4 * perColumn;
  }
  return { ...header, columns };
}

// More rows for a column that grows, in a store that has room for some more of them.
function extend(column, start, rows) {
  if (!column.room || column.room.length < rows) {
    const room = new Float32Array(Math.ceil(1.5 * rows) + 64);
    room.set(column.values.subarray(0, start));
    column.room = room;
  }
  column.room.fill(NaN, start, rows);
  column.values = column.room.subarray(0, rows);
}

export class Columns {
  constructor(id, mostValues = MOST_VALUES) {
    this.id = id;
    this.mostValues = mostValues;
    this.total = 0;
    this.every = 1;
    this.columns = new Map(); // name -> { name, group, kind, values }
    this.exact = new Map(); // parts of EXACT steps of a long episode
    this.version = 0;
    this.earned = 0;
    this.mayLoadAt = 0;
    this.listeners = new Set();
  }

  async load(signal) {
    const found = unpack(await askBytes("columns", { id: this.id }, { signal }));
    this.total = found.total;
    this.every = found.every;
    this.columns = found.columns;
    // The newest part had fewer steps when it came.
    for (const [number, part] of this.exact) if (part.columns && part.rows <= EXACT) this.exact.delete(number);
    if (this.every === 1) this.derive(0);
    this.version += 1;
  }

  // How many columns came from the server.
  get sent() {
    return this.columns.size - (this.columns.has("return") ? 1 : 0);
  }

  // What was recorded since; only that is asked for. A long episode comes whole, so seldom: the
  // server makes it fit, and the exact numbers of all its steps are given up.
  async grow(signal) {
    if (this.every > 1 || this.rows * this.sent > this.mostValues) {
      await new Promise((done) => setTimeout(done, this.mayLoadAt - performance.now()));
      if (signal && signal.aborted) return;
      const began = performance.now();
      await this.load(signal);
      this.mayLoadAt = performance.now() + Math.max(LONG_PAUSE_MS, 20 * (performance.now() - began));
      return;
    }
    const start = this.total;
    const found = unpack(await askBytes("columns", { id: this.id, start }, { signal }));
    if (found.total <= start) return;
    const rows = found.start + found.rows;
    for (const one of found.columns.values()) {
      if (!this.columns.has(one.name)) this.columns.set(one.name, { ...one, values: new Float32Array(0) });
    }
    for (const one of this.columns.values()) {
      if (one.group === "derived") continue;
      extend(one, start, rows);
      const more = found.columns.get(one.name);
      if (more) one.values.set(more.values, start);
    }
    this.total = found.total;
    this.derive(start);
    this.version += 1;
  }

  // The cumulative return: of step k, what was earned before it.
  derive(start) {
    const reward = this.columns.get("reward");
    if (!reward) return;
    if (!this.columns.has("return")) this.columns.set("return", { name: "return", group: "derived", kind: "number", values: new Float32Array(0) });
    const earned = this.columns.get("return");
    const first = earned.values.length ? start : 0;
    extend(earned, first, reward.values.length);
    let sum = first ? this.earned : 0;
    for (let at = first; at < reward.values.length; at += 1) {
      earned.values[at] = sum;
      if (!Number.isNaN(reward.values[at])) sum += reward.values[at];
    }
    this.earned = sum; // of the newest row no reward is known yet
  }

  get rows() {
    return this.total + 1;
  }

  // A value at a step; NaN while it is not here yet.
  at(name, step) {
    const column = this.columns.get(name);
    if (!column) return NaN;
    if (this.every === 1) return column.values[step];
    const part = this.exact.get(Math.floor(step / EXACT));
    if (part && part.columns) {
      const found = part.columns.get(name);
      return found ? found.values[step - part.start] : NaN;
    }
    this.fetchExact(Math.floor(step / EXACT));
    return NaN;
  }

  fetchExact(number) {
    if (this.exact.has(number)) return;
    this.exact.set(number, {});
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      const start = number * EXACT;
      try {
        const bytes = await askBytes("columns", { id: this.id, start, stop: Math.min(start + EXACT, this.total) });
        this.exact.set(number, unpack(bytes));
        if (this.exact.size > 32) this.exact.delete(this.exact.keys().next().value);
        for (const listener of this.listeners) listener();
      } catch {
        this.exact.delete(number);
      }
    }, 80);
    for (const [one, part] of this.exact) if (one !== number && !part.columns) this.exact.delete(one);
  }

  onExact(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  // What is drawn between two steps (null = all): from which row to which, and how many rows are
  // one point. It is a little more than was asked for, so that a small move changes nothing.
  view(range) {
    const count = Math.ceil(this.rows / this.every);
    if (count * (this.every === 1 ? 1 : 2) <= MOST_POINTS) return { first: 0, stop: count, group: 1 };
    const [low, high] = range || [0, this.total];
    const seen = Math.min(count, Math.ceil((high - low) / this.every) + 1);
    let group = 1;
    while ((2 * seen) / group > MOST_POINTS) group *= 2;
    const part = 64 * group;
    const first = part * Math.max(0, Math.floor(low / this.every / part) - 1);
    const stop = Math.min(count, part * (Math.ceil(high / this.every / part) + 1));
    return { first, stop, group };
  }

  // The steps of a view's points.
  steps(view) {
    const isExact = this.every === 1 && view.group === 1;
    const size = this.every * view.group;
    const count = Math.ceil((view.stop - view.first) / view.group) * (isExact ? 1 : 2);
    const start = view.first * this.every;
    return Float64Array.from({ length: count }, (_, at) => start + (isExact ? at : (at * size) / 2));
  }

  // The values of a view's points. If a point is more than one step there are two, the lowest and
  // the highest value.
  curve(name, view) {
    const { values } = this.columns.get(name);
    if (this.every === 1) return drawn(values, values, view);
    const half = values.length / 2;
    return drawn(values.subarray(0, half), values.subarray(half), view);
  }

  // The columns of the reward: several where it is several numbers.
  rewards() {
    return [...this.columns.keys()].filter((one) => /^reward(_\d+)*$/.test(one));
  }

  // Curves that belong together: those whose names differ in their last number.
  panels() {
    const found = new Map();
    for (const one of this.columns.values()) {
      if (["timestamp", "terminated", "truncated", "reward", "return"].includes(one.name)) continue;
      const base = one.group === "info" ? one.name : one.name.replace(/(_\d+)+$/, "");
      if (!found.has(base)) found.set(base, []);
      found.get(base).push(one);
    }
    const order = ["annotation", "action", "observation", "info", "step"];
    const place = ([base, [first]]) => (base === "reward" ? -1 : order.indexOf(first.group)); // of several numbers
    return [...found].sort((a, b) => place(a) - place(b));
  }
}

// NaN is a gap in a plot.
export function gaps(values) {
  const found = new Array(values.length);
  for (let at = 0; at < values.length; at += 1) found[at] = Number.isNaN(values[at]) ? null : values[at];
  return found;
}

// The points of a view (`Columns.view`), of the lowest and the highest values of each row.
export function drawn(lowest, highest, { first, stop, group }) {
  if (group === 1 && lowest === highest) return gaps(lowest.subarray(first, stop));
  const found = new Array(2 * Math.ceil((stop - first) / group));
  for (let point = 0; 2 * point < found.length; point += 1) {
    let low = NaN;
    let high = NaN;
    const end = Math.min(stop, first + (point + 1) * group);
    for (let row = first + point * group; row < end; row += 1) {
      if (!(lowest[row] >= low)) low = Number.isNaN(lowest[row]) ? low : lowest[row];
      if (!(highest[row] <= high)) high = Number.isNaN(highest[row]) ? high : highest[row];
    }
    found[2 * point] = Number.isNaN(low) ? null : low;
    found[2 * point + 1] = Number.isNaN(high) ? null : high;
  }
  return found;
}
