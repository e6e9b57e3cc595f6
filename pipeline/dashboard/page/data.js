// A run's data: its shards' images and captions, and what searching in their embeddings finds.

import { address, ask, field, h, into, number, part, select } from "./dom.js";

export async function showData(main, { path }) {
  const known = (await ask("runs", { metric: "none" })).runs.map((one) => one.run);
  const run = path[0] ?? known[0];
  const pick = field("Run", select(known, run, (chosen) => { location.hash = address(`data/${part(chosen)}`); }), true);
  const place = h("section", { "aria-live": "polite", "aria-label": "Samples" });
  main.replaceChildren(h("h1", {}, "Data"), h("div", { class: "row" }, pick));
  if (!run) return main.append(h("p", { class: "dim" }, "There is no run yet."));
  const base = `runs/${part(run)}`;
  let found = await ask(`${base}/shards`).catch((error) => ({ shards: {}, fault: error.message }));
  if (found.fault || !Object.keys(found.shards).length) return main.append(h("p", { class: "dim" }, found.fault ?? "No shard is there yet."));
  const see = (row) => `api/${base}/samples/${part(row.shard)}/${part(row.key)}`;

  const sample = (row) => h("figure", {},
    h("button", { type: "button", class: "image", title: "Search for images like it", onclick: () => similar(row) },
      h("img", { src: see(row), alt: row.captions[0] ?? `image ${row.key}`, loading: "lazy", decoding: "async" })),
    h("figcaption", {}, row.captions.length ? row.captions.map((one) => h("div", {}, one)) : h("span", { class: "dim" }, "no caption"),
      h("div", { class: "dim" }, row.loss !== undefined ? `loss ${number(row.loss)}` : row.score !== undefined ? `cosine ${number(row.score)}` : `${row.key.slice(0, 10)} in ${row.shard}`)));

  const scope = (reply) => h("p", { class: "dim" }, reply.searched === reply.total ? `All ${number(reply.total)} embeddings were searched.`
    : `The first ${number(reply.searched)} of ${number(reply.total)} embeddings were searched.`);
  const tiles = (title, reply) => [h("h2", {}, title), scope(reply), h("div", { class: "tiles" }, reply.rows.map(sample))];
  const similar = (row) => into(place, async () => {
    scrollTo({ top: 0 });
    const reply = await ask(`${base}/similar`, { shard: row.shard, key: row.key });
    return [h("h2", {}, "Like this one"), h("div", { class: "tiles" }, sample({ ...row, score: 1 })), ...tiles("Nearest images", reply)];
  });
  const some = (compared, all, words) => (compared === all ? `all ${number(all)} ${words}` : `the first ${number(compared)} of ${number(all)} ${words}`);
  const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
  const pairs = (title, none, reply, compared) => [h("h2", {}, title), h("p", { class: "dim" }, sentence(compared(reply))),
    reply.pairs.length ? h("div", { class: "cards" }, reply.pairs.map((one) => h("div", { class: "card" }, h("div", {}, `cosine ${number(one.score)}`), h("div", { class: "pair tiles" }, one.pair.map(sample))))) : h("p", {}, none)];

  const worst = (found) => [h("h2", {}, `${found.stage}: held-out images of the largest loss`),
    h("p", { class: "dim" }, `The last validation, after step ${number(found.step)}: ${number(found.rows.length)} of ${number(found.validated)} images, each loss ${found.rounds > 1 ? `the mean of ${found.rounds} with other noise` : "1 - cosine of sampled and true embedding"}; the mean of all is ${number(found.mean_loss)}.`
      + (found.not_finite ? ` The losses of ${number(found.not_finite)} images are not finite.` : "")),
    h("div", { class: "tiles" }, found.rows.map(sample))];

  const text = h("input", { type: "search", placeholder: "a red star", required: true });
  const search = h("form", { class: "row", onsubmit: (event) => {
    event.preventDefault();
    into(place, async () => tiles(`Nearest to “${text.value}”`, await ask(`${base}/search`, { text: text.value })));
  } }, field("Search by text, with the run's own CLIP", text, true), h("button", { type: "submit", class: "main" }, "Search"));
  const file = h("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && into(place, async () => tiles(`Nearest to ${file.files[0].name}`,
    await ask(`${base}/search`, {}, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file.files[0] }))) });
  const least = h("input", { type: "number", min: "0.5", max: "1", step: "0.001", value: "0.99" });
  const button = (title, load) => h("button", { type: "button", onclick: () => into(place, load) }, title);
  const tools = h("div", { class: "row" }, field("Search by an image of yours", file, true), field("Least cosine of pairs", least),
    button("Near-duplicates", async () => pairs("Near-duplicates", "No two of the images compared are so near.", await ask(`${base}/duplicates`, { least: least.value }),
      (reply) => `${some(reply.compared, reply.total, "embeddings")} were compared with one another`)),
    button("Held-out images in training", async () => {
      const reply = await ask(`${base}/leaks`, { least: least.value });
      const within = reply.searched === reply.total ? "" : `, among the first ${number(reply.searched)} of ${number(reply.total)} embeddings`;
      return [...pairs("Held-out images that are nearly in training", "No held-out image that was compared is so near to one of training.", reply,
        () => `${some(reply.compared_held_out, reply.held_out, "held-out images")} were compared with ${some(reply.compared_trained, reply.trained, "images that are trained on")}${within}`),
      h("p", { class: "dim" }, "The left one of a pair is held out.")];
    }),
    button("Largest loss", async () => (await ask(`${base}/worst`)).flatMap(worst)),
    button("Captions that fit least", async () => tiles("Images whose captions are least like them", await ask(`${base}/lowest`))));

  const state = { shard: Object.keys(found.shards)[0], first: 0 };
  const from = () => h("input", { type: "number", min: 1, max: found.total, value: found.first + 1, onchange: (event) => {
    const first = Math.min(Math.max(1, event.target.valueAsNumber || 1), found.total) - 1;
    into(place, async () => {
      found = await ask(`${base}/shards`, { first });
      Object.assign(state, { shard: Object.keys(found.shards)[0], first: 0 });
      return page();
    });
  } });
  const page = async () => {
    const rows = await ask(`${base}/samples/${part(state.shard)}`, { first: state.first });
    const total = found.shards[state.shard];
    const turn = (by) => () => { state.first += by * found.page; browse(); };
    return [h("div", { class: "row" },
      found.total > Object.keys(found.shards).length && field(`From shard, of ${number(found.total)}`, from()),
      field("Shard", select(Object.entries(found.shards).map(([name, count]) => [name, `${name}: ${number(count)} images`]), state.shard, (name) => { state.shard = name; state.first = 0; browse(); })),
      h("button", { type: "button", disabled: state.first === 0, onclick: turn(-1) }, "Before"),
      h("span", {}, `${number(state.first + 1)} to ${number(Math.min(total, state.first + found.page))} of ${number(total)}`),
      h("button", { type: "button", disabled: state.first + found.page >= total, onclick: turn(1) }, "Next")),
    h("div", { class: "tiles" }, rows.map(sample))];
  };
  const browse = () => into(place, page);
  main.append(search, tools, h("div", { class: "row" }, h("button", { type: "button", onclick: browse }, "All samples by shard")), place);
  await browse();
}
