// Elements, requests and words. Whatever comes from data becomes text of a node, never markup.

const SVG = "http://www.w3.org/2000/svg";
export const COLORS = ["#d1651f", "#2f7fd1", "#2e9c58", "#a052c4", "#c23a52", "#1f9b9b", "#8a7a1e", "#6b6f78"];

function add(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (["value", "checked", "disabled", "hidden", "selected"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, props = {}, ...children) => add(document.createElement(tag), props, children);
export const s = (tag, props = {}, ...children) => add(document.createElementNS(SVG, tag), props, children);

export function report(text, isFault = false) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.classList.toggle("fault", isFault);
}

export async function ask(path, params = {}, options = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
  }
  const reply = await fetch(`api/${path}${query.size ? `?${query}` : ""}`, options);
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.detail || `status ${reply.status}`);
  return content;
}

export const send = (path, body) =>
  ask(path, {}, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const part = (text) => encodeURIComponent(text);

export function address(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") query.append(name, one);
  }
  return `#/${path}${query.size ? `?${query}` : ""}`;
}

// ---- numbers as people read them

export function number(value) {
  if (value === null || value === undefined) return "—";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const percent = (fraction) => (fraction === null || fraction === undefined ? "" : `${Number((100 * fraction).toPrecision(3))} %`);

export function when(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? text : time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function supervised(run) {
  return run.setting === "semi-supervised" ? `semi-supervised ${percent(run.fraction)}` : run.setting;
}

// Interval and number of a metric, as far as they were recorded.
export const spread = (one) => [
  one.low === undefined ? "" : `${number(one.low)} – ${number(one.high)}`, one.n === undefined ? "" : `n ${number(one.n)}`,
].filter(Boolean).join(", ");

// ---- parts of pages

export const badge = (state) => h("span", { class: `badge ${state}` }, state);

// A name that may be broken at its parts, and nowhere else where there is room for these.
export const breakable = (name) => h("span", {}, name.split(/(?<=[/_])/).flatMap((one) => [one, h("wbr", {})]));

// A metric's name below the stage that measured it.
export function metricName(name) {
  const [stage, ...rest] = name.split("/");
  return h("span", { class: "name" }, h("span", { class: "dim" }, stage), breakable(rest.join("/")));
}

let fields = 0;
export function field(label, control, wide = false) {
  control.id ||= `field-${(fields += 1)}`;
  return h("div", { class: wide ? "field wide" : "field" }, h("label", { for: control.id }, label), control);
}

export function check(label, isOn, change) {
  const box = h("input", { type: "checkbox", checked: isOn, onchange: () => change(box.checked) });
  return h("label", { class: "check" }, box, label);
}

export function select(options, value, change) {
  const control = h("select", { onchange: () => change(control.value) });
  choices(control, options, value);
  return control;
}

// Gives a select other options, so that whoever stands on it stays there.
export function choices(control, options, value) {
  const made = options.map((one) => (Array.isArray(one) ? one : [one, one]));
  control.replaceChildren(...made.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
}

export function table(headings, rows, label) {
  const cell = (value) => value instanceof Node ? h("td", {}, value)
    : h("td", { class: typeof value === "number" ? "number" : null }, typeof value === "number" ? number(value) : String(value ?? ""));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, headings.map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}

// Details that are loaded when they are opened; renew() gives them another title, and loads them again.
export function folded(title, load, isOpen = false) {
  const inside = h("div", {});
  const summary = h("summary", {}, title);
  const box = h("details", { open: isOpen }, summary, inside);
  let isLoaded = false;
  const fill = () => {
    if (!box.open || isLoaded) return;
    isLoaded = true;
    into(inside, load);
  };
  box.addEventListener("toggle", fill);
  box.renew = (text) => {
    summary.textContent = text;
    isLoaded = false;
    fill();
  };
  if (isOpen) fill();
  return box;
}

// Returns whether what is asked for now is still the last thing that was asked for at this place.
const turns = new WeakMap();
export function turn(place) {
  const own = (turns.get(place) ?? 0) + 1;
  turns.set(place, own);
  return () => turns.get(place) === own;
}

// Fills a place with what a request gives, unless another one was made there meanwhile; a fault is said there.
export async function into(place, load) {
  const isLast = turn(place);
  place.replaceChildren(h("p", { class: "dim" }, "reading …"));
  let made;
  try {
    made = [await load()].flat().filter(Boolean);
  } catch (error) {
    made = [h("p", { class: "fault" }, error.message)];
  }
  if (isLast()) place.replaceChildren(...made);
}

// Does something again and again until the page is left; never twice at once, however slow the store is.
export function every(milliseconds, signal, action) {
  if (signal.aborted) return () => {};
  let isBusy = false;
  let isFault = false;
  const timer = setInterval(async () => {
    if (isBusy) return;
    isBusy = true;
    try {
      await action();
      if (isFault && !signal.aborted) report("");
      isFault = false;
    } catch (error) {
      isFault = true;
      if (!signal.aborted) report(error.message, true);
    }
    isBusy = false;
  }, milliseconds);
  const stop = () => clearInterval(timer);
  signal.addEventListener("abort", stop);
  return stop;
}

export function runPicker(runs, chosen, change, label = "Add a run") {
  const left = runs.filter((one) => !chosen.includes(one));
  return field(label, select([["", "choose …"], ...left], "", (run) => run && change([...chosen, run])));
}

export const chips = (names, remove, label) =>
  h("ul", { class: "chips", "aria-label": label }, names.map((name) =>
    h("li", {}, name, h("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => remove(name) }, "×"))));

export const tile = (src, alt, ...caption) =>
  h("figure", {}, h("img", { src, alt, loading: "lazy", decoding: "async" }), h("figcaption", {}, caption));
