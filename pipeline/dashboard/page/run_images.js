// Images over training, of one run or of several at the same step.

import { ask, choices, field, h, number, part, select, turn } from "./dom.js";

const titled = (one) => one.replace(" ", ": ").replaceAll("_", " ");

export function imagesOf(runs) {
  const state = { found: [], kind: null, step: null }; // step: the one that was chosen; null: always the last
  const note = h("p", { class: "dim" }, "reading …");
  const row = h("div", { class: "side", tabindex: "0", role: "region", "aria-label": "Images of this step", style: { gridTemplateColumns: `repeat(${runs.length}, minmax(min(18rem, 80vw), 1fr))` } });
  const label = h("output", {});
  const slider = h("input", { type: "range", min: "0", max: "0", step: "1", value: "0", oninput: () => {
    const all = steps();
    state.step = Number(slider.value) === all.length - 1 ? null : all[Number(slider.value)];
    move();
  } });
  const kind = select([], "", (one) => { Object.assign(state, { kind: one, step: null }); render(); });
  const controls = h("div", { hidden: true }, h("div", { class: "row" }, field("Images", kind), field("Step", slider, true), label), row);
  const box = h("div", {}, note, controls);
  let shown = "";

  const own = (index) => {
    const [stage, ...rest] = state.kind.split(" ");
    return { stage, name: rest.join(" "), steps: state.found[index][stage]?.[rest.join(" ")] ?? [] };
  };
  const steps = () => [...new Set(runs.flatMap((_, index) => own(index).steps))].sort((a, b) => a - b);

  function move() {
    const all = steps();
    const step = all[Number(slider.value)];
    label.textContent = `step ${number(step)} (${Number(slider.value) + 1} of ${all.length})`;
    slider.setAttribute("aria-valuetext", label.textContent);
    const wanted = runs.map((id, index) => {
      const { stage, name, steps: logged } = own(index);
      const at = logged.filter((one) => one <= step).pop();
      return { id, stage, name, at };
    });
    if (JSON.stringify(wanted) === shown) return;
    shown = JSON.stringify(wanted);
    row.replaceChildren(...wanted.map(({ id, stage, name, at }) => (at === undefined ? h("p", { class: "dim" }, `${id}: none until this step`)
      : h("figure", {}, h("img", { class: "grid-image", style: { aspectRatio: "auto" }, src: `api/runs/${part(id)}/images/${part(stage)}/${at}?name=${part(name)}`, alt: `${name} of ${id} at step ${at}` }),
        h("figcaption", {}, `${id}, step ${number(at)}`)))));
  }

  function render() {
    const all = steps();
    const place = state.step === null ? all.length - 1 : all.indexOf(state.step);
    slider.max = String(all.length - 1);
    slider.value = String(place < 0 ? all.length - 1 : place);
    move();
  }

  async function update() {
    const isLast = turn(box);
    const found = await Promise.all(runs.map((id, index) => ask(`runs/${part(id)}/images`).catch(() => state.found[index] ?? {})));
    if (!isLast()) return;
    const isNew = JSON.stringify(found) !== JSON.stringify(state.found);
    state.found = found;
    const kinds = [...new Set(found.flatMap((one) => Object.entries(one).flatMap(([stage, names]) => Object.keys(names).map((name) => `${stage} ${name}`))))];
    note.textContent = "No stage logged images.";
    note.hidden = kinds.length > 0;
    controls.hidden = !kinds.length;
    if (!kinds.length || !isNew) return;
    if (!kinds.includes(state.kind)) Object.assign(state, { kind: kinds.find((one) => one.startsWith("train_decoder")) ?? kinds[0], step: null });
    choices(kind, kinds.map((one) => [one, titled(one)]), state.kind);
    render();
  }
  update();
  return { box, update };
}
