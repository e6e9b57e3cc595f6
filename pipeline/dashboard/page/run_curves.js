// Curves of what MLflow holds of a run, and of others laid over it.

import { curves, smoothed } from "./chart.js";
import { ask, check, chips, choices, field, h, part, report, runPicker, select, turn } from "./dom.js";

const FAVOURITES = [/ (.*\/)?loss$/, / held_out_loss$/, / (.*\/)?cosine_true$/, / samples_per_second$/]; // of "stage name", the first ones first
const FIRST = 6; // curves that are shown until somebody chooses others

const titled = (one) => one.replace(" ", ": ");

export function curvesOf(run, others, signal) {
  const state = { all: [], shown: [], isChosen: false, runs: [run.run, ...others], smooth: 0, log: false, time: false };
  const cache = new Map(); // points by run and curve
  const made = new Map(); // charts by what they show
  const charts = h("div", { class: "charts" });
  const note = h("p", { class: "dim" }, "reading …");
  const add = select([], "", (one) => { if (one) choose([...state.shown, one]); });
  const smooth = h("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0", onchange: () => { state.smooth = Number(smooth.value); again(); } });
  const picker = h("div", {});
  const shown = h("div", {});
  const laid = h("div", {});
  const controls = h("div", { hidden: true }, h("div", { class: "row" }, field("Add a curve", add, true), picker, field("Smoothing", smooth),
    check("logarithmic", false, (on) => { state.log = on; again(); }), check("by time", false, (on) => { state.time = on; again(); })), shown, laid);
  const box = h("div", {}, note, controls, charts);
  let known = [];

  const again = () => draw().catch((error) => report(error.message, true));
  function choose(wanted) {
    Object.assign(state, { shown: wanted, isChosen: true });
    render();
    again();
  }
  function lay(runs) {
    state.runs = runs.slice(0, 8);
    render();
    again();
  }
  function render() {
    choices(add, [["", "choose …"], ...state.all.filter((one) => !state.shown.includes(one)).map((one) => [one, titled(one)])], "");
    picker.replaceChildren(runPicker(known, state.runs, lay, "Lay a run over it"));
    shown.replaceChildren(chips(state.shown.map(titled), (one) => choose(state.shown.filter((own) => titled(own) !== one)), "Curves shown"));
    laid.replaceChildren(...(state.runs.length > 1 ? [chips(state.runs, (one) => lay(state.runs.filter((id) => id !== one)), "Runs laid over one another")] : []));
  }

  async function load(id, curve, isFresh) {
    const [stage, ...rest] = curve.split(" ");
    const key = `${id} ${curve}`;
    if (isFresh || !cache.has(key)) {
      try {
        cache.set(key, await ask(`runs/${part(id)}/curves/${part(stage)}`, { name: rest.join(" ") }));
      } catch (error) {
        if (!signal.aborted) report(error.message, true);
      }
    }
    return cache.get(key) ?? [];
  }
  const seriesOf = (found) => found.map((rows, index) => ({ label: state.runs[index],
    x: rows.map((row) => (state.time ? (row[2] - rows[0][2]) / 1000 : row[0])), y: smoothed(rows.map((row) => row[1]), state.smooth) }));
  async function draw(isFresh = false) {
    const isLast = turn(charts);
    const { runs } = state;
    const found = await Promise.all(state.shown.map(async (one) => [one, await Promise.all(runs.map((id) => load(id, one, isFresh)))]));
    if (!isLast()) return;
    const keys = found.map(([one, rows]) => {
      const key = JSON.stringify([one, runs, state.log, state.time]);
      if (made.has(key)) made.get(key).update(seriesOf(rows));
      else made.set(key, curves(titled(one), seriesOf(rows), { isLog: state.log, xLabel: state.time ? "seconds" : "step" }));
      return key;
    });
    for (const key of made.keys()) if (!keys.includes(key)) made.delete(key);
    const boxes = keys.map((key) => made.get(key).box);
    if (boxes.length !== charts.children.length || boxes.some((one, index) => charts.children[index] !== one)) charts.replaceChildren(...boxes);
  }

  // Takes in curves that are new, as stages begin and measure, and further points of those that are shown.
  async function update() {
    const names = await ask(`runs/${part(run.run)}/curves`);
    const all = Object.entries(names).flatMap(([stage, list]) => list.map((one) => `${stage} ${one}`));
    const isNew = JSON.stringify(all) !== JSON.stringify(state.all);
    state.all = all;
    note.textContent = "Nothing of this run is recorded with MLflow, or not here.";
    note.hidden = all.length > 0;
    controls.hidden = !all.length;
    if (!state.isChosen) {
      const training = FAVOURITES.flatMap((like) => all.filter((one) => one.startsWith("train_") && like.test(one)));
      const wanted = [...new Set([...state.shown, ...(training.length ? training : all)])];
      state.shown = (training.length ? wanted.filter((one) => training.includes(one)) : wanted).slice(0, FIRST);
    }
    if (isNew) render();
    await draw(true);
  }

  async function begin() {
    try {
      known = (await ask("runs", { metric: "none" })).runs.map((one) => one.run);
      await update();
    } catch (error) {
      note.hidden = false;
      note.textContent = error.message;
    }
  }
  begin();
  return { box, update };
}
