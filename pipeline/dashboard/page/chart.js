// Charts: curves by uPlot (zoom by dragging, or by the buttons), and points as SVG.

import { COLORS, h, number, s } from "./dom.js";

export const smoothed = (values, weight) => {
  let last = null;
  let debt = 1;
  return values.map((value) => {
    if (value === null || !weight) return value;
    last = last === null ? (1 - weight) * value : weight * last + (1 - weight) * value;
    debt *= weight;
    return last / (1 - debt); // a mean of what has come so far, as in Adam
  });
};

function joined(series) {
  const x = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const rows = series.map((one) => {
    const by = new Map(one.x.map((value, index) => [value, one.y[index]]));
    return x.map((value) => (by.has(value) ? by.get(value) : undefined));
  });
  return [x, ...rows];
}

// first: [{label, x, y}]; returns the box, and update() for further points of the same series, which keeps the zoom.
export function curves(title, first, { isLog = false, xLabel = "step" } = {}) {
  const probe = document.body.appendChild(h("span", { class: "dim" }));
  const ink = getComputedStyle(probe).color;
  probe.remove();
  let data = joined(first);
  let plot = null;
  const place = h("div", { role: "img", "aria-label": describe(title, first) });
  const range = h("span", { class: "dim" });
  const axis = { stroke: ink, grid: { stroke: ink, width: 0.2 }, ticks: { stroke: ink, width: 0.2 }, size: 50 };
  const showRange = ({ scales: { x } }) => {
    range.textContent = Number.isFinite(x.min) ? `${xLabel} ${number(x.min)} to ${number(x.max)}` : "";
  };
  const options = {
    width: 400, height: 240,
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [{ ...axis, label: xLabel, labelSize: 18, size: 34 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((one) => (one === null ? "" : number(one))) }],
    series: [{ label: xLabel, value: (_, one) => number(one) }, ...first.map((one, index) => ({
      label: one.label, stroke: COLORS[index % COLORS.length], width: 1.6, spanGaps: true,
      points: { show: () => data[0].length < 40, size: 5 }, value: (_, value) => number(value),
    }))],
    cursor: { drag: { x: true, y: false }, focus: { prox: 20 } },
    hooks: { ready: [showRange], setScale: [(own, key) => key === "x" && showRange(own)] },
  };
  const isZoomed = () => plot.scales.x.min > data[0][0] || plot.scales.x.max < data[0][data[0].length - 1];
  const zoom = (factor) => {
    if (!factor) return plot.setData(data); // which shows all of it, also where that is one point
    const { min, max } = plot.scales.x;
    const middle = (min + max) / 2;
    const half = ((max - min) / 2) * factor;
    plot.setScale("x", { min: middle - half, max: middle + half });
  };
  const button = (text, label, factor) => h("button", { type: "button", "aria-label": `${label} ${title}`, onclick: () => zoom(factor) }, text);
  const buttons = [button("+", "Zoom into", 0.5), button("−", "Zoom out of", 2), button("Whole", "Show the whole of", 0)];
  const box = h("div", { class: "card chart" }, h("h3", {}, title), place, h("div", { class: "row" }, buttons, range));
  const draw = () => {
    const isEmpty = !data[0].length;
    if (!plot && isEmpty) place.replaceChildren(h("p", { class: "dim" }, "nothing was recorded"));
    else if (!plot && place.clientWidth) {
      place.replaceChildren();
      plot = new window.uPlot({ ...options, width: Math.max(200, place.clientWidth) }, data, place);
    }
    for (const one of buttons) one.disabled = !plot || isEmpty;
  };
  draw();
  new ResizeObserver(() => {
    if (plot) plot.setSize({ width: Math.max(200, place.clientWidth), height: 240 });
    else draw();
  }).observe(place);
  const update = (series) => {
    const kept = plot && isZoomed() ? { min: plot.scales.x.min, max: plot.scales.x.max } : null;
    data = joined(series);
    place.setAttribute("aria-label", describe(title, series));
    if (plot) plot.setData(data);
    if (kept) plot.setScale("x", kept);
    draw();
  };
  return { box, update };
}

function describe(title, series) {
  const words = series.map((one) => {
    const known = one.y.filter((value) => value !== null && value !== undefined);
    if (!known.length) return `${one.label}: nothing`;
    return `${one.label}: from ${number(known[0])} to ${number(known[known.length - 1])}, least ${number(Math.min(...known))}, most ${number(Math.max(...known))}`;
  });
  return `${title}. ${words.join("; ")}`;
}

const nice = (low, high, count = 5) => {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) found.push(Number(value.toPrecision(12)));
  return found;
};

// points: [{x, y, low, high, label, href, group, isLoose}]; lines join the points of a group that are not loose
export function points(title, all, { width = 640, height = 320, xLabel = "", yLabel = "", lines = false, xText = number, small = false } = {}) {
  const pad = small ? { l: 6, r: 6, t: 6, b: 6 } : { l: 64, r: 16, t: 12, b: 40 };
  const span = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  };
  const [x0, x1] = span(all.map((one) => one.x));
  const [y0, y1] = span(all.flatMap((one) => [one.y, one.low ?? one.y, one.high ?? one.y]));
  const px = (x) => pad.l + ((x - x0) / (x1 - x0)) * (width - pad.l - pad.r);
  const py = (y) => height - pad.b - ((y - y0) / (y1 - y0)) * (height - pad.t - pad.b);
  const groups = [...new Set(all.map((one) => one.group ?? ""))];
  const color = (group) => COLORS[groups.indexOf(group ?? "") % COLORS.length];
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "group", "aria-label": title });
  if (!small) svg.append(...axes({ x0, x1, y0, y1, px, py, width, height, pad, xLabel, yLabel, xText }));
  if (lines) {
    for (const group of groups) {
      const own = all.filter((one) => (one.group ?? "") === group && !one.isLoose).sort((a, b) => a.x - b.x);
      svg.append(s("polyline", { points: own.map((one) => `${px(one.x)},${py(one.y)}`).join(" "), fill: "none", stroke: color(group), "stroke-width": 1.5, opacity: 0.7 }));
    }
  }
  for (const one of all) {
    if (one.low !== undefined) svg.append(s("line", { x1: px(one.x), x2: px(one.x), y1: py(one.low), y2: py(one.high), stroke: color(one.group), "stroke-width": small ? 1.5 : 2, opacity: 0.6 }));
    const dot = s("circle", { cx: px(one.x), cy: py(one.y), r: one.r ?? (small ? 3.5 : 5), fill: one.color ?? color(one.group), opacity: one.opacity ?? 0.9 }, s("title", {}, one.label ?? ""));
    svg.append(one.href ? s("a", { href: one.href, "aria-label": one.label }, dot) : dot);
  }
  return svg;
}

function axes({ x0, x1, y0, y1, px, py, width, height, pad, xLabel, yLabel, xText }) {
  const found = [s("path", { class: "axis", d: `M${pad.l} ${pad.t}V${height - pad.b}H${width - pad.r}` })];
  for (const tick of nice(x0, x1)) found.push(s("text", { x: px(tick), y: height - pad.b + 16, "text-anchor": "middle" }, xText(tick)));
  for (const tick of nice(y0, y1)) {
    found.push(s("text", { x: pad.l - 6, y: py(tick) + 4, "text-anchor": "end" }, number(tick)));
    found.push(s("path", { class: "axis", d: `M${pad.l} ${py(tick)}H${width - pad.r}`, opacity: 0.4 }));
  }
  found.push(s("text", { x: (pad.l + width - pad.r) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  found.push(s("text", { x: 12, y: height / 2, transform: `rotate(-90 12 ${height / 2})`, "text-anchor": "middle" }, yLabel));
  return found;
}

export const groupsOf = (all) => {
  const groups = [...new Set(all.map((one) => one.group ?? ""))];
  return h("ul", { class: "chips" }, groups.map((group, index) =>
    h("li", { style: { paddingRight: "0.7rem" } }, h("span", { style: { color: COLORS[index % COLORS.length], marginRight: "0.4rem" }, "aria-hidden": "true" }, "●"), group)));
};
