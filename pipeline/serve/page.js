"use strict";

const find = (id) => document.getElementById(id);
const status = find("status");
const KEY = "corgi-serve-token";
const MOST_SHOWN = 64;

function report(text, isFault = false) {
  status.textContent = text;
  status.classList.toggle("fault", isFault);
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const reply = await fetch(path, options);
  const content = await reply.json();
  if (reply.status === 401) find("key").hidden = false;
  if (!reply.ok) throw new Error(content.detail || `status ${reply.status}`);
  return content;
}

async function describe() {
  const about = await ask("about");
  find("run").textContent = `The model of run ${about.run}`;
  find("prompt").maxLength = about.longest_prompt;
  find("num").max = about.most_images;
  const chosen = find("size").value;
  find("size").replaceChildren(new Option("default", ""), ...about.sizes.map((size) => new Option(size, size)));
  find("size").value = chosen;
  find("sizes").hidden = about.sizes.length < 2;
}

function show(image, size) {
  const figure = document.createElement("figure");
  const shown = document.createElement("img");
  shown.src = `data:image/png;base64,${image.png}`;
  shown.alt = image.prompt;
  const caption = document.createElement("figcaption");
  caption.textContent = image.prompt;
  const seed = document.createElement("span");
  seed.textContent = size ? `seed ${image.seed}, ${size}` : `seed ${image.seed}`;
  caption.append(seed);
  figure.append(shown, caption);
  return figure;
}

async function submit(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  const seed = find("seed").value;
  const body = { prompt: find("prompt").value, num_images: Number(find("num").value) };
  if (seed !== "") body.seed = Number(seed);
  if (find("size").value) body.size = find("size").value;
  if (find("token").value) sessionStorage.setItem(KEY, find("token").value);
  button.disabled = true;
  report("Generating …");
  try {
    if (find("num").max === "") await describe();
    const reply = await ask("generate", body);
    const images = find("images");
    images.prepend(...reply.images.map((image) => show(image, body.size)));
    while (images.children.length > MOST_SHOWN) images.lastChild.remove();
    report(`${reply.images.length === 1 ? "1 image" : `${reply.images.length} images`} generated.`);
  } catch (error) {
    report(`Not generated: ${error.message}`, true);
  } finally {
    button.disabled = false;
  }
}

find("ask").addEventListener("submit", submit);
find("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("ask").requestSubmit();
});
describe().catch((error) => report(error.message, true));
