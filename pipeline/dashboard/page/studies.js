// Human evaluation: studies of blind pairs, links for raters, win rates.

import { ask, chips, field, folded, h, into, number, part, percent, report, runPicker, s, select, send, when } from "./dom.js";

export async function showStudies(main) {
  const list = h("div", {});
  const reload = () => into(list, async () => {
    const found = await ask("studies");
    return found.length ? found.map((one, index) => folded(`${one.title} (${number(one.pairs)} pairs)`, () => study(one.study), index === 0))
      : h("p", { class: "dim" }, "There is no study yet.");
  });
  main.replaceChildren(h("h1", {}, "Human evaluation"),
    h("p", { class: "dim" }, "Raters see two images of one prompt, not whose they are, in random order and on random sides, and say which follows the prompt better and which looks better. What they say is in the store at once."),
    await form(reload), h("h2", {}, "Studies"), list);
  await reload();
}

async function form(done) {
  const known = (await ask("runs", { metric: "none" })).runs.map((one) => one.run);
  const place = h("div", {});
  const state = { runs: [], set: "prior" };
  const title = h("input", { required: true, maxlength: "200" });
  const prompts = h("textarea", { rows: "3", placeholder: "one prompt in each line; none: all that the runs have in common" });
  const file = h("input", { type: "file", accept: ".txt,text/plain", onchange: async () => { prompts.value = file.files[0] ? await file.files[0].text() : ""; } });
  const set = h("input", { value: state.set, onchange: () => { state.set = set.value; } });
  const create = async (event) => {
    event.preventDefault();
    try {
      await send("studies", { title: title.value, runs: state.runs, set: state.set, prompts: prompts.value });
      state.runs = [];
      title.value = "";
      render();
      report("The study is made.");
      done();
    } catch (error) {
      report(error.message, true);
    }
  };
  const render = () => place.replaceChildren(h("form", { onsubmit: create },
    h("div", { class: "row" }, field("Title", title, true), runPicker(known, state.runs, (runs) => { state.runs = runs.slice(0, 6); render(); }), field("Set of images", set)),
    chips(state.runs, (run) => { state.runs = state.runs.filter((one) => one !== run); render(); }, "Runs compared"),
    h("div", { class: "row" }, field("Prompts", prompts, true), field("or from a file", file)),
    h("button", { type: "submit", class: "main", disabled: state.runs.length < 2 }, state.runs.length < 2 ? "Choose two runs" : "Make the study")));
  render();
  return h("details", {}, h("summary", {}, "A new study"), h("div", {}, place));
}

async function study(id) {
  const found = await ask(`studies/${part(id)}`);
  const link = h("div", {});
  const name = h("input", { required: true, maxlength: "100" });
  const invite = async (event) => {
    event.preventDefault();
    try {
      const made = await send(`studies/${part(id)}/raters`, { name: name.value });
      const url = new URL(`../${made.path}/`, location.href.split("#")[0]).href;
      const shown = h("input", { readonly: true, value: url, onfocus: () => shown.select() });
      link.replaceChildren(h("div", { class: "row" }, field(`Link for ${made.name}: it is shown this once`, shown, true)));
      shown.focus();
    } catch (error) {
      report(error.message, true);
    }
  };
  return [
    h("p", { class: "dim" }, `made ${when(found.created)}; ${found.runs.join(", ")}`),
    found.rates.length ? h("div", { class: "cards" }, found.rates.map(rate)) : h("p", { class: "dim" }, "Nobody has rated yet."),
    found.rates.length ? h("p", { class: "dim" }, "A tie counts half. Intervals are Wilson's, 95 %, over pairs: what several raters said of a pair is averaged and counts once.") : null,
    h("h3", {}, "Raters"), found.raters.length ? h("ul", {}, found.raters.map((one) => h("li", {}, `${one.name}: ${number(one.done)} of ${number(found.pairs)}`))) : h("p", { class: "dim" }, "Nobody is invited yet."),
    h("form", { class: "row", onsubmit: invite }, field("Invite a rater by name", name, true), h("button", { type: "submit" }, "Make a link")), link,
  ].filter(Boolean);
}

function rate(one) {
  const x = (value) => 10 + 280 * value;
  const title = one.question === "alignment" ? "follows the prompt better" : "looks better";
  return h("div", { class: "card" }, h("h3", {}, title), h("p", {}, h("strong", {}, one.first), ` against ${one.second}`),
    h("div", {}, h("span", { class: "big" }, percent(one.rate)), h("span", { class: "dim" }, ` ${percent(one.low)} – ${percent(one.high)}`)),
    s("svg", { viewBox: "0 0 300 24", class: "plot", role: "img", "aria-label": `win rate ${percent(one.rate)}, from ${percent(one.low)} to ${percent(one.high)}` },
      s("line", { class: "axis", x1: x(0), x2: x(1), y1: 12, y2: 12 }), s("line", { class: "axis", x1: x(0.5), x2: x(0.5), y1: 2, y2: 22 }),
      s("line", { x1: x(one.low), x2: x(one.high), y1: 12, y2: 12, stroke: "#d1651f", "stroke-width": 4, opacity: 0.5 }), s("circle", { cx: x(one.rate), cy: 12, r: 6, fill: "#d1651f" })),
    h("p", { class: "dim" }, `won ${number(one.firsts)}, tied ${number(one.ties)}, lost ${number(one.seconds)} in ${number(one.votes)} votes on ${number(one.pairs)} pairs`));
}
