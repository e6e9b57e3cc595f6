// Any metric against the fraction of the images whose captions the prior read: what captions are worth.

import { groupsOf, points } from "./chart.js";
import { address, ask, check, field, h, number, part, percent, report, spread, table, turn } from "./dom.js";

export async function showFraction(main, { params, remember }) {
  const known = await ask("runs");
  const state = { metric: params.get("metric") || known.shown[0], joined: true };
  const place = h("div", {});
  const list = h("datalist", { id: "names" }, known.metrics.map((name) => h("option", { value: name })));
  const metric = h("input", { list: "names", value: state.metric ?? "", onchange: () => { state.metric = metric.value; again(); } });
  let found = null;
  const again = () => load().catch((error) => report(error.message, true));
  async function load() {
    const isLast = turn(place);
    remember(address("fraction", { metric: state.metric }));
    const asked = state.metric ? await ask("fraction", { metric: state.metric }) : { groups: [], differences: [] };
    if (!isLast()) return;
    found = asked;
    render();
  }
  function render() {
    if (!found.groups.length) return place.replaceChildren(h("p", { class: "dim" }, "No run with captions has this metric."));
    place.replaceChildren(
      ...found.groups.map((group, index) => chart(group, index, found.groups.length, state)),
      ...(found.differences.length ? [h("div", { class: "care" }, found.differences.map((one) => h("p", {}, one)))] : []),
      h("h2", {}, "As a table"),
      table(["run", "line", "captions", "value", "spread", "n"], found.groups.flatMap((group) => group.lines.flatMap((line) => line.points.flatMap((point) => rows(line, point)))), "The metric by captioned fraction"));
  }
  main.replaceChildren(h("h1", {}, "What captions are worth"),
    h("p", { class: "dim" }, "A line joins runs that differ in nothing but the captions that the prior reads. Runs that differ in seeds alone are one point: their mean, with the standard deviation over them; of a single run it is the 95 % interval. What was measured by another protocol has a plot of its own."),
    h("div", { class: "row" }, field("Metric", metric, true), list, check("join the points of a line", state.joined, (on) => { state.joined = on; if (found) render(); })), place);
  await load();
}

const bounds = (point) => (point.std !== null ? { low: point.mean - point.std, high: point.mean + point.std }
  : point.runs.length === 1 ? { low: point.runs[0].low, high: point.runs[0].high } : {});

function chart(group, index, all, { metric, joined }) {
  const drawn = group.lines.flatMap((line) => line.points.filter((point) => point.mean !== null).flatMap((point) => {
    const href = point.runs.length === 1 ? address(`run/${part(point.runs[0].run)}`) : address("compare", { run: point.runs.slice(0, 12).map((one) => one.run) });
    const middle = { x: point.fraction, y: point.mean, ...bounds(point), group: line.label, href, label: `${words(point)} at ${percent(point.fraction)}, ${line.label}` };
    const single = point.runs.length === 1 ? [] : point.runs.filter((run) => run.value !== null).map((run) => ({
      x: point.fraction, y: run.value, group: line.label, isLoose: true, r: 2.5, opacity: 0.6, label: `${run.run}: ${number(run.value)}` }));
    return [middle, ...single];
  }));
  const title = group.is_recorded ? (all === 1 ? null : h("h3", {}, `Protocol ${index + 1} of ${all}`))
    : h("p", { class: "dim" }, "No protocol was recorded: whether these were measured alike is not known.");
  return h("div", { class: "card plots" }, title, drawn.length
    ? [points(`${metric} against the captioned fraction`, drawn, { xLabel: "images whose captions the prior read", yLabel: metric, lines: joined, xText: percent }), groupsOf(drawn)]
    : h("p", { class: "dim" }, "No value is finite."));
}

const words = (point) => (point.runs.length === 1 ? `${point.runs[0].run}: ${number(point.mean)}${spread(point.runs[0]) ? ` (${spread(point.runs[0])})` : ""}`
  : `mean of ${point.runs.length} runs ${number(point.mean)}${point.std === null ? "" : ` ± ${number(point.std)}`}`);

function rows(line, point) {
  const of = (run) => [h("a", { href: address(`run/${part(run.run)}`) }, run.run), line.label, percent(point.fraction), run.value,
    run.low === undefined ? "" : `${number(run.low)} – ${number(run.high)}`, run.n ?? ""];
  const mean = point.runs.length > 1 ? [[`mean of ${point.runs.length} runs`, line.label, percent(point.fraction), point.mean, point.std === null ? "" : `± ${number(point.std)}`, ""]] : [];
  return [...mean, ...point.runs.map(of)];
}
