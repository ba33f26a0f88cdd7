// One run: its curves, what stands out, and all of its episodes.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { ask, watch } from "./api.js";
import { ago, brief, count, duration, learn, meanReturn, number, returned, short, time } from "./format.js";
import { RunCurves, axisOf } from "./curves.js";
import { PART, VirtualTable } from "./list.js";
import { Choice, Empty, Id, Loading, Problem, Stat, State, TextField, Values, useAnswer } from "./parts.js";
import { Plot } from "./plot.js";
import { go, href, set } from "./route.js";

export function Run({ values }) {
  const name = values.run;
  const { value: run, error, setValue, again } = useAnswer("run", { run: name });
  useEffect(() => {
    document.title = `${name} · jamboree`;
    return watch({ of: "run", run: name }, (change) => setValue((before) => (before ? { ...before, ...change } : before)), again);
  }, [name]);
  if (!run && error) {
    return html`<main class="shell">${error.status === 404 ? html`<${Empty} title="There is no such run"><p>${error.message}</p><p><a href="/">All runs</a></p></${Empty}>` : html`<${Problem} error=${error} />`}</main>`;
  }
  return html`<main class="shell">
    ${run ? html`<${About} name=${name} run=${run} values=${values} />` : html`<div class="waiting"><div class="title"><h1>${name}</h1></div><${Loading} what="the whole run" /></div>`}
    <${Episodes} name=${name} run=${run || UNREAD} values=${values} />
  </main>`;
}

const UNREAD = { version: 0, flagged: 0, forks: 0 };

function About({ name, run, values }) {
  learn(run.running);
  return html`<div class="title"><h1>${run.name}</h1><${State} state=${run.state} />
      <span class="quiet">${run.env_ids.join(", ")}</span>
      ${Object.entries(run.tags).map(([tag, value]) => html`<span class="tag" key=${tag}>${tag}=${String(value)}</span>`)}</div>
    <dl class="stats">
      <${Stat} name="episodes" value=${count(run.episodes)} />
      <${Stat} name="steps" value=${short(run.steps)} title=${count(run.steps)} />
      <${Stat} name="steps/s" value=${run.state === "running" ? count(Math.round(run.steps_per_s)) : "–"} />
      <${Stat} name="mean return" value=${meanReturn(run)} title="of the newest ten episodes that reached their end" />
      <${Stat} name="last seen" value=${ago(run.last_step_at)} title=${time(run.last_step_at)} />
      <${Stat} name="began" value=${time(run.began_at)} />
      ${run.running ? html`<${Stat} name="running" value=${html`<a href=${href("/episode", { id: run.running.id })}>follow <${Id} id=${run.running.id} /></a>`} />` : null}
    </dl>
    <div class="split">
      <div class="main"><section class="panel" aria-label="Curves"><${RunCurves} name=${name} axis=${axisOf(values)} onAxis=${(axis) => set({ axis })} version=${run.version} marks=${run.marks} /></section>
        ${run.sessions.length ? html`<${Metrics} run=${run} />` : null}</div>
      <div class="side">
        <${Outliers} run=${run} />
        <${Distribution} run=${run} />
        <${Training} run=${run} />
      </div>
    </div>`;
}

function Outliers({ run }) {
  const { outliers } = run;
  const { value, again } = useAnswer("surprise", { run: run.name });
  useEffect(() => { if (value) again(); }, [run.version]);
  if (!outliers.longest) return null;
  const surprise = value && value.surprise;
  learn(surprise, ...Object.values(outliers));
  const lines = [["best", (one) => returned(one)], ["worst", (one) => returned(one)], ["longest", (one) => `${count(one.steps)} steps`]];
  return html`<section class="panel" aria-label="Outliers"><h2>Outliers</h2><ul class="lines">
    ${lines.filter(([name]) => outliers[name]).map(([name, shown]) => html`<li key=${name}><a href=${href("/episode", { id: outliers[name].id })}><span>${name}</span><b>${shown(outliers[name])}</b><${Id} id=${outliers[name].id} /></a></li>`)}
    ${surprise ? html`<li title="the value that the agent was most wrong about, as the next step showed; among the newest 200 episodes"><a href=${href("/episode", { id: surprise.id, step: surprise.step })}>
      <span>surprise</span><b>value off by ${number(surprise.error, 3)} <span class="quiet">at step ${count(surprise.step)}</span></b><${Id} id=${surprise.id} /></a></li>` : null}</ul>
    ${outliers.best ? null : html`<p class="quiet">No return is one number: the best is for you to say, as by <code>return_0 > 5</code> below.</p>`}</section>`;
}

function Distribution({ run }) {
  const [of, setOf] = useState(run.returns.counts.length ? "returns" : "lengths");
  const { edges, counts } = run[of];
  const parts = useMemo(() => {
    const middle = counts.map((_, at) => (edges[at] + edges[at + 1]) / 2);
    return { middle, series: [{ label: "episodes", values: counts, index: 0 }] };
  }, [of, edges, counts]);
  if (!counts.length) return null;
  return html`<section class="panel" aria-label="Distribution">
    <div class="toolbar tight"><h2>Distribution</h2><span class="spacer"></span><${Choice} label="Distribution of" value=${of} choices=${[["returns", "return"], ["lengths", "length"]]} onChoice=${setOf} /></div>
    ${counts.length === 1 ? html`<p class="quiet">All episodes have ${number((edges[0] + edges[1]) / 2)}.</p>`
      : html`<${Plot} key=${of} label=${`Distribution of ${of}`} x=${parts.middle} series=${parts.series} height=${110} bars=${true} yRange=${(_, low, high) => [0, (high || 1) * 1.08]} />`}
    <p class="quiet statuses">${Object.entries(run.statuses).map(([status, times]) => html`<span key=${status}><${State} state=${status} /> ${count(times)}</span>`)}</p>
  </section>`;
}

function Training({ run }) {
  if (!run.sessions.length && !run.checkpoints.length) return null;
  return html`<section class="panel" aria-label="Training"><h2>Training</h2>
    <ul class="lines">${run.sessions.slice(-4).map((one) => html`<li key=${one.began_at}><span title=${time(one.began_at)}>${ago(one.began_at)}</span><b>steps ${short(one.timesteps_from) || "0"} to ${short(one.timesteps_to) || "–"}</b><${State} state=${one.how} /></li>`)}</ul>
    ${run.checkpoints.length ? html`<p class="quiet">${run.checkpoints.length === 1 ? "1 checkpoint," : `${count(run.checkpoints.length)} checkpoints, the newest`} ${ago(run.checkpoints[run.checkpoints.length - 1].at)}</p>` : null}
    ${run.training ? html`<details><summary>hyperparameters</summary><div class="scroll" tabindex="0" role="region" aria-label="Hyperparameters"><${Values} values=${run.training} /></div></details>` : null}
  </section>`;
}

const METRICS_EVERY_MS = 5000;
const METRICS_ORDER = ["rollout", "eval", "train"]; // then what is the user's own, the clock last

function rank(metric) {
  const group = metric.split("/")[0];
  const at = METRICS_ORDER.indexOf(group);
  if (group === "time") return METRICS_ORDER.length + 1;
  return at < 0 ? METRICS_ORDER.length : at;
}

function Metrics({ run }) {
  const { value, error, again } = useAnswer("metrics", { run: run.name });
  const asked = useRef(Date.now());
  useEffect(() => {
    if (!value || Date.now() < asked.current + METRICS_EVERY_MS) return;
    asked.current = Date.now();
    again();
  }, [run.version]);
  const found = value ? Object.entries(value.metrics).sort(([a], [b]) => rank(a) - rank(b)) : [];
  return html`<section class="panel" aria-label="Metrics"><h2>Metrics <span class="quiet">over the steps of the training</span></h2>
    ${error ? html`<${Problem} error=${error} />` : null}
    ${!value && !error ? html`<${Loading} what="metrics" />` : null}
    ${value && !found.length ? html`<p class="quiet">None. With Stable-Baselines3, JamboreeCallback records the metrics of a training.</p>` : null}
    <div class="metrics" tabindex="0" role="group" aria-label="Curves of metrics">${found.map(([metric, curve]) => html`<div key=${metric}>
      <h3>${metric} <b class="tabular">${number(curve.y[curve.y.length - 1])}</b></h3>
      <${Plot} label=${metric} x=${curve.x} series=${[{ label: metric, values: curve.y, index: 0, points: curve.y.length < 30 }]} height=${84} /></div>`)}</div></section>`;
}

const COLUMNS = [
  { name: "#", kind: "num", width: "64px", wide: true },
  { name: "episode", width: "minmax(180px, 1.2fr)", narrow: "150px" },
  { name: "status", width: "minmax(92px, 1fr)", narrow: "88px", sort: "status" },
  { name: "return", kind: "num", width: "minmax(84px, 1fr)", narrow: "minmax(0, 1.2fr)", sort: "episode_return" },
  { name: "steps", kind: "num", width: "minmax(60px, .8fr)", narrow: "minmax(0, 1fr)", sort: "steps" },
  { name: "took", kind: "num", width: "minmax(70px, .8fr)", sort: "elapsed_s", wide: true },
  { name: "seed", kind: "num", width: "minmax(70px, .8fr)", sort: "seed", wide: true },
  { name: "began", kind: "num", width: "minmax(150px, 1.2fr)", sort: "started_at", wide: true },
];
const STATUSES = ["", "running", "terminated", "truncated", "abandoned", "interrupted"];

function Episodes({ name, run, values }) {
  const asked = { run: name, where: values.where, status: values.status, flagged: values.flagged === "1", forks: values.forks === "1", sort: values.sort || "-started_at" };
  const key = JSON.stringify(asked);
  const [state, setState] = useState({ total: null, version: 0, rows: [] });
  const [problem, setProblem] = useState(null);
  const [chosen, setChosen] = useState([]);
  useEffect(() => {
    const control = new AbortController();
    ask("episodes", { ...asked, count: PART }, { signal: control.signal }).then(
      (found) => {
        setProblem(null);
        learn(...found.episodes);
        setState({ total: found.total, version: `${key} ${found.version} ${found.total}`, rows: found.episodes });
      },
      (error) => error.name !== "AbortError" && setProblem(error),
    );
    return () => control.abort();
  }, [key, run.version, run.flagged]);
  async function part(start, length, signal) {
    if (start === 0) return state.rows; // they came with the number of all
    const found = await ask("episodes", { ...asked, start, count: length }, { signal });
    learn(...found.episodes);
    return found.episodes;
  }
  function choose(id) {
    setChosen((before) => (before.includes(id) ? before.filter((one) => one !== id) : [...before, id].slice(-2)));
  }
  return html`<section class="panel" aria-label="Episodes">
    <div class="toolbar tight"><h2>Episodes</h2>
      <span class="quiet tabular">${state.total === null ? "" : count(state.total)}</span>
      <${TextField} wide label="Filter: an expression over the columns" placeholder="episode_return < 20 and steps > 5" value=${values.where} invalid=${Boolean(problem)} onText=${(where) => set({ where })} />
      <label class="quiet">status <select value=${values.status || ""} onChange=${(event) => set({ status: event.target.value })}>
        ${STATUSES.map((one) => html`<option value=${one} key=${one} selected=${(values.status || "") === one}>${one || "any"}</option>`)}</select></label>
      <label class="quiet"><input type="checkbox" checked=${values.flagged === "1"} onChange=${(event) => set({ flagged: event.target.checked })} /> flagged (${run.flagged})</label>
      ${run.forks ? html`<label class="quiet"><input type="checkbox" checked=${values.forks === "1"} onChange=${(event) => set({ forks: event.target.checked })} /> with forks (${run.forks})</label>` : null}
      <span class="spacer"></span>
      <button type="button" title="tick two episodes first" disabled=${chosen.length !== 2} onClick=${() => go("/compare", { a: chosen[0], b: chosen[1] })}>compare two</button>
    </div>
    ${problem ? html`<p class="problem" role="alert">${problem.message}</p>` : null}
    ${state.total === 0 && !problem ? html`<p class="quiet">No episode matches. Columns: episode_return, steps, status, seed, elapsed_s, tag_…</p>` : null}
    ${state.total ? html`<${VirtualTable} label="Episodes" columns=${COLUMNS} total=${state.total} version=${state.version} part=${part} sort=${asked.sort} onSort=${(sort) => set({ sort })}
      row=${(one) => [
        html`<span class="quiet">${count(one.number)}</span>`,
        html`<input type="checkbox" aria-label=${`Choose ${brief(one.id)} to compare`} checked=${chosen.includes(one.id)} onChange=${() => choose(one.id)} /> <a href=${href("/episode", { id: one.id })}><${Id} id=${one.id} /></a>${one.flagged ? html`<span class="flag" title="flagged" role="img" aria-label="flagged">⚑</span>` : null}`,
        html`<${State} state=${one.status} />`,
        returned(one, 5), count(one.steps), duration(one.elapsed_s), one.seed ?? "–", time(one.started_at),
      ]} />` : null}
  </section>`;
}
