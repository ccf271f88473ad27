// Starts the page: the models' names, the three views, what is remembered.

import { get } from "/page/api.js";
import * as chat from "/page/chat.js";
import * as compare from "/page/compare.js";
import { $, fillModels, problem, remember, remembered } from "/page/dom.js";
import * as results from "/page/results.js";

const VIEWS = ["compare", "chat", "results"];

function showView() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return; // the skip link
  const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  for (const name of VIEWS) {
    $(`view-${name}`).hidden = name !== view;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view} - rlhf_forge`;
  if (view === "results") results.show();
}

async function loadModels() {
  try {
    const known = await get("/page/models");
    const { policies } = known;
    fillModels($("model-a"), policies, policies.at(-2) ?? policies.at(-1));
    fillModels($("model-b"), policies, policies.at(-1));
    fillModels($("chat-model"), policies, policies.at(-1));
    problem("");
    return known;
  } catch (error) {
    problem(error.message);
    return null;
  }
}

$("annotator").value = remembered("annotator");
$("annotator").addEventListener("change", () => remember("annotator", $("annotator").value.trim()));
$("keys-on").checked = remembered("keys", "on") === "on";
$("keys-on").addEventListener("change", () => remember("keys", $("keys-on").checked ? "on" : "off"));
window.addEventListener("hashchange", showView);
showView();

let known = await loadModels();
$("key-form").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", async () => {
  const loaded = await loadModels();
  if (loaded && !known) begin(loaded);
  known ??= loaded;
});
if (known) begin(known);

function begin(loaded) {
  chat.begin();
  compare.begin(loaded);
}
