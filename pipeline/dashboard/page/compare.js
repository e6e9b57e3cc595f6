// Several runs side by side: metrics, what differs in their settings, images of the same prompts and seeds.

import { address, ask, chips, choices, field, h, metricName, number, part, runPicker, select, spread, table, tile, turn } from "./dom.js";
import { imagesOf } from "./run_images.js";

export async function showCompare(main, { params }) {
  const chosen = params.getAll("run").slice(0, 12);
  const go = (runs) => { location.hash = address("compare", { run: runs }); };
  const known = await ask("runs");
  const parts = [h("h1", {}, "Side by side"), h("div", { class: "row" }, runPicker(known.runs.map((one) => one.run), chosen, go)),
    chips(chosen, (run) => go(chosen.filter((one) => one !== run)), "Runs")];
  if (chosen.length) {
    const rows = known.runs.filter((one) => chosen.includes(one.run)).sort((a, b) => chosen.indexOf(a.run) - chosen.indexOf(b.run));
    parts.push(await settings(chosen), h("h2", {}, "How good"), await metrics(known, rows, chosen), h("h2", {}, "The same prompts and seeds"), generated(chosen),
      h("h2", {}, "Images over training"), imagesOf(chosen).box);
  } else {
    parts.push(h("p", { class: "dim" }, "Choose at least one run."));
  }
  main.replaceChildren(...parts);
}

async function settings(chosen) {
  if (chosen.length < 2) return h("p", { class: "dim" }, "Choose another one to see what differs.");
  const rows = await ask("differences", { run: chosen });
  return h("details", { open: rows.length <= 12 }, h("summary", {}, `${rows.length} settings differ`), h("div", {}, rows.length
    ? table(["key", ...chosen], rows.map((row) => [row.key, ...row.values.map((value) => value ?? "—")]), "Settings that differ") : h("p", {}, "The configurations are equal.")));
}

// A row for each protocol: figures of different ones do not stand in one row.
async function metrics(known, rows, chosen) {
  const shown = known.shown.filter((name) => rows.some((run) => run.metrics[name]));
  if (!shown.length) return h("p", { class: "dim" }, "Nothing was measured.");
  const of = new Map(rows.map((run) => [run.run, run.metrics]));
  const compared = await ask("comparison", { run: chosen, metric: shown });
  const cell = (one) => h("td", { class: "number", title: one?.about ?? null }, number(one?.value), one && spread(one) ? h("div", { class: "dim" }, spread(one)) : null);
  const title = (name, group, index, all) => h("th", { scope: "row" }, metricName(name),
    group.is_recorded && all === 1 ? null : h("div", { class: "dim" }, group.is_recorded ? `protocol ${index + 1} of ${all}` : "protocol not recorded"));
  const body = compared.flatMap(({ name, groups }) => groups.map((group, index) => h("tr", {}, title(name, group, index, groups.length),
    chosen.map((run, place) => (group.runs.includes(place) ? cell(of.get(run)?.[name]) : h("td", { class: "number dim" }, groups.some((one) => one.runs.includes(place)) ? "" : "—"))))));
  const apart = compared.flatMap((one) => one.differences);
  return h("div", {}, h("div", { class: "table measured", tabindex: "0", role: "region", "aria-label": "Metrics" },
    h("table", {}, h("thead", {}, h("tr", {}, ["metric", ...chosen].map((one) => h("th", { scope: "col" }, one)))), h("tbody", {}, body))),
  h("p", { class: "dim" }, "Below a value: its 95 % interval, and of how many images or pairs (n) it is, where they were recorded."),
  apart.length ? h("div", { class: "care" }, apart.map((one) => h("p", {}, one))) : null);
}

function generated(chosen) {
  const place = h("div", {});
  const state = { set: "", first: 0, text: "" };
  const text = h("input", { type: "search", maxlength: "1000", oninput: () => { state.text = text.value; state.first = 0; show(); } });
  const set = select([], "", (one) => { state.set = one; state.first = 0; show(); });
  const controls = h("div", { hidden: true }, h("div", { class: "row" }, field("Set", set), field("Find a prompt", text, true)));
  const card = (row) => h("div", { class: "card" }, h("h3", {}, row.prompt, h("span", { class: "dim" }, ` seed ${row.seed}`)),
    h("div", { class: "side", tabindex: "0", role: "region", "aria-label": `Images of: ${row.prompt}, seed ${row.seed}`, style: { gridTemplateColumns: `repeat(${chosen.length}, minmax(7rem, 14rem))` } },
      row.indices.map((index, at) => (index === null ? h("p", { class: "dim" }, "none")
        : tile(`api/runs/${part(chosen[at])}/generated/${part(state.set)}/${index}`, `${row.prompt}, by ${chosen[at]}`, chosen[at])))));
  function page(found) {
    const faults = found.faults.map((one, at) => one && h("p", { class: "dim" }, `${chosen[at]}: ${one}`)).filter(Boolean);
    controls.hidden = !found.sets.length;
    if (!found.sets.length) return [...faults, h("p", { class: "dim" }, "No run generated images.")];
    if (set.children.length !== found.sets.length) choices(set, found.sets, found.set);
    state.set = found.set;
    const pages = Math.max(1, Math.ceil(found.total / found.page));
    const at = Math.min(pages - 1, Math.floor(state.first / found.page));
    const turnBy = (by) => () => { state.first = (at + by) * found.page; show(); };
    return [...faults, h("div", { class: "row" },
      h("button", { type: "button", disabled: at === 0, onclick: turnBy(-1) }, "Before"),
      h("span", {}, `${number(found.total)} prompts in common, page ${number(at + 1)} of ${number(pages)}`),
      h("button", { type: "button", disabled: at >= pages - 1, onclick: turnBy(1) }, "Next")),
    h("div", { class: "cards", style: { gridTemplateColumns: `repeat(auto-fill, minmax(min(${9 * chosen.length + 4}rem, 100%), 1fr))` } }, found.rows.map(card))];
  }
  async function show() {
    const isLast = turn(place);
    try {
      const found = await ask("generated", { run: chosen, set: state.set, text: state.text, first: state.first });
      if (isLast()) place.replaceChildren(...page(found));
    } catch (error) {
      if (isLast()) place.replaceChildren(h("p", { class: "fault" }, error.message));
    }
  }
  show();
  return h("div", {}, controls, place);
}
