// One episode: pictures, plots and the table, all at one step.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { ask, deleteFlags, setFlag, watch } from "./api.js";
import { Columns } from "./columns.js";
import { Cursor, Zoom } from "./cursor.js";
import { ago, brief, count, duration, learn, number, returned, time } from "./format.js";
import { VirtualTable } from "./list.js";
import { Panels } from "./panels.js";
import { Picture } from "./picture.js";
import { Copy, Empty, Id, Loading, Problem, Stat, State, TextField, Values, useAnswer } from "./parts.js";
import { go, href, oneOf, set } from "./route.js";

const NEXT_MS = 2000;
const SPEEDS = [["time", "real"], ["5", "5/s"], ["15", "15/s"], ["30", "30/s"], ["60", "60/s"], ["240", "240/s"]];

export function Episode({ values, store }) {
  const { value: episode, error, setValue } = useAnswer("episode", { id: values.id });
  if (!episode) {
    if (!error) return html`<main class="shell"><${Loading} what="episode" /></main>`;
    return html`<main class="shell">${error.status === 404 ? html`<${Empty} title="There is no such episode"><p>${error.message}</p><p><a href="/">All runs</a></p></${Empty}>` : html`<${Problem} error=${error} />`}</main>`;
  }
  learn(episode);
  return html`<${Shown} key=${episode.id} episode=${episode} values=${values} store=${store} setEpisode=${(change) => setValue((before) => ({ ...before, ...change }))} />`;
}

function Shown({ episode, values, store, setEpisode }) {
  const id = episode.id;
  const cursor = useMemo(() => new Cursor(Number(values.step) || 0), [id]);
  const zoom = useMemo(() => new Zoom(), [id]);
  const columns = useMemo(() => new Columns(id), [id]);
  const [version, setVersion] = useState(0);
  const [problem, setProblem] = useState(null);
  const [isPlaying, setPlaying] = useState(false);
  const [staleSince, setStaleSince] = useState(null);
  const speed = useRef(oneOf(values.speed, SPEEDS.map(([name]) => name), "30"));
  const isLive = episode.status === "running";
  cursor.isFollowing = isLive;
  const wasLive = useRef(isLive);
  const { value: around, again: lookAround } = useAnswer("neighbours", { id, status: episode.status });

  // After one that was followed, the next one begins soon.
  const isLast = around !== null && around.after === null;
  useEffect(() => {
    if (isLive || !wasLive.current || !isLast) return undefined;
    const timer = setInterval(lookAround, NEXT_MS);
    return () => clearInterval(timer);
  }, [isLive, isLast]);

  useEffect(() => {
    document.title = `episode ${brief(id)} · jamboree`;
    const control = new AbortController();
    let timer = 0;
    function load() {
      columns.load(control.signal).then(
        () => {
          setProblem(null);
          cursor.last = columns.total;
          if (isLive && !values.step) cursor.go(cursor.newest);
          else if (cursor.step > cursor.last) cursor.go(cursor.last);
          cursor.tell();
          setVersion((one) => one + 1);
        },
        (error) => {
          if (error.name === "AbortError") return;
          setProblem(error);
          if (error.status === 503 || error.status === 0) timer = setTimeout(load, 1000);
        },
      );
    }
    load();
    let written = 0;
    const end = cursor.follow((step) => {
      clearTimeout(written);
      // Who follows it now does so after a reload.
      written = setTimeout(() => set({ step: cursor.isNewest ? null : step || (cursor.isFollowing ? "0" : null) }, { quiet: true }), 250);
    });
    return () => {
      control.abort();
      clearTimeout(timer);
      clearTimeout(written);
      end();
      cursor.stop();
    };
  }, [id]);

  // A running episode grows: only what is new is asked for.
  useEffect(() => {
    if (!isLive) return undefined;
    const control = new AbortController();
    let isBusy = false;
    let isBehind = false; // steps came while others were fetched
    function grow() {
      isBehind = isBusy;
      if (isBusy) return;
      isBusy = true;
      columns.grow(control.signal).then(() => {
        cursor.setLast(columns.total);
        setVersion((one) => one + 1);
      }).catch(() => {}).finally(() => {
        isBusy = false;
        if (isBehind && !control.signal.aborted) grow();
      });
    }
    const end = watch({ of: "episode", id }, (change) => {
      setEpisode(change);
      setStaleSince(Date.now() / 1000);
      if (change.steps !== undefined) grow();
    });
    return () => {
      end();
      control.abort();
    };
  }, [isLive, version > 0]);

  function pace() {
    if (speed.current !== "time") return Number(speed.current);
    const took = episode.elapsed_s;
    return took > 0 ? episode.steps / took : 30;
  }
  function toggle() {
    if (cursor.isPlaying) cursor.stop();
    else {
      if (cursor.step >= cursor.last && !cursor.isFollowing) cursor.go(0);
      cursor.play(pace, () => setPlaying(false));
    }
    setPlaying(cursor.isPlaying);
  }

  useEffect(() => {
    function key(event) {
      const { target } = event;
      const isText = target.matches("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
      if (isText || event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const moves = {
        ArrowLeft: () => cursor.go(cursor.step - far), ArrowRight: () => cursor.go(cursor.step + far),
        Home: () => cursor.go(0), End: () => cursor.go(cursor.last),
        PageUp: () => cursor.go(cursor.step - Math.max(10, cursor.last / 20)), PageDown: () => cursor.go(cursor.step + Math.max(10, cursor.last / 20)),
        "[": () => around && around.before && go("/episode", { id: around.before }),
        "]": () => around && around.after && go("/episode", { id: around.after }),
      };
      const isButton = target.matches("button, summary, a");
      if (event.key === " " && !isButton && !target.matches("input[type=checkbox]")) moves[" "] = toggle;
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
    }
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [around, episode.steps]);

  return html`<main class="shell">
    <div class="title"><h1><${Id} id=${id} /></h1><${Copy} text=${id} label="Copy the whole id" name="copy id" /><${State} state=${episode.status} />
      <a href=${href("/run", { run: episode.run })}>${episode.run}</a>${isOneAgent(episode) ? html`<a class="tag" title="the episodes of all agents" href=${href("/run", { run: episode.run, where: `tag_joint == "${episode.tags.joint}"` })}>agent ${String(episode.tags.agent)}</a>` : null}<span class="quiet">${episode.env_id || "no spec"}</span>
      ${isLive ? html`<${Live} since=${staleSince} cursor=${cursor} />` : null}
      ${!isLive && wasLive.current && around && around.after ? html`<a class="button" href=${href("/episode", { id: around.after })}>follow the next one</a>` : null}
      <span class="spacer"></span>
      ${around && around.number ? html`<span class="pager"><${Step} id=${around.before} label="Episode before" mark="‹" /><span class="quiet tabular">${count(around.number)} of ${count(around.total)}</span><${Step} id=${around.after} label="Episode after" mark="›" /></span>` : null}
      <a class="button" href=${href("/lineage", { id })}>forks</a></div>
    <dl class="stats">
      <${Stat} name="return" value=${returned(episode, 6)} /><${Stat} name="steps" value=${count(episode.steps)} />
      <${Stat} name="took" value=${duration(episode.elapsed_s)} /><${Stat} name="seed" value=${episode.seed ?? "–"} />
      <${Stat} name="began" value=${time(episode.started_at)} />
      ${episode.parent ? html`<${Stat} name="forked from" value=${html`<a href=${href("/episode", { id: episode.parent, step: episode.fork_step })}><${Id} id=${episode.parent} /> at ${episode.fork_step}</a>`} />` : null}
    </dl>
    ${problem ? html`<${Problem} error=${problem} />` : null}
    ${!version && !problem ? html`<${Loading} what="steps" />` : null}
    ${version ? html`<div class="player">
      <${Beside}>
        <${Pictures} episode=${episode} cursor=${cursor} values=${values} />
        <${Transport} cursor=${cursor} isPlaying=${isPlaying} toggle=${toggle} speed=${speed} version=${version} />
        <${AtStep} episode=${episode} columns=${columns} cursor=${cursor} version=${version} />
        <${Flags} episode=${episode} cursor=${cursor} store=${store} setEpisode=${setEpisode} />
        <${Fork} episode=${episode} cursor=${cursor} />
      </${Beside}>
      <div class="main">
        <${Panels} columns=${columns} cursor=${cursor} zoom=${zoom} envId=${episode.env_id} />
        <${Transitions} columns=${columns} cursor=${cursor} version=${version} />
        <${Provenance} episode=${episode} />
      </div></div>` : null}
  </main>`;
}

// The left column stays in sight. Where it is higher than the window, its lower end does.
function Beside({ children }) {
  const column = useRef(null);
  useEffect(() => {
    const measure = new ResizeObserver(([one]) => one.target.style.setProperty("--height", `${Math.ceil(one.contentRect.height)}px`));
    measure.observe(column.current);
    return () => measure.disconnect();
  }, []);
  return html`<div class="side sticky" ref=${column}>${children}</div>`;
}

// Whether it is what one of several agents saw and did.
function isOneAgent(episode) {
  return typeof episode.tags.joint === "string" && "agent" in episode.tags;
}

function Step({ id, label, mark }) {
  return id ? html`<a class="button" href=${href("/episode", { id })} aria-label=${label}>${mark}</a>` : html`<span class="button off" aria-hidden="true">${mark}</span>`;
}

// How old the newest step is, and a way to it.
function Live({ since, cursor }) {
  const [, tick] = useState(0);
  const [isNewest, setNewest] = useState(true);
  useEffect(() => cursor.follow(() => setNewest(cursor.isNewest)), []);
  useEffect(() => {
    const timer = setInterval(() => tick((one) => one + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  const quiet = since ? Date.now() / 1000 - since : 0;
  return html`<span class="live tabular"><i aria-hidden="true"></i>live${quiet > 2 ? `, newest ${duration(Math.round(quiet))} ago` : ""}</span>
    ${isNewest ? null : html`<button type="button" class="small" onClick=${() => cursor.go(cursor.newest)}>follow</button>`}`;
}

function Pictures({ episode, cursor, values }) {
  const kept = localStorage.getItem("simulate") === "1";
  const wanted = oneOf(values.frames, ["recorded", "simulated"]) || (episode.frames ? "recorded" : kept ? "simulated" : "");
  const kinds = [...(episode.frames ? [["recorded", "recorded"]] : []), ["simulated", "simulated again"]];
  function choose(kind) {
    localStorage.setItem("simulate", kind === "simulated" ? "1" : "0");
    set({ frames: kind });
  }
  const notes = {
    recorded: (shown, step) => (shown === step ? `recorded at step ${count(step)}` : `recorded at step ${count(shown)}, the newest up to ${count(step)}`),
    simulated: (shown, step) => `simulated again and verified: equal to the recording, bit for bit, up to step ${count(step)}`,
  };
  return html`<section class="panel pictures" aria-label="Pictures">
    ${isOneAgent(episode) ? html`<${Together} id=${episode.id} />` : wanted ? html`<${Picture} id=${episode.id} kind=${wanted} label="Rendered frame" cursor=${cursor} note=${notes[wanted]} />` : html`<div class="no-picture">
      <p class="quiet">No frames were recorded. The page can simulate the episode again, and compare each step with the recording:</p><button type="button" onClick=${() => choose("simulated")}>simulate again, verified</button>
      <p class="quiet">To record frames: <code>jam.record(env, record_frames=True)</code></p></div>`}
    ${wanted && kinds.length > 1 && !isOneAgent(episode) ? html`<div class="choice" role="group" aria-label="Frames">${kinds.map(([kind, text]) => html`<button type="button" key=${kind} aria-pressed=${wanted === kind ? "true" : "false"} onClick=${() => choose(kind)}>${text}</button>`)}</div>` : null}
    ${episode.pictures.map((leaf) => html`<${Picture} key=${leaf} id=${episode.id} kind=${leaf} label=${leaf} cursor=${cursor} note=${() => leaf} />`)}
  </section>`;
}

// The page simulates no agent alone: the command plays all of them, and compares.
function Together({ id }) {
  const commands = [["This plays all of them again, and compares each turn with the recording:", `jamboree-gym replay ${id}`], ["This films them:", `jamboree-gym video ${id} all.mp4`]];
  return html`<div class="no-picture"><p class="quiet">What one of several agents saw.</p>
    ${commands.map(([what, command]) => html`<p class="quiet">${what}</p><div class="code"><pre tabindex="0"><code>${command}</code></pre><${Copy} text=${command} label="Copy the command" /></div>`)}</div>`;
}

function Icon({ path }) {
  return html`<svg viewBox="0 0 14 14" aria-hidden="true"><path d=${path} /></svg>`;
}

function Transport({ cursor, isPlaying, toggle, speed, version }) {
  const slider = useRef(null);
  const field = useRef(null);
  useEffect(() => cursor.follow((step) => {
    slider.current.value = step;
    slider.current.style.setProperty("--done", `${cursor.last ? (100 * step) / cursor.last : 0}%`);
    if (document.activeElement !== field.current) field.current.value = step;
  }), []);
  useEffect(() => {
    slider.current.max = cursor.last;
    cursor.tell();
  }, [version, cursor.last]);
  return html`<section class="panel transport" aria-label="Player">
    <div class="slide"><input ref=${slider} type="range" min="0" max=${cursor.last} step="1" aria-label="Step" onInput=${(event) => cursor.go(Number(event.target.value))} />
      <input ref=${field} class="step" type="text" inputmode="numeric" aria-label="Go to step" onChange=${(event) => cursor.go(Number(event.target.value) || 0)} /><span class="quiet tabular">of ${count(cursor.last)}</span></div>
    <div class="toolbar tight">
      <button type="button" class="small" aria-label="First step" onClick=${() => cursor.go(0)}><${Icon} path="M2 2h2v10H2zM12 2v10L5 7z" /></button>
      <button type="button" class="small" aria-label="One step back" onClick=${() => cursor.go(cursor.step - 1)}><${Icon} path="M10 2v10L3 7z" /></button>
      <button type="button" class="play" aria-label=${isPlaying ? "Pause" : "Play"} onClick=${toggle}>${isPlaying ? "pause" : "play"}</button>
      <button type="button" class="small" aria-label="One step forward" onClick=${() => cursor.go(cursor.step + 1)}><${Icon} path="M4 2v10l7-5z" /></button>
      <button type="button" class="small" aria-label="Last step" onClick=${() => cursor.go(cursor.last)}><${Icon} path="M10 2h2v10h-2zM2 2v10l7-5z" /></button>
      <select aria-label="Speed" onChange=${(event) => { speed.current = event.target.value; set({ speed: event.target.value }, { quiet: true }); }}>
        ${SPEEDS.map(([name, text]) => html`<option value=${name} key=${name} selected=${speed.current === name}>${text}</option>`)}</select>
      <span class="spacer"></span>
    </div></section>`;
}

// What is known of the step; exact values and texts come when the cursor rests.
function AtStep({ episode, columns, cursor, version }) {
  const table = useRef(null);
  const [exact, setExact] = useState(null);
  const names = ["action", ...columns.rewards(), "return", "annotation_value", "annotation_log_prob"].filter((one) => columns.columns.has(one));
  const chances = [...columns.columns.keys()].filter((one) => /^annotation_.*prob.*_\d+$/.test(one));
  const said = [...columns.columns.values()].filter((one) => one.group === "annotation");
  const isAllSaid = said.length > 0 && said.every((one) => names.includes(one.name) || chances.includes(one.name));
  useEffect(() => {
    let timer = 0;
    let control = null;
    function write(step) {
      for (const cell of table.current.querySelectorAll("[data-name]")) cell.textContent = number(columns.at(cell.dataset.name, step), 6);
      for (const bar of table.current.querySelectorAll("[data-chance]")) {
        const value = columns.at(bar.dataset.chance, step);
        bar.style.setProperty("--share", Number.isNaN(value) ? 0 : value);
        bar.lastChild.textContent = number(value, 3);
      }
      clearTimeout(timer);
      if (control) control.abort();
      timer = setTimeout(() => {
        if (step >= columns.total) {
          setExact({ step, end: true });
          return;
        }
        control = new AbortController();
        ask("rows", { id: episode.id, start: step, stop: step + 1 }, { signal: control.signal }).then((found) => setExact(found.rows[0] || null), () => {});
      }, cursor.isPlaying ? 1000 : 160);
    }
    const end = cursor.follow(write);
    const endExact = columns.onExact(() => write(cursor.step));
    return () => {
      end();
      endExact();
      clearTimeout(timer);
      if (control) control.abort();
    };
  }, [version]);
  return html`<section class="panel at-step" aria-label="At this step"><h2>At this step</h2>
    <div ref=${table}><table class="values"><tbody>
      ${names.map((name) => html`<tr key=${name}><th scope="row">${name.replace("annotation_", "").replace("_", " ")}</th><td class="tabular" data-name=${name}></td></tr>`)}</tbody></table>
      ${chances.map((name) => html`<div class="chance" key=${name} data-chance=${name}><span>${name.replace("annotation_", "")}</span><b class="tabular"></b></div>`)}</div>
    <table class="values exact"><tbody>${exact && !exact.end ? ["observation", "action", "info", "annotation"].filter((name) => exact[name] && !names.includes(name) && !(name === "annotation" && isAllSaid)).map((name) => html`<tr key=${name}><th scope="row">${name}</th><td><code>${exact[name]}</code></td></tr>`) : null}
      ${exact && exact.end ? html`<tr><th scope="row">end</th><td>${episode.status === "running" ? "the newest observation" : `the last observation: ${episode.status}`}</td></tr>` : null}
      ${exact && exact.timestamp ? html`<tr><th scope="row">time</th><td class="tabular">${duration(exact.timestamp - episode.started_at)} after the reset</td></tr>` : null}</tbody></table>
  </section>`;
}

function Flags({ episode, cursor, store, setEpisode }) {
  const [problem, setProblem] = useState(null);
  const note = useRef(null);
  const mayAct = store && store.actions;
  function add(event) {
    event.preventDefault();
    const text = note.current.value;
    setFlag(episode.id, text, cursor.step).then((found) => {
      note.current.value = "";
      setProblem(null);
      setEpisode(found);
    }, setProblem);
  }
  return html`<section class="panel" aria-label="Flags"><h2>Flags</h2>
    ${episode.flags.length ? html`<ul class="lines">${episode.flags.map((one) => html`<li key=${one.at}><span class="note">${one.note}</span>
      ${one.step === null ? null : html`<button type="button" class="plain" onClick=${() => cursor.go(one.step)}>step ${one.step}</button>`}<span class="quiet">${ago(one.at)}</span></li>`)}</ul>` : html`<p class="quiet">None.</p>`}
    ${problem ? html`<${Problem} error=${problem} />` : null}
    ${mayAct ? html`<form class="toolbar tight" onSubmit=${add}><input ref=${note} class="wide" type="text" maxlength="2000" aria-label="Note for a flag at this step" placeholder="why this step is odd" /><button type="submit">flag</button>
      ${episode.flags.length ? html`<button type="button" onClick=${() => deleteFlags(episode.id).then(setEpisode, setProblem)}>delete flags</button>` : null}</form>`
      : html`<p class="quiet">To set flags on this page, start it with <code>jamboree-gym ui --allow-actions</code></p>`}
  </section>`;
}

function Fork({ episode, cursor }) {
  const [step, setStep] = useState(null);
  if (isOneAgent(episode)) return null; // only all agents together can be forked
  if (step === null) return html`<section class="panel" aria-label="Fork"><button type="button" onClick=${() => setStep(cursor.step)}>fork here</button></section>`;
  const code = `from jamboree_gym import Jamboree\n\njam = Jamboree()\nenv = jam.episode("${episode.id}").fork(${step})\naction = env.action_space.sample()\nobservation, reward, terminated, truncated, info = env.step(action)`;
  const command = `jamboree-gym fork ${episode.id} --step ${step}`;
  return html`<section class="panel" aria-label="Fork"><h2>Fork at step ${count(step)}</h2>
    <p class="quiet">A live environment as it was then:</p><div class="code"><pre tabindex="0"><code>${code}</code></pre><${Copy} text=${code} label="Copy the code" /></div>
    <p class="quiet">In a shell, this tries whether the fork works:</p><div class="code"><pre tabindex="0"><code>${command}</code></pre><${Copy} text=${command} label="Copy the command" /></div>
    <button type="button" class="small" onClick=${() => setStep(null)}>close</button></section>`;
}

function Transitions({ columns, cursor, version }) {
  const [focus, setFocus] = useState(cursor.step);
  useEffect(() => cursor.follow(setFocus), []);
  const isLong = columns.every > 1;
  const observations = [...columns.columns.values()].filter((one) => one.group === "observation").slice(0, 4);
  const said = [...columns.columns.values()].filter((one) => one.group === "annotation" && !/_\d+$/.test(one.name)).slice(0, 3);
  const actions = [...columns.columns.values()].filter((one) => one.group === "action").slice(0, 4);
  // The names are those of `find` and of tables.
  const list = [
    { name: "step", kind: "num", width: "64px", of: null },
    ...actions.map((one) => ({ name: one.name, kind: "num", of: one.name })),
    ...columns.rewards().slice(0, 4).map((one) => ({ name: one, kind: "num", of: one })),
    ...(isLong || !columns.columns.has("return") ? [] : [{ name: "return", kind: "num", of: "return", wide: true }]),
    ...[...said, ...observations].map((one) => ({ name: one.name, kind: "num", of: one.name, wide: true })),
  ];
  return html`<section class="panel" aria-label="Transitions"><h2>Transitions</h2>
    <${VirtualTable} compact label="Transitions" columns=${list} total=${columns.rows} rowHeight=${24} height=${`${Math.min(288, 24 * columns.rows + 42)}px`} version=${version} focusRow=${focus}
      part=${(start, length) => Array.from({ length: Math.min(length, columns.rows - start) }, (_, at) => start + at)}
      rowClass=${(step) => (step === focus ? "here" : "")}
      row=${(step) => list.map((one) => (one.of === null ? html`<button type="button" class="plain tabular" onClick=${() => cursor.go(step)}>${count(step)}</button>` : number(columns.at(one.of, step), 4)))} />
  </section>`;
}

function Provenance({ episode }) {
  const [isOpen, setOpen] = useState(false);
  return html`<section class="panel" aria-label="Provenance"><details onToggle=${(event) => setOpen(event.target.open)}><summary>provenance</summary>
    ${isOpen ? html`<${Known} episode=${episode} />` : null}</details></section>`;
}

function Known({ episode }) {
  const { value, error } = useAnswer("provenance", { id: episode.id });
  if (error) return html`<${Problem} error=${error} />`;
  if (!value) return html`<${Loading} what="provenance" />`;
  const known = { id: episode.id, tags: episode.tags, follows: episode.follows, options: episode.options, ...value.provenance };
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Provenance"><${Values} values=${known} /></div>`;
}
