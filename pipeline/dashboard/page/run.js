// One run: its graph while it runs, curves, images, what was lost, metrics and config.

import { curves, smoothed } from "./chart.js";
import {
  address, ask, badge, check, chips, duration, field, folded, h, into, number, part, percent, report, runPicker, s, select, supervised, table, when,
} from "./dom.js";

const POLL = 3000;
const MACHINES = 12; // of a stage that are listed in its card

export async function showRun(main, { path, params, signal }) {
  const name = path[0];
  let run = await ask(`runs/${part(name)}`);
  const head = h("div", {});
  const graph = h("div", {});
  const drawAll = () => { head.replaceChildren(...heading(run)); drawGraph(graph, run); };
  main.replaceChildren(head, h("h2", {}, "Stages"), graph,
    h("h2", {}, "Curves"), filled(() => curvesOf(run, params.getAll("with"), signal)),
    h("h2", {}, "Images over training"), imagesOf([run.run]),
    h("h2", {}, "Lost data"), lost(run),
    h("h2", {}, "What the stages made"), ...run.graph.map((node) => folded(`${node.name}: ${node.state}`, () => findings(run.run, node.name))),
    h("h2", {}, "Metrics"), metrics(run),
    h("h2", {}, "Configuration"), filled(() => config(run)));
  drawAll();
  if (run.status !== "running") return;
  const timer = setInterval(async () => {
    try {
      run = await ask(`runs/${part(name)}`);
      drawAll();
      if (run.status !== "running") clearInterval(timer);
    } catch (error) {
      report(error.message, true);
    }
  }, POLL);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function filled(load) {
  const place = h("div", {});
  into(place, load);
  return place;
}

function heading(run) {
  const driver = run.driver ? ` by process ${run.driver.pid} on ${run.driver.host}, last sign of life ${when(run.driver.time)}` : "";
  return [
    h("h1", {}, run.run), h("p", {}, badge(run.status), ` ${supervised(run)}, decoder ${run.decoder}`),
    h("p", { class: "dim" }, `started ${when(run.started)}${run.seconds === null ? "" : `, took ${duration(run.seconds)}`}${driver}; ${run.config_path}`),
    run.words ? h("p", { class: "care" }, run.words) : null,
    ...run.graph.filter((node) => node.error).map((node) => h("p", { class: "care" }, `${node.name}: ${node.error}`)),
    h("div", { class: "row" },
      h("a", { href: address("compare", { run: run.run }) }, "Side by side with others"),
      run.has.download_shards ? h("a", { href: address(`data/${part(run.run)}`) }, "Its data") : null,
      run.has.fit_gaussians ? h("a", { href: address(`gaussians/${part(run.run)}`) }, "Its Gaussians") : null),
  ].filter(Boolean);
}

// ---- the graph

function depths(nodes) {
  const depth = {};
  for (const node of nodes) depth[node.name] = Math.max(0, ...node.inputs.map((one) => (depth[one] ?? -1) + 1));
  return depth;
}

function drawGraph(place, run) {
  const depth = depths(run.graph);
  const used = {};
  const lines = s("svg", { "aria-hidden": "true" });
  const cards = Object.fromEntries(run.graph.map((node) => {
    const row = (used[depth[node.name]] = (used[depth[node.name]] ?? 0) + 1);
    return [node.name, h("div", { class: `card node ${node.state}`, style: { gridColumn: depth[node.name] + 1, gridRow: row } }, nodeWords(node))];
  }));
  const box = h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "Graph of the stages" }, lines, Object.values(cards));
  place.replaceChildren(box);
  const draw = () => {
    const at = box.getBoundingClientRect();
    const spot = (card, side) => {
      const one = card.getBoundingClientRect();
      return [one[side] - at.left + box.scrollLeft, one.top - at.top + Math.min(28, one.height / 2) + box.scrollTop];
    };
    lines.replaceChildren(...run.graph.flatMap((node) => node.inputs.filter((one) => cards[one]).map((one) => {
      const [x1, y1] = spot(cards[one], "right");
      const [x2, y2] = spot(cards[node.name], "left");
      const bend = Math.max(16, (x2 - x1) / 2);
      return s("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
    })));
  };
  new ResizeObserver(draw).observe(box);
}

function nodeWords(node) {
  const { progress, measured } = node;
  const words = [h("h3", {}, h("span", {}, node.name), badge(node.state))];
  if (progress) {
    words.push(h("progress", { max: Math.max(1, progress.total), value: progress.done, "aria-label": `Progress of ${node.name}` }),
      h("p", {}, `${number(progress.done)} of ${number(progress.total)} ${progress.unit} ${progress.note}`));
    if (progress.per_second !== null) words.push(h("p", { class: "dim" }, `${number(progress.per_second)}/s, ${duration(progress.seconds_left)} left`));
  }
  const machines = node.workers?.machines ?? [];
  for (const one of machines.slice(0, MACHINES)) {
    const items = one.items.length ? `: ${one.items.join(", ")}${one.items.length < one.workers ? ", …" : ""}` : "";
    words.push(h("p", { class: "dim" }, `${number(one.workers)} ${one.workers === 1 ? "worker" : "workers"} on ${one.machine}${items}`));
  }
  const further = (node.workers?.further ?? 0) + Math.max(0, machines.length - MACHINES);
  if (further) words.push(h("p", { class: "dim" }, `and on ${number(further)} further machines`));
  if (node.items !== null && node.items !== undefined) words.push(h("p", {}, `${number(node.items)} ${node.item_name}`));
  if (node.seconds) words.push(h("p", { class: "dim" }, `${duration(node.seconds)}${node.rate ? `, ${number(node.rate)}/s` : ""}${node.where ? `, ${node.where}` : ""}`));
  const used = [["data_wait_fraction", "data wait"], ["cpu_utilisation", "CPU"], ["gpu_utilisation", "GPU"]]
    .filter(([key]) => measured[key] !== undefined).map(([key, title]) => `${title} ${percent(measured[key])}`);
  if (used.length) words.push(h("p", { class: "dim" }, used.join(", ")));
  const shards = node.units;
  if (shards) {
    words.push(h("p", { class: "dim" }, `${number(shards.done.length)}${shards.planned === null ? "" : ` of ${number(shards.planned)}`} ${shards.done.length === 1 && shards.planned === null ? "unit" : "units"}`));
    if (shards.planned && shards.planned <= 400) {
      words.push(h("div", { class: "units", role: "img", "aria-label": `${shards.done.length} of ${shards.planned} units are done` },
        Array.from({ length: shards.planned }, (_, index) => h("span", { class: index < shards.done.length ? "done" : null }))));
    }
  }
  const gone = Object.values(node.lost ?? {}).reduce((a, b) => a + b, 0);
  if (gone) words.push(h("p", { class: "fault" }, `${number(gone)} lost or skipped`));
  return words;
}

// ---- curves

const FAVOURITES = [/ (.*\/)?loss$/, / held_out_loss$/, / (.*\/)?cosine_true$/, / samples_per_second$/]; // of "stage name", the first ones first

async function curvesOf(run, others, signal) {
  const place = h("div", {});
  let names = {};
  try {
    names = await ask(`runs/${part(run.run)}/curves`);
  } catch (error) {
    return h("p", { class: "fault" }, error.message);
  }
  const all = Object.entries(names).flatMap(([stage, list]) => list.map((one) => `${stage} ${one}`));
  if (!all.length) return h("p", { class: "dim" }, "Nothing of this run is recorded with MLflow, or not here.");
  const training = FAVOURITES.flatMap((like) => all.filter((one) => one.startsWith("train_") && like.test(one)));
  const state = { shown: (training.length ? training : all).slice(0, 6), runs: [run.run, ...others], smooth: 0, log: false, time: false };
  const runs = (await ask("runs", { metric: "none" })).runs.map((one) => one.run);
  const charts = h("div", { class: "charts" });
  const cache = new Map();
  const load = (id, shown, isFresh) => {
    const [stage, ...rest] = shown.split(" ");
    const key = `${id} ${shown}`;
    if (isFresh || !cache.has(key)) cache.set(key, ask(`runs/${part(id)}/curves/${part(stage)}`, { name: rest.join(" ") }).catch(() => []));
    return cache.get(key);
  };
  async function draw(isFresh = false) {
    const made = await Promise.all(state.shown.map(async (shown) => {
      const found = await Promise.all(state.runs.map((id) => load(id, shown, isFresh)));
      const series = found.map((rows, index) => ({ label: state.runs[index],
        x: state.time ? rows.map((row) => (row[2] - rows[0][2]) / 1000) : rows.map((row) => row[0]), y: smoothed(rows.map((row) => row[1]), state.smooth) }));
      return curves(shown.replace(" ", ": "), series, { isLog: state.log, xLabel: state.time ? "seconds" : "step" });
    }));
    charts.replaceChildren(...made);
  }
  const again = () => { render(); draw().catch((error) => report(error.message, true)); };
  function render() {
    const smooth = h("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: state.smooth, onchange: () => { state.smooth = Number(smooth.value); draw(); } });
    place.replaceChildren(
      h("div", { class: "row" },
        field("Add a curve", select([["", "choose …"], ...all.filter((one) => !state.shown.includes(one)).map((one) => [one, one.replace(" ", ": ")])], "", (one) => { state.shown.push(one); again(); }), true),
        runPicker(runs, state.runs, (chosen) => { state.runs = chosen.slice(0, 8); again(); }, "Lay a run over it"),
        field("Smoothing", smooth), check("logarithmic", state.log, (on) => { state.log = on; draw(); }), check("by time", state.time, (on) => { state.time = on; draw(); })),
      chips(state.shown.map((one) => one.replace(" ", ": ")), (one) => { state.shown = state.shown.filter((shown) => shown.replace(" ", ": ") !== one); again(); }, "Curves shown"),
      ...(state.runs.length > 1 ? [chips(state.runs, (one) => { state.runs = state.runs.filter((id) => id !== one); again(); }, "Runs laid over one another")] : []), charts);
  }
  again();
  if (run.status === "running") {
    const timer = setInterval(() => draw(true).catch((error) => report(error.message, true)), 3 * POLL);
    signal.addEventListener("abort", () => clearInterval(timer));
  }
  return place;
}

// ---- images over training, of one run or of several at the same step

export function imagesOf(runs) {
  const place = h("div", {});
  into(place, async () => {
    const found = await Promise.all(runs.map((id) => ask(`runs/${part(id)}/images`).catch(() => ({}))));
    const kinds = [...new Set(found.flatMap((one) => Object.entries(one).flatMap(([stage, names]) => Object.keys(names).map((name) => `${stage} ${name}`))))];
    if (!kinds.length) return h("p", { class: "dim" }, "No stage logged images.");
    const state = { kind: kinds.find((one) => one.startsWith("train_decoder")) ?? kinds[0], at: null };
    const box = h("div", {});
    const render = () => {
      const [stage, ...rest] = state.kind.split(" ");
      const name = rest.join(" ");
      const steps = [...new Set(found.flatMap((one) => one[stage]?.[name] ?? []))].sort((a, b) => a - b);
      const last = steps.length - 1;
      const row = h("div", { class: "side", tabindex: "0", role: "region", "aria-label": "Images of this step", style: { gridTemplateColumns: `repeat(${runs.length}, minmax(min(18rem, 80vw), 1fr))` } });
      const label = h("output", {});
      const slider = h("input", { type: "range", min: "0", max: String(last), step: "1", value: last, oninput: () => move() });
      const move = () => {
        const step = steps[Number(slider.value)];
        label.textContent = `step ${number(step)} (${Number(slider.value) + 1} of ${steps.length})`;
        slider.setAttribute("aria-valuetext", label.textContent);
        row.replaceChildren(...runs.map((id, index) => {
          const own = (found[index][stage]?.[name] ?? []).filter((one) => one <= step);
          if (!own.length) return h("p", { class: "dim" }, `${id}: none until this step`);
          const at = own[own.length - 1];
          return h("figure", {}, h("img", { class: "grid-image", style: { aspectRatio: "auto" }, src: `api/runs/${part(id)}/images/${part(stage)}/${at}?name=${part(name)}`, alt: `${name} of ${id} at step ${at}` }),
            h("figcaption", {}, `${id}, step ${number(at)}`));
        }));
      };
      box.replaceChildren(h("div", { class: "row" }, field("Images", select(kinds.map((one) => [one, one.replace(" ", ": ").replaceAll("_", " ")]), state.kind, (kind) => { state.kind = kind; render(); })),
        field("Step", slider, true), label), row);
      move();
    };
    render();
    return box;
  });
  return place;
}

// ---- what was lost, what was made

function lost(run) {
  const rows = run.graph.flatMap((node) => Object.entries(node.lost ?? {}).map(([cause, count]) => [node.name, cause.replace(/^(failed|skipped|removed)_/, "$1: ").replaceAll("_", " "), count]));
  if (!rows.length) return h("p", { class: "dim" }, "Nothing was lost.");
  return h("div", {}, table(["stage", "cause", "count"], rows, "Lost data by cause"),
    folded("Examples", async () => {
      const found = await ask(`runs/${part(run.run)}/findings/download_shards`);
      const blocks = found.blocks.filter((block) => /lost entries|skipped entries/.test(block.title));
      return blocks.length ? blocks.map(showBlock) : [h("p", { class: "dim" }, "no examples in the shards that were read")];
    }));
}

const showBlock = (block) => h("div", {}, h("h3", {}, block.title),
  block.png ? h("img", { style: { maxWidth: "100%" }, src: `data:image/png;base64,${block.png}`, alt: block.title }) : table(block.headings, block.rows, block.title));

export async function findings(run, stage) {
  const found = await ask(`runs/${part(run)}/findings/${part(stage)}`);
  return [h("p", { class: "dim" }, found.uri), ...found.blocks.map(showBlock), ...found.notes.map((note) => h("p", { class: "dim" }, note))];
}

function metrics(run) {
  const names = Object.keys(run.metrics);
  if (!names.length) return h("p", { class: "dim" }, "Nothing was measured.");
  const place = h("div", {});
  const text = h("input", { type: "search", placeholder: "a part of a name", oninput: () => render() });
  const render = () => place.replaceChildren(table(["metric", "value", "interval", "about"],
    names.filter((one) => one.includes(text.value)).slice(0, 200).map((one) => {
      const { value, low, high, about } = run.metrics[one];
      return [one, value, low === undefined ? "" : `${number(low)} – ${number(high)}`, about ?? ""];
    }), "Metrics"));
  render();
  return folded(`${names.length} metrics`, () => [field("Find", text), place]);
}

async function config(run) {
  const runs = (await ask("runs", { metric: "none" })).runs.map((one) => one.run).filter((one) => one !== run.run);
  const place = h("div", {});
  const other = select([["", "choose …"], ...runs], "", (chosen) => chosen && into(place, async () => {
    const rows = await ask("differences", { run: [run.run, chosen] });
    return rows.length ? table(["key", run.run, chosen], rows.map((row) => [row.key, ...row.values.map((value) => value ?? "—")]), "Differences of the configurations")
      : h("p", {}, "The configurations are equal.");
  }));
  return h("div", {}, h("div", { class: "row" }, field("What differs from", other)), place,
    folded("All of it", () => table(["key", "value"], Object.entries(run.config), "Configuration")));
}
