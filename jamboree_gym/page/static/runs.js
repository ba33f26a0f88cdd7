// All runs, live; up to five of them compared.
import { html, useEffect, useState } from "./vendor.js";
import { watch } from "./api.js";
import { ago, count, meanReturn, short } from "./format.js";
import { Empty, Loading, Problem, Spark, State, TextField, useAnswer } from "./parts.js";
import { href, set } from "./route.js";
import { ReturnCurves, axisOf } from "./curves.js";

const MOST = 5;

export function Runs({ values }) {
  const filter = { text: values.text, env: values.env, tag: values.tag };
  const { value, error, setValue, again } = useAnswer("runs", filter);
  const compared = (values.compare || "").split("\n").filter(Boolean);
  const key = JSON.stringify(filter);

  useEffect(() => {
    document.title = "runs · jamboree";
    return watch({ of: "runs", ...filter }, (change) => setValue((before) => merged(before, change)), again);
  }, [key]);

  const isFiltered = Object.values(filter).some(Boolean);
  function choose(name) {
    const left = compared.includes(name) ? compared.filter((one) => one !== name) : [...compared, name].slice(-MOST);
    set({ compare: left.join("\n") });
  }
  return html`<main class="shell">
    <div class="toolbar">
      <h1>Runs</h1>
      <${TextField} label="Filter by name" placeholder="name" value=${values.text} onText=${(text) => set({ text })} />
      <${TextField} label="Filter by environment" placeholder="environment" value=${values.env} onText=${(env) => set({ env })} />
      <${TextField} label="Filter by tag" placeholder="tag=value" value=${values.tag} onText=${(tag) => set({ tag })} />
      <span class="spacer"></span>
      ${value ? html`<span class="quiet tabular">${value.found === value.total ? "" : `${count(value.found)} of `}${count(value.total)} runs</span>` : null}
      ${value ? html`<${Backup} backup=${value.backup} />` : null}
    </div>
    ${error && !value ? html`<${Problem} error=${error} />` : null}
    ${!value && !error ? html`<${Loading} what="runs" />` : null}
    ${compared.length ? html`<section class="panel" aria-label="Compared runs">
      <${ReturnCurves} names=${compared} axis=${axisOf(values)} onAxis=${(axis) => set({ axis })} version=${versionOf(value)} onEnd=${() => set({ compare: "" })} /></section>` : null}
    ${value && value.runs.length > 1 && !compared.length ? html`<p class="quiet hint">Tick up to ${MOST} runs to compare their returns.</p>` : null}
    ${value && !value.total ? html`<${NoRuns} />` : null}
    ${value && value.total > 0 && !value.runs.length && isFiltered ? html`<${Empty} title="No run matches">
      <p>Change the filter above, or <a href="/">show all runs</a>.</p></${Empty}>` : null}
    ${value && value.runs.length ? html`<${RunTable} runs=${value.runs} compared=${compared} choose=${choose} />` : null}
    ${value && value.runs.length < value.found ? html`<${More} filter=${filter} value=${value} setValue=${setValue} />` : null}
  </main>`;
}

function versionOf(value) {
  return value ? value.runs.map((one) => one.episodes).join() : "";
}

function merged(before, change) {
  if (!before) return before;
  const rows = new Map(before.runs.map((one) => [one.name, one]));
  for (const [name, row] of Object.entries(change)) if (name.startsWith("run ")) rows.set(row.name, row);
  const order = change.order || before.runs.map((one) => one.name);
  const rest = before.runs.slice(order.length).filter((one) => !order.includes(one.name));
  const runs = [...order.map((name) => rows.get(name)).filter(Boolean), ...rest];
  return { ...before, ...(change.counts || {}), backup: change.backup || before.backup, runs };
}

function More({ filter, value, setValue }) {
  const [start, setStart] = useState(null);
  const { value: more } = useAnswer("runs", { ...filter, start }, { when: start !== null });
  useEffect(() => {
    if (!more) return;
    setValue((before) => {
      const known = new Set(before.runs.map((one) => one.name));
      return { ...before, runs: [...before.runs, ...more.runs.filter((one) => !known.has(one.name))] };
    });
  }, [more]);
  return html`<p><button type="button" onClick=${() => setStart(value.runs.length)}>show more runs</button></p>`;
}

export function Backup({ backup }) {
  if (!backup || !backup.is_there) return html`<span class="quiet">no backup</span>`;
  if (!backup.works) return html`<span class="warn-text">the backup does not work: jamboree-gym backup status</span>`;
  if (backup.lag_s === null) return html`<span class="quiet">backup has not begun</span>`;
  return html`<span class="quiet tabular">${backup.lag_s ? `backup ${Math.round(backup.lag_s)} s behind` : "backup complete"}</span>`;
}

function NoRuns() {
  return html`<${Empty} title="Nothing has been recorded here yet">
    <p>Wrap an environment, and it shows here while it runs:</p>
    <pre><code>${`import gymnasium as gym
from jamboree_gym import Jamboree

with Jamboree() as jam:
    env = jam.record(gym.make("CartPole-v1"), run="first")
    env.reset()
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        done = terminated or truncated`}</code></pre>
    <p>Recorded elsewhere? <code>jamboree-gym ui --home</code> or <code>--redis-url</code> names another store.</p>
  </${Empty}>`;
}

function RunTable({ runs, compared, choose }) {
  const now = Date.now() / 1000;
  return html`<table class="runs"><thead><tr>
      <th scope="col"><span class="hidden-text">Compare</span></th><th scope="col">run</th><th scope="col">state</th>
      <th scope="col" class="roomy">environment</th>
      <th scope="col" class="num roomy">episodes</th><th scope="col" class="num roomy">steps</th><th scope="col" class="num roomy">steps/s</th>
      <th scope="col" class="num" title="of the newest ten episodes that reached their end">mean return</th><th scope="col" class="roomy">returns</th>
      <th scope="col" class="num">last seen</th></tr></thead>
    <tbody>${runs.map((run) => html`<tr key=${run.name}>
      <td class="check"><input type="checkbox" aria-label=${`Compare ${run.name}`} checked=${compared.includes(run.name)} onChange=${() => choose(run.name)} /></td>
      <td class="name"><a href=${href("/run", { run: run.name })}>${run.name}</a>${Object.entries(run.tags).slice(0, 4).map(([tag, value]) => html`<span class="tag roomy" key=${tag}>${tag}=${String(value)}</span>`)}</td>
      <td><${State} state=${run.state} /></td>
      <td class="roomy quiet">${run.env_ids.join(", ") || "–"}</td>
      <td class="num roomy">${count(run.episodes)}</td><td class="num roomy">${short(run.steps)}</td>
      <td class="num roomy">${run.state === "running" ? short(Math.round(run.steps_per_s)) : "–"}</td>
      <td class="num">${meanReturn(run)}</td>
      <td class="roomy"><${Spark} values=${run.spark} label=${`returns of ${run.name}`} /></td>
      <td class="num quiet">${ago(run.last_step_at, now)}</td></tr>`)}</tbody></table>`;
}
