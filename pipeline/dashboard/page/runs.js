// The table of all runs: sorted, filtered, with metrics and their intervals, and small plots of them.

import { points } from "./chart.js";
import { address, ask, badge, chips, duration, every, field, h, metricName, number, part, report, select, spread, supervised, turn, when } from "./dom.js";

const FIXED = [
  ["run", "run", (run) => run.run],
  ["status", "status", (run) => run.status],
  ["setting", "captions", (run) => (run.fraction ?? -1)],
  ["decoder", "decoder", (run) => run.decoder],
  ["started", "started", (run) => run.started],
  ["seconds", "took", (run) => run.seconds ?? -1],
];

export async function showRuns(main, { params, signal, remember }) {
  const state = {
    sort: params.get("sort") || "started", down: params.get("down") !== "0", text: params.get("text") || "",
    setting: params.get("setting") || "", status: params.get("status") || "", metrics: params.getAll("metric"), chosen: new Set(),
  };
  let found = await ask("runs", { metric: state.metrics });
  const body = h("div", {});
  const reload = async () => {
    const isLast = turn(body);
    const asked = await ask("runs", { metric: state.metrics });
    if (!isLast()) return;
    found = asked;
    render();
  };
  const reloadNow = () => reload().catch((error) => report(error.message, true));

  const settings = [...new Set(found.runs.map(supervised))].sort();
  const statuses = [...new Set(found.runs.map((run) => run.status))].sort();
  const text = h("input", { type: "search", value: state.text, placeholder: "a part of a run's id", oninput: () => { state.text = text.value; render(); } });
  const list = h("datalist", { id: "metrics" }, found.metrics.map((name) => h("option", { value: name })));
  const metric = h("input", { list: "metrics", placeholder: "name of a metric", onchange: () => {
    if (!found.metrics.includes(metric.value)) return report(`no run has a metric ${metric.value}`, true);
    state.metrics = [...new Set([...(state.metrics.length ? state.metrics : found.shown), metric.value])];
    metric.value = "";
    reloadNow();
  } });
  const controls = h("div", { class: "row" },
    field("Find", text, true),
    field("Captions", select([["", "all"], ["semi-supervised", "semi-supervised, all"], ...settings.map((one) => [`=${one}`, one])], state.setting, (value) => { state.setting = value; render(); })),
    field("Status", select([["", "all"], ...statuses], state.status, (value) => { state.status = value; render(); })),
    field("Add a metric", metric, true), list);

  const matches = (run) => run.run.includes(state.text) && (!state.status || run.status === state.status)
    && (!state.setting || (state.setting.startsWith("=") ? supervised(run) === state.setting.slice(1) : run.setting === state.setting));

  function ordered() {
    const fixed = FIXED.find(([name]) => name === state.sort);
    const key = fixed ? fixed[2] : (run) => run.metrics[state.sort]?.value ?? undefined;
    const sign = state.down ? -1 : 1;
    return found.runs.filter(matches).sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // those without it last
      return (x < y ? -1 : x > y ? 1 : 0) * sign;
    });
  }

  function heading(name, title) {
    const isOn = state.sort === name;
    return h("th", { scope: "col", "aria-sort": isOn ? (state.down ? "descending" : "ascending") : "none" },
      h("button", { type: "button", onclick: () => {
        state.down = isOn ? !state.down : found.directions[name] !== "lower";
        state.sort = name;
        render();
        body.querySelector(`th[aria-sort="${state.down ? "descending" : "ascending"}"] button`)?.focus();
      } }, title));
  }

  function row(run, best) {
    const box = h("input", { type: "checkbox", checked: state.chosen.has(run.run), "aria-label": `Choose ${run.run}`, onchange: () => {
      if (box.checked) state.chosen.add(run.run); else state.chosen.delete(run.run);
      renderActions();
    } });
    return h("tr", {}, h("td", {}, box),
      h("th", { scope: "row" }, h("a", { href: address(`run/${part(run.run)}`) }, run.run)),
      h("td", {}, badge(run.status), run.status === "running" ? h("div", { class: "dim" }, `${run.stages_done} of ${run.stages} stages`) : null),
      h("td", {}, supervised(run)), h("td", {}, run.decoder), h("td", {}, when(run.started)), h("td", { class: "number" }, duration(run.seconds)),
      found.shown.map((name) => cell(run.metrics[name], best[name] === run.run)));
  }

  const cell = (one, isBest) => !one ? h("td", { class: "number dim" }, "—")
    : h("td", { class: isBest ? "number best" : "number", title: one.about ?? null }, number(one.value), isBest ? h("span", { class: "dim" }, " best") : null,
      spread(one) ? h("div", { class: "dim" }, spread(one)) : null);

  const protocols = (runs, name) => new Set(runs.map((run) => run.metrics[name].protocol ?? "")).size;
  const isRecorded = (runs, name) => runs.every((run) => run.metrics[name].protocol);

  function bestOf(shown) {
    const best = {};
    for (const name of found.shown) {
      const having = shown.filter((run) => run.metrics[name] && run.metrics[name].value !== null);
      if (!found.directions[name] || !isRecorded(having, name) || protocols(having, name) > 1) continue; // not known to be measured alike
      const sign = found.directions[name] === "lower" ? 1 : -1;
      if (having.length > 1) best[name] = having.reduce((a, b) => (sign * (a.metrics[name].value - b.metrics[name].value) <= 0 ? a : b)).run;
    }
    return best;
  }

  const actions = h("div", { class: "row" });
  function renderActions() {
    const chosen = [...state.chosen];
    actions.replaceChildren(chosen.length
      ? h("a", { class: "main", href: address("compare", { run: chosen }) }, `Side by side: ${chosen.length}`)
      : h("span", { class: "dim" }, "Choose runs to see them side by side."));
    if (chosen.length) actions.append(h("a", { href: address(`run/${part(chosen[0])}`, { with: chosen.slice(1) }) }, "Curves over one another"));
  }

  function plots(shown, best) {
    const byTime = [...shown].reverse();
    return h("div", { class: "cards small" }, found.shown.map((name) => {
      const having = byTime.filter((run) => run.metrics[name] && run.metrics[name].value !== null);
      if (!having.length) return null;
      const all = having.map((run, index) => ({ x: index, y: run.metrics[name].value, low: run.metrics[name].low, high: run.metrics[name].high,
        label: `${run.run}: ${number(run.metrics[name].value)}${spread(run.metrics[name]) ? ` (${spread(run.metrics[name])})` : ""}`, href: address(`run/${part(run.run)}`), group: best[name] === run.run ? "" : " " }));
      all.sort((a, b) => (a.group < b.group ? -1 : 1));
      const top = having.find((run) => run.run === best[name]) ?? having[having.length - 1];
      const apart = protocols(having, name) > 1 ? `; ${protocols(having, name)} protocols, which cannot be compared` : "";
      return h("div", { class: "card" }, h("h3", {}, metricName(name)), h("div", {}, h("span", { class: "big" }, number(top.metrics[name].value)),
        h("span", { class: "dim" }, best[name] ? ` best, ${top.run}` : ` ${top.run}${apart}`), spread(top.metrics[name]) ? h("div", { class: "dim" }, spread(top.metrics[name])) : null), points(name, all.slice(0, 500), { width: 260, height: 56, small: true }));
    }));
  }

  const region = h("div", { class: "table runs", tabindex: "0", role: "region", "aria-label": "Runs" });
  function render() {
    remember(address("runs", {
      sort: state.sort, down: state.down ? null : "0", text: state.text, setting: state.setting, status: state.status, metric: state.metrics,
    }));
    const shown = ordered();
    const best = bestOf(shown);
    body.replaceChildren(
      plots([...shown].sort((a, b) => (a.started < b.started ? 1 : -1)), best),
      h("h2", {}, `${shown.length === found.runs.length ? "All" : `${shown.length} of`} ${found.runs.length} runs`), actions,
      region);
    region.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, h("td", {}), FIXED.map(([name, title]) => heading(name, title)), found.shown.map((name) => heading(name, metricName(name))))),
      h("tbody", {}, shown.map((run) => row(run, best)))));
    renderActions();
    dropped.replaceChildren(h("details", {}, h("summary", {}, `${found.shown.length} metrics shown`), h("div", {}, chips(found.shown, (name) => { state.metrics = found.shown.filter((one) => one !== name); reloadNow(); }, "Metrics shown"))));
  }
  const dropped = h("div", {});
  main.replaceChildren(h("h1", {}, "Runs"), controls, dropped, body);
  render();
  if (found.runs.some((run) => run.status === "running")) {
    every(10_000, signal, async () => { if (!body.contains(document.activeElement)) await reload(); });
  }
}
