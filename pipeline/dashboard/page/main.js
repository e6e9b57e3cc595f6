// Which part of the dashboard is shown: by the address after the #.

import { ask, h, report } from "./dom.js";
import { showCompare } from "./compare.js";
import { showData } from "./data.js";
import { showFraction } from "./fraction.js";
import { showGaussians } from "./gaussians.js";
import { showRun } from "./run.js";
import { showRuns } from "./runs.js";
import { showStudies } from "./studies.js";

const PARTS = [
  ["runs", "Runs", showRuns],
  ["run", null, showRun],
  ["compare", "Side by side", showCompare],
  ["fraction", "Captions", showFraction],
  ["data", "Data", showData],
  ["gaussians", "Gaussians", showGaussians],
  ["studies", "Rating", showStudies],
];
let leave = null;
let mlflow = null;

function showNavigation(current) {
  const links = PARTS.filter(([, title]) => title).map(([name, title]) =>
    h("a", { href: `#/${name}`, "aria-current": name === current || (name === "runs" && current === "run") ? "page" : null }, title));
  if (mlflow) links.push(h("a", { href: mlflow, target: "_blank", rel: "noreferrer" }, "MLflow ↗"));
  document.getElementById("nav").replaceChildren(...links);
}

async function show() {
  if (location.hash === "#main") return document.getElementById("main").focus();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  const found = PARTS.find(([one]) => one === name) || PARTS[0];
  if (leave) leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  showNavigation(found[0]);
  report("");
  // A page writes into a place of its own: what is slow writes where nobody looks once another page has been opened.
  const place = h("div", {}, h("p", { class: "dim" }, "reading …"));
  document.getElementById("main").replaceChildren(place);
  const remember = (address) => { if (!signal.aborted) history.replaceState(null, "", address); };
  try {
    await found[2](place, { path: rest, params: new URLSearchParams(query || ""), signal, remember });
  } catch (error) {
    place.replaceChildren(h("h1", {}, "Not shown"), h("p", { class: "fault" }, error.message));
  }
}

window.addEventListener("hashchange", show);
ask("about").then((about) => {
  mlflow = about.mlflow;
  document.title = `Corgi: ${about.store.split("/").pop()}`;
}).catch((error) => report(error.message, true)).finally(show);
