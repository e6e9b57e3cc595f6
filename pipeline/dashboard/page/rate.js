// A rater's page: one blind pair after another. Keys: 1 2 3 for the first question, 4 5 6 for the second, Enter.

import { ask, h, number, report, send } from "./dom.js";

const QUESTIONS = [["alignment", "Which image follows the prompt better?"], ["fidelity", "Which image looks better, whatever the prompt?"]];
const CHOICES = [["left", "Left"], ["tie", "Both alike"], ["right", "Right"]];
const main = document.getElementById("main");
const past = [];
let work = null;
let press = () => {};

async function show(place) {
  const pair = await ask(`pairs/${place}`);
  const said = { ...(pair.vote ?? {}) };
  const next = h("button", { type: "button", class: "main", disabled: true, onclick: () => submit() }, "Next");
  const fields = QUESTIONS.map(([name, words], row) => {
    const buttons = CHOICES.map(([side, title], column) => h("button", { type: "button", "aria-pressed": "false", onclick: () => choose(name, side) }, title, h("span", { class: "dim", "aria-hidden": "true" }, ` ${3 * row + column + 1}`)));
    return [name, buttons, h("fieldset", {}, h("legend", {}, words), h("div", { class: "choices" }, buttons))];
  });
  const mark = () => {
    for (const [name, buttons] of fields) buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(said[name] === CHOICES[index][0])));
    next.disabled = !(said.alignment && said.fidelity);
  };
  const choose = (name, side) => { said[name] = side; mark(); };
  async function submit() {
    if (next.disabled) return;
    next.disabled = true;
    try {
      work = await send(`pairs/${place}`, said);
      past.push(place);
      report("Stored.");
      await go();
    } catch (error) {
      report(`Not stored: ${error.message}`, true);
      mark();
    }
  }
  press = (key) => {
    const index = "123456".indexOf(key);
    if (index >= 0) choose(QUESTIONS[Math.floor(index / 3)][0], CHOICES[index % 3][0]);
    if (key === "Enter" && document.activeElement?.tagName !== "BUTTON") submit();
  };
  const image = (side, title) => h("figure", {}, h("img", { src: `api/pairs/${place}/${side}`, alt: `the image on the ${title}` }));
  main.replaceChildren(h("h1", {}, work.title),
    h("p", { class: "dim" }, `${work.name}, pair ${number(work.total - work.left.length + (pair.vote ? 0 : 1))} of ${number(work.total)}`),
    h("progress", { max: work.total, value: work.total - work.left.length, "aria-label": "Pairs rated" }),
    h("p", { class: "prompt" }, pair.prompt), h("div", { class: "pair" }, image("left", "left"), image("right", "right")), ...fields.map(([, , set]) => set),
    h("div", { class: "row" }, h("button", { type: "button", disabled: past.length === 0, onclick: () => show(past.pop()) }, "Back"), next));
  mark();
  main.focus();
}

async function go() {
  if (work.left.length) return show(work.left[0]);
  press = () => {};
  main.replaceChildren(h("h1", {}, "Thank you"), h("p", {}, `All ${number(work.total)} pairs of “${work.title}” are rated and stored. This page can be closed.`),
    h("div", { class: "row" }, h("button", { type: "button", disabled: past.length === 0, onclick: () => show(past.pop()) }, "Back to the last pair")));
}

document.addEventListener("keydown", (event) => { if (!event.ctrlKey && !event.metaKey && !event.altKey) press(event.key); });
ask("work").then((found) => { work = found; return go(); }).catch((error) => report(error.message, true));
