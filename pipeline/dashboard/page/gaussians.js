// The Gaussians of a run: embeddings along their principal components, occupancy, nearest images.

import { points } from "./chart.js";
import { COLORS, address, ask, field, h, into, number, part, percent, select, tile } from "./dom.js";

export async function showGaussians(main, { path }) {
  const known = (await ask("runs", { metric: "none" })).runs.map((one) => one.run);
  const run = path[0] ?? known[0];
  main.replaceChildren(h("h1", {}, "Gaussians"), h("div", { class: "row" }, field("Run", select(known, run, (chosen) => { location.hash = address(`gaussians/${part(chosen)}`); }), true)));
  if (!run) return main.append(h("p", { class: "dim" }, "There is no run yet."));
  const base = `runs/${part(run)}`;
  let found;
  try {
    found = await ask(`${base}/gaussians`);
  } catch (error) {
    return main.append(h("p", { class: "dim" }, error.message));
  }
  const total = found.counts.reduce((a, b) => a + b, 0);
  const order = found.counts.map((_, index) => index).sort((a, b) => found.counts[b] - found.counts[a]);
  const color = (index) => COLORS[order.indexOf(index) % COLORS.length];
  const nearest = h("section", { "aria-live": "polite", "aria-label": "Nearest images" });
  const show = (index) => into(nearest, async () => {
    const rows = await ask(`${base}/gaussians/${index}`);
    return [h("h2", {}, `Nearest to the mean of Gaussian ${index}`), h("p", { class: "dim" }, `${number(found.counts[index])} embeddings, ${percent(found.counts[index] / total)}`),
      rows.length ? h("div", { class: "tiles" }, rows.map((row) => tile(`api/${base}/samples/${part(row.shard)}/${part(row.key)}`, `image ${row.key}`, `distance ${number(row.score)}`)))
        : h("p", { class: "dim" }, "None of the embeddings that are shown is of it.")];
  });
  const all = [
    ...found.rows.map(([x, y], index) => ({ x, y, r: 2, opacity: 0.45, color: color(found.owners[index]), label: `of Gaussian ${found.owners[index]}` })),
    ...found.means.map(([x, y], index) => ({ x, y, r: 7, color: color(index), label: `mean of Gaussian ${index}` })),
  ];
  const most = Math.max(...found.counts);
  main.append(
    h("div", { class: "charts" },
      h("div", { class: "card" }, h("h3", {}, "Embeddings and means"), points("Embeddings along two principal components", all, { width: 640, height: 480,
        xLabel: `first component, ${percent(found.explained[0])} of the variance`, yLabel: `second, ${percent(found.explained[1])}` }),
      h("p", { class: "dim" }, `${number(found.rows.length)} of ${number(found.total)} embeddings, colored by the nearest mean; large points are the means.`)),
      h("div", { class: "card" }, h("h3", {}, `Occupancy of ${number(found.counts.length)} Gaussians`), h("div", { class: "bars" }, order.slice(0, 64).map((index) =>
        h("button", { type: "button", class: "bar", "aria-label": `Gaussian ${index}: ${found.counts[index]} embeddings; show its nearest images`, onclick: () => show(index) },
          h("span", {}, String(index)), h("span", { class: "track" }, h("span", { class: "fill", style: { width: `${(100 * found.counts[index]) / most}%`, background: color(index) } })), h("span", {}, percent(found.counts[index] / total))))))),
    nearest);
  await show(order[0]);
}
