// One run: its graph, curves, images over training, what was lost, what its stages made, metrics and config.
// Everything is brought up to date in its place, also of a run that is started again: focus, scroll and zoom stay.

import { address, ask, badge, duration, every, field, folded, h, into, number, part, select, supervised, table, when } from "./dom.js";
import { curvesOf } from "./run_curves.js";
import { graphOf } from "./run_graph.js";
import { imagesOf } from "./run_images.js";

const POLL = 3000;
const TRACKED = 3; // polls after which what MLflow holds is asked for again
const IDLE = 5; // polls after which a run that nobody drives is looked at again: it may be started anew

export async function showRun(main, { path, params, signal }) {
  const name = path[0];
  let run = await ask(`runs/${part(name)}`);
  const head = headOf(run);
  const graph = graphOf();
  const curves = curvesOf(run, params.getAll("with"), signal);
  const images = imagesOf([run.run]);
  const ofStages = [lostOf(), madeOf(), metricsOf(), configOf(run)];
  const [lost, made, metrics, config] = ofStages;
  main.replaceChildren(head.box, h("h2", {}, "Stages"), graph.box,
    h("h2", {}, "Curves"), curves.box, h("h2", {}, "Images over training"), images.box,
    h("h2", {}, "Lost data"), lost.box, h("h2", {}, "What the stages made"), made.box,
    h("h2", {}, "Metrics"), metrics.box, h("h2", {}, "Configuration"), config.box);
  const states = () => JSON.stringify([run.status, run.graph.map((node) => [node.name, node.state])]);
  const update = (isChanged) => {
    head.update(run);
    graph.update(run);
    if (isChanged) for (const one of ofStages) one.update(run);
  };
  update(true);
  let count = 0;
  every(POLL, signal, async () => {
    count += 1;
    const wasRunning = run.status === "running";
    if (!wasRunning && count % IDLE) return;
    const before = states();
    run = await ask(`runs/${part(name)}`);
    const isChanged = states() !== before;
    update(isChanged);
    if (isChanged || (wasRunning && count % TRACKED === 0)) await Promise.all([curves.update(), images.update()]);
  });
}

function headOf(first) {
  const title = h("h1", {}, first.run);
  const words = h("div", {});
  const links = h("div", { class: "row" },
    h("a", { href: address("compare", { run: first.run }) }, "Side by side with others"),
    first.has.download_shards ? h("a", { href: address(`data/${part(first.run)}`) }, "Its data") : null,
    first.has.fit_gaussians ? h("a", { href: address(`gaussians/${part(first.run)}`) }, "Its Gaussians") : null);
  const update = (run) => {
    const driver = run.driver ? ` by process ${run.driver.pid} on ${run.driver.host}, last sign of life ${when(run.driver.time)}` : "";
    words.replaceChildren(...[
      h("p", {}, badge(run.status), ` ${supervised(run)}, decoder ${run.decoder}`),
      h("p", { class: "dim" }, `started ${when(run.started)}${run.seconds === null ? "" : `, took ${duration(run.seconds)}`}${driver}; ${run.config_path}`),
      run.words ? h("p", { class: "care" }, run.words) : null,
      ...run.graph.filter((node) => node.error).map((node) => h("p", { class: "care" }, `${node.name}: ${node.error}`)),
    ].filter(Boolean));
  };
  return { box: h("div", {}, title, words, links), update };
}

// ---- what was lost, what was made

const LOST = /^(lost|skipped|removed)/; // titles of what `corgi inspect` finds of lost data

function lostOf() {
  const box = h("div", {});
  let last = null;
  let examples = null;
  const update = (run) => {
    const stages = run.graph.filter((node) => Object.keys(node.lost ?? {}).length).map((node) => node.name);
    const rows = run.graph.flatMap((node) => Object.entries(node.lost ?? {}).map(([cause, count]) => [node.name, cause.replace(/^(failed|skipped|removed)_/, "$1: ").replaceAll("_", " "), count]));
    if (JSON.stringify(rows) === last) return;
    last = JSON.stringify(rows);
    if (!rows.length) return box.replaceChildren(h("p", { class: "dim" }, "Nothing was lost."));
    examples = folded("Examples", () => Promise.all(stages.map((stage) => examplesOf(run.run, stage))), examples?.open);
    box.replaceChildren(table(["stage", "cause", "count"], rows, "Lost data by cause"), examples);
  };
  return { box, update };
}

async function examplesOf(run, stage) {
  const found = await ask(`runs/${part(run)}/findings/${part(stage)}`).catch((error) => ({ blocks: [], fault: error.message }));
  const blocks = found.blocks.filter((block) => LOST.test(block.title));
  return h("section", { "aria-label": `Lost by ${stage}` }, h("h3", {}, stage), blocks.length ? blocks.map((block) => showBlock(block))
    : h("p", { class: "dim" }, found.fault ?? "no examples in the shards that were read"));
}

const showBlock = (block) => h("div", {}, h("h3", {}, block.title),
  block.png ? h("img", { style: { maxWidth: "100%" }, src: `data:image/png;base64,${block.png}`, alt: block.title }) : table(block.headings, block.rows, block.title));

async function findings(run, stage) {
  const found = await ask(`runs/${part(run)}/findings/${part(stage)}`);
  return [h("p", { class: "dim" }, found.uri), ...found.blocks.map(showBlock), ...found.notes.map((note) => h("p", { class: "dim" }, note))];
}

function madeOf() {
  const box = h("div", {});
  const known = new Map();
  const update = (run) => {
    for (const { name, state } of run.graph) {
      const title = `${name}: ${state}`;
      if (!known.has(name)) {
        known.set(name, { title, details: folded(title, () => findings(run.run, name)) });
        box.append(known.get(name).details);
      }
      const own = known.get(name);
      if (own.title !== title) own.details.renew(title);
      own.title = title;
    }
  };
  return { box, update };
}

// ---- metrics and config

function metricsOf() {
  const place = h("div", {});
  let found = {};
  const text = h("input", { type: "search", placeholder: "a part of a name", oninput: () => render() });
  const render = () => place.replaceChildren(table(["metric", "value", "interval", "n", "about"],
    Object.keys(found).filter((one) => one.includes(text.value)).slice(0, 200).map((one) => {
      const { value, low, high, n, about } = found[one];
      return [one, value, low === undefined ? "" : `${number(low)} – ${number(high)}`, n ?? "", about ?? ""];
    }), "Metrics"));
  const details = folded("", () => [field("Find", text), place]);
  const summary = details.querySelector("summary");
  const box = h("div", {}, h("p", { class: "dim" }, "Nothing was measured."));
  const update = (run) => {
    found = run.metrics;
    const count = Object.keys(found).length;
    summary.textContent = `${number(count)} metrics`;
    render();
    if (count && !details.parentNode) box.replaceChildren(details);
  };
  return { box, update };
}

function configOf(first) {
  const place = h("div", {});
  const all = h("div", {});
  const picker = h("div", { class: "row" });
  into(picker, async () => {
    const runs = (await ask("runs", { metric: "none" })).runs.map((one) => one.run).filter((one) => one !== first.run);
    return field("What differs from", select([["", "choose …"], ...runs], "", (chosen) => chosen && into(place, async () => {
      const rows = await ask("differences", { run: [first.run, chosen] });
      return rows.length ? table(["key", first.run, chosen], rows.map((row) => [row.key, ...row.values.map((value) => value ?? "—")]), "Differences of the configurations")
        : h("p", {}, "The configurations are equal.");
    })));
  });
  let last = null;
  const update = (run) => {
    if (JSON.stringify(run.config) === last) return;
    last = JSON.stringify(run.config);
    all.replaceChildren(folded("All of it", () => table(["key", "value"], Object.entries(run.config), "Configuration")));
  };
  return { box: h("div", {}, picker, place, all), update };
}
