// The tree of forks that an episode belongs to.
import { html, useEffect } from "./vendor.js";
import { brief, count, learn, returned } from "./format.js";
import { Empty, Id, Loading, Problem, State, useAnswer } from "./parts.js";
import { href } from "./route.js";

export function Lineage({ values }) {
  const { value, error } = useAnswer("lineage", { id: values.id });
  useEffect(() => { document.title = `forks of ${brief(values.id)} · jamboree`; }, [values.id]);
  if (error && !value) return html`<main class="shell">${error.status === 404 ? html`<${Empty} title="There is no such episode"><p>${error.message}</p></${Empty}>` : html`<${Problem} error=${error} />`}</main>`;
  if (!value) return html`<main class="shell"><${Loading} what="forks" /></main>`;
  learn(...value.nodes);
  const longest = Math.max(1, ...value.nodes.map((one) => one.offset + one.steps));
  const isAlone = value.nodes.length === 1;
  return html`<main class="shell"><div class="title"><h1>Forks</h1></div>
    <ul class="tree panel" role="tree" aria-label="Forks">${value.nodes.map((one) => html`<li role="treeitem" key=${one.id} aria-level=${one.depth + 1} aria-selected=${one.id === value.id ? "true" : "false"} class=${one.id === value.id ? "here" : ""} style=${{ "--depth": one.depth }}>
      <a href=${href("/episode", { id: one.id })}><${Id} id=${one.id} /></a>
      ${one.fork_step === null ? html`<span class="quiet">from a reset</span>` : html`<span class="quiet tabular">forked at step ${count(one.fork_step)}</span>`}
      <${State} state=${one.status} /><span class="tabular">return ${returned(one, 5)}</span><span class="quiet tabular">${count(one.steps)} steps</span><span class="quiet roomy">${one.run}</span>
      <span class="course roomy" aria-hidden="true" title=${`steps ${count(one.offset)} to ${count(one.offset + one.steps)} from the reset`}><i style=${{ left: `${(100 * one.offset) / longest}%`, width: `${(100 * one.steps) / longest}%` }}></i></span>
      <span>${one.parent && one.depth ? html`<a href=${href("/compare", { a: one.parent, b: one.id })}>compare with its parent</a>` : null}</span></li>`)}</ul>
    ${value.is_cut ? html`<p class="quiet">More than ${count(value.nodes.length)}: the rest is left out.</p>` : null}
    ${isAlone ? html`<${Empty} title="No forks yet"><p>A fork continues an episode from one of its steps, with other actions:</p><pre><code>${`env = jam.episode("${brief(values.id)}").fork(40)\nenv.step(env.action_space.sample())`}</code></pre></${Empty}>` : null}
  </main>`;
}
