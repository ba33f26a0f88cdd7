// The frame of the page, and which view an address shows.
import { html, render, useEffect, useState } from "./vendor.js";
import { onStore } from "./api.js";
import { Empty, useAnswer } from "./parts.js";
import { href, useRoute } from "./route.js";
import { Runs } from "./runs.js";

// What is not shown is not loaded: each view is a separate module.
const VIEWS = {
  "/run": () => import("./run.js").then((one) => one.Run),
  "/episode": () => import("./episode.js").then((one) => one.Episode),
  "/compare": () => import("./compare.js").then((one) => one.Compare),
  "/lineage": () => import("./lineage.js").then((one) => one.Lineage),
};

function Page() {
  const route = useRoute();
  const { value: store } = useAnswer("store", {});
  return html`<a class="skip" href="#view">Skip to the content</a>
    <header class="top"><a class="brand" href="/"><img src="/static/icon.svg" alt="" width="20" height="20" />jamboree</a>
      <${Trail} route=${route} /><span class="spacer"></span>
      ${store && store.namespace !== "jamboree" ? html`<span class="tag">${store.namespace}</span>` : null}</header>
    <${StoreState} />
    <div id="view" tabindex="-1"><${View} route=${route} store=${store} /></div>`;
}

function Trail({ route }) {
  const { run, id } = route.values;
  const parts = [];
  if (route.path === "/run") parts.push(run);
  if (route.path === "/episode") parts.push("episode");
  if (route.path === "/lineage") parts.push(html`<a href=${href("/episode", { id })}>episode</a>`, "forks");
  if (route.path === "/compare") parts.push("two episodes");
  return html`<nav aria-label="Where you are" class="trail"><a href="/">Runs</a>${parts.map((one, at) => html`<span key=${at}><i aria-hidden="true">/</i>${one}</span>`)}</nav>`;
}

function StoreState() {
  const [state, setState] = useState({ ok: true, message: "" });
  useEffect(() => onStore(setState), []);
  return html`<div role="status" aria-live="polite" class=${state.ok ? "away hidden" : "away"}>${state.ok ? "" : state.message}</div>`;
}

function View({ route, store }) {
  const [views, setViews] = useState({});
  const isRuns = route.path === "/" || route.path === "/runs";
  useEffect(() => {
    const load = VIEWS[route.path];
    if (load && !views[route.path]) load().then((one) => setViews((before) => ({ ...before, [route.path]: one })));
  }, [route.path]);
  if (isRuns) return html`<${Runs} values=${route.values} />`;
  if (!VIEWS[route.path]) return html`<main class="shell"><${Empty} title="There is nothing here"><p><a href="/">All runs</a></p></${Empty}></main>`;
  const Shown = views[route.path];
  if (!Shown) return html`<main class="shell"><p class="quiet">Loading…</p></main>`;
  return html`<${Shown} key=${route.values.run || route.values.id || `${route.values.a} ${route.values.b}`} values=${route.values} store=${store} />`;
}

const place = document.getElementById("page");
place.replaceChildren();
render(html`<${Page} />`, place);
