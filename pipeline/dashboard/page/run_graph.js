// The graph of a run's stages: cards with state, progress, use of the machine and shards, and lines between them.

import { badge, breakable, duration, h, number, percent, s } from "./dom.js";

const MACHINES = 12; // of a stage that are listed in its card

export function graphOf() {
  const lines = s("svg", { "aria-hidden": "true" });
  const box = h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "Graph of the stages" }, lines);
  const cards = new Map(); // by stage: its card, and what it shows
  let nodes = [];
  const draw = () => {
    const at = box.getBoundingClientRect();
    const spot = (card, side) => {
      const one = card.getBoundingClientRect();
      return [one[side] - at.left + box.scrollLeft, one.top - at.top + Math.min(28, one.height / 2) + box.scrollTop];
    };
    lines.replaceChildren(...nodes.flatMap((node) => node.inputs.filter((one) => cards.has(one)).map((one) => {
      const [x1, y1] = spot(cards.get(one).card, "right");
      const [x2, y2] = spot(cards.get(node.name).card, "left");
      const bend = Math.max(16, (x2 - x1) / 2);
      return s("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
    })));
  };
  const update = (run) => {
    nodes = run.graph;
    const depth = depths(nodes);
    const used = {};
    let isChanged = false;
    for (const node of nodes) {
      if (!cards.has(node.name)) cards.set(node.name, { card: box.appendChild(h("div", {})), shown: "" });
      const own = cards.get(node.name);
      const row = (used[depth[node.name]] = (used[depth[node.name]] ?? 0) + 1);
      const shown = JSON.stringify([node, row, depth[node.name]]);
      if (shown === own.shown) continue;
      isChanged = true;
      own.shown = shown;
      own.card.className = `card node ${node.state}`;
      Object.assign(own.card.style, { gridColumn: depth[node.name] + 1, gridRow: row });
      own.card.replaceChildren(...nodeWords(node));
    }
    if (isChanged) draw();
  };
  new ResizeObserver(draw).observe(box);
  return { box, update };
}

function depths(nodes) {
  const depth = {};
  for (const node of nodes) depth[node.name] = Math.max(0, ...node.inputs.map((one) => (depth[one] ?? -1) + 1));
  return depth;
}

function nodeWords(node) {
  const { progress } = node;
  const words = [h("h3", {}, breakable(node.name), badge(node.state))];
  if (progress) {
    words.push(h("progress", { max: Math.max(1, progress.total), value: progress.done, "aria-label": `Progress of ${node.name}` }),
      h("p", {}, `${number(progress.done)} of ${number(progress.total)} ${progress.unit} ${progress.note}`));
    if (progress.per_second !== null) words.push(h("p", { class: "dim" }, `${number(progress.per_second)}/s, ${duration(progress.seconds_left)} left`));
  }
  words.push(...workerWords(node.workers));
  if (node.items !== null && node.items !== undefined) words.push(h("p", {}, `${number(node.items)} ${node.item_name}`));
  if (node.seconds) words.push(h("p", { class: "dim" }, `${duration(node.seconds)}${node.rate ? `, ${number(node.rate)}/s` : ""}${node.where ? `, ${node.where}` : ""}`));
  const used = useWords(node.used);
  if (used) words.push(h("p", { class: "dim" }, used));
  if (node.units) words.push(...unitWords(node.units));
  const gone = Object.values(node.lost ?? {}).reduce((a, b) => a + b, 0);
  if (gone) words.push(h("p", { class: "fault" }, `${number(gone)} lost or skipped`));
  return words;
}

function workerWords(workers) {
  const machines = workers?.machines ?? [];
  const words = machines.slice(0, MACHINES).map((one) => {
    const items = one.items.length ? `: ${one.items.join(", ")}${one.items.length < one.workers ? ", …" : ""}` : "";
    return h("p", { class: "dim" }, `${number(one.workers)} ${one.workers === 1 ? "worker" : "workers"} on ${one.machine}${items}`);
  });
  const further = (workers?.further ?? 0) + Math.max(0, machines.length - MACHINES);
  return further ? [...words, h("p", { class: "dim" }, `and on ${number(further)} further machines`)] : words;
}

function useWords(used) {
  const rates = [["data_wait_fraction", "data wait"], ["cpu_utilisation", "CPU"], ["gpu_utilisation", "GPU"]]
    .filter(([key]) => used[key] !== undefined).map(([key, title]) => `${title} ${percent(used[key])}`);
  const memory = used.gpu_memory_gigabytes === undefined ? [] : [`GPU memory ${number(used.gpu_memory_gigabytes)} GB`];
  const samples = used.samples_per_second === undefined ? [] : [`${number(used.samples_per_second)} samples/s`];
  return [...rates, ...memory, ...samples].join(", ");
}

// Units, and of shards which of them are done, at hand, or lost samples: a square for each, or for equally many.
function unitWords(units) {
  const count = `${number(units.done)}${units.planned === null ? "" : ` of ${number(units.planned)}`} ${units.done === 1 && units.planned === null ? "unit" : "units"}`;
  if (!units.parts) return [h("p", { class: "dim" }, count)];
  const lost = Object.values(units.lost).reduce((a, b) => a + b, 0);
  const words = [`${count.replace(/units?$/, "shards")} are done`, units.running.length ? `${number(units.running.length)} at hand` : "", lost ? `marked: ${number(lost)} samples lost` : ""].filter(Boolean);
  return [h("p", { class: "dim" }, words.join(", ")),
    h("div", { class: "units", role: "img", "aria-label": words.join(", ") }, units.parts.map((done, index) => square(units, done, index)))];
}

function square({ step, total, running, lost }, done, index) {
  const [first, size] = [index * step, Math.min(step, total - index * step)];
  const state = done === size ? "done" : running.includes(index) ? "running" : done ? "some" : "waiting";
  const shards = size === 1 ? `shard ${first}: ${state}` : `shards ${first} to ${first + size - 1}: ${done} of ${size} done`;
  return h("span", { class: lost[index] ? `${state} lost` : state, title: lost[index] ? `${shards}, ${number(lost[index])} samples lost` : shards });
}
