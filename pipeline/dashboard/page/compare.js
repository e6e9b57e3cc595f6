// Several runs side by side: metrics, what differs in their settings, images of the same prompts and seeds.

import { address, ask, chips, field, h, number, part, report, runPicker, select, table, tile } from "./dom.js";
import { imagesOf } from "./run.js";

const PAGE = 8;

export async function showCompare(main, { params }) {
  const chosen = params.getAll("run").slice(0, 12);
  const go = (runs) => { location.hash = address("compare", { run: runs }); };
  const known = await ask("runs");
  const parts = [h("h1", {}, "Side by side"), h("div", { class: "row" }, runPicker(known.runs.map((one) => one.run), chosen, go)),
    chips(chosen, (run) => go(chosen.filter((one) => one !== run)), "Runs")];
  if (chosen.length) {
    const rows = known.runs.filter((one) => chosen.includes(one.run)).sort((a, b) => chosen.indexOf(a.run) - chosen.indexOf(b.run));
    parts.push(await settings(chosen), h("h2", {}, "How good"), metrics(known, rows), h("h2", {}, "The same prompts and seeds"), await generated(chosen),
      h("h2", {}, "Images over training"), imagesOf(chosen));
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

function metrics(known, rows) {
  const shown = known.shown.filter((name) => rows.some((run) => run.metrics[name]));
  if (!shown.length) return h("p", { class: "dim" }, "Nothing was measured.");
  const words = (one) => (!one ? "—" : one.low === undefined ? number(one.value) : `${number(one.value)} (${number(one.low)} – ${number(one.high)})`);
  const apart = (name) => new Set(rows.filter((run) => run.metrics[name]).map((run) => run.metrics[name].protocol ?? "")).size > 1;
  const found = table(["metric", ...rows.map((run) => run.run)], shown.map((name) => [apart(name) ? `${name} *` : name, ...rows.map((run) => words(run.metrics[name]))]), "Metrics");
  return shown.some(apart) ? h("div", {}, found, h("p", { class: "dim" }, "* measured by several protocols, which cannot be compared; `corgi compare` says what differs.")) : found;
}

async function generated(chosen) {
  const found = await Promise.all(chosen.map((run) => ask(`runs/${part(run)}/generated`).catch((error) => ({ rows: [], fault: error.message }))));
  const faults = found.map((one, index) => one.fault && h("p", { class: "dim" }, `${chosen[index]}: ${one.fault}`)).filter(Boolean);
  const sets = [...new Set(found.flatMap((one) => one.rows.map((row) => row.set)))];
  if (!sets.length) return h("div", {}, faults, h("p", { class: "dim" }, "No run generated images."));
  const state = { set: sets.includes("prior") ? "prior" : sets[0], page: 0, text: "" };
  const place = h("div", {});
  function common() {
    const maps = found.map((one) => new Map(one.rows.filter((row) => row.set === state.set).map((row) => [JSON.stringify([row.prompt, row.seed]), row])));
    const having = maps.filter((map) => map.size);
    const keys = having.length ? [...having[0].keys()].filter((key) => having.every((map) => map.has(key))) : [];
    return keys.filter((key) => JSON.parse(key)[0].includes(state.text)).map((key) => maps.map((map) => map.get(key)));
  }
  function render() {
    const rows = common();
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const turn = (by) => () => { state.page += by; render(); };
    place.replaceChildren(
      h("div", { class: "row" },
        h("button", { type: "button", disabled: state.page === 0, onclick: turn(-1) }, "Before"),
        h("span", {}, `${rows.length} prompts in common, page ${state.page + 1} of ${pages}`),
        h("button", { type: "button", disabled: state.page >= pages - 1, onclick: turn(1) }, "Next")),
      h("div", { class: "cards", style: { gridTemplateColumns: `repeat(auto-fill, minmax(min(${9 * chosen.length + 4}rem, 100%), 1fr))` } }, rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => {
        const first = row.find(Boolean);
        return h("div", { class: "card" }, h("h3", {}, first.prompt, h("span", { class: "dim" }, ` seed ${first.seed}`)),
          h("div", { class: "side", tabindex: "0", role: "region", "aria-label": `Images of: ${first.prompt}, seed ${first.seed}`, style: { gridTemplateColumns: `repeat(${chosen.length}, minmax(7rem, 14rem))` } }, row.map((one, index) => one
            ? tile(`api/runs/${part(chosen[index])}/generated/${part(one.set)}/${one.index}`, `${one.prompt}, by ${chosen[index]}`, chosen[index])
            : h("p", { class: "dim" }, "none"))));
      })));
  }
  const text = h("input", { type: "search", oninput: () => { state.text = text.value; state.page = 0; render(); } });
  render();
  return h("div", {}, faults, h("div", { class: "row" }, field("Set", select(sets, state.set, (set) => { state.set = set; state.page = 0; render(); })), field("Find a prompt", text, true)), place);
}
