// Any metric against the fraction of the images whose captions the prior read: what captions are worth.

import { groupsOf, points } from "./chart.js";
import { address, ask, check, field, h, number, part, percent, report, table } from "./dom.js";

export async function showFraction(main, { params }) {
  const known = await ask("runs");
  const state = { metric: params.get("metric") || known.shown[0], joined: true };
  const place = h("div", {});
  const list = h("datalist", { id: "names" }, known.metrics.map((name) => h("option", { value: name })));
  const metric = h("input", { list: "names", value: state.metric ?? "", onchange: () => { state.metric = metric.value; render().catch((error) => report(error.message, true)); } });
  async function render() {
    history.replaceState(null, "", address("fraction", { metric: state.metric }));
    const found = await ask("runs", { metric: [state.metric] });
    const having = found.runs.filter((run) => run.metrics[state.metric] && run.fraction !== null);
    if (!having.length) return place.replaceChildren(h("p", { class: "dim" }, "No run with captions has this metric."));
    const all = having.map((run) => ({ x: run.fraction, y: run.metrics[state.metric].value, low: run.metrics[state.metric].low, high: run.metrics[state.metric].high,
      label: `${run.run}: ${number(run.metrics[state.metric].value)} at ${percent(run.fraction)}`, href: address(`run/${part(run.run)}`), group: `${run.name}, ${run.decoder}` }));
    place.replaceChildren(h("div", { class: "card" }, points(`${state.metric} against the captioned fraction`, all, { xLabel: "images whose captions the prior read", yLabel: state.metric, lines: state.joined, xText: percent }), groupsOf(all)),
      h("h2", {}, "As a table"), table(["run", "captions", "value", "interval"], having.sort((a, b) => a.fraction - b.fraction).map((run) => {
        const { value, low, high } = run.metrics[state.metric];
        return [h("a", { href: address(`run/${part(run.run)}`) }, run.run), percent(run.fraction), value, low === undefined ? "" : `${number(low)} – ${number(high)}`];
      }), "The metric by captioned fraction"));
  }
  main.replaceChildren(h("h1", {}, "What captions are worth"), h("p", { class: "dim" }, "Each point is a run; runs of one sweep share a name and a color."),
    h("div", { class: "row" }, field("Metric", metric, true), list, check("join the points of a name", state.joined, (on) => { state.joined = on; render(); })), place);
  await render();
}
