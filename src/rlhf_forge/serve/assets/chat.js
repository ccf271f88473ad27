// Chat: a conversation with one model; a thumb for each answer.

import { cast, chat } from "/page/api.js";
import { $, drawSeed, el, onSubmit, problem, uid } from "/page/dom.js";

const ANSWERING = "Answering…";
let messages = [];
let controller = null;

export function begin() {
  onSubmit($("chat-form"), $("chat-text"), send);
  $("chat-stop").addEventListener("click", () => controller?.abort());
  $("chat-clear").addEventListener("click", clear);
}

function clear() {
  controller?.abort();
  messages = [];
  $("log").replaceChildren();
  $("chat-text").focus();
}

async function send() {
  const content = $("chat-text").value.trim();
  if (!content || controller) return;
  $("chat-text").value = "";
  const asked = [...messages, { role: "user", content }];
  add("user", content);
  const answer = {
    model: $("chat-model").value, text: "", seed: drawSeed(), sampling: { temperature: Number($("chat-temperature").value) },
    finish_reason: null, tokens: null,
  };
  controller = new AbortController();
  busy(true);
  const said = add("assistant", "", answer.model);
  try {
    const request = { model: answer.model, messages: asked, seed: answer.seed, ...answer.sampling };
    const grow = (piece) => {
      answer.text += piece;
      said.text.textContent = answer.text;
      $("log").scrollTop = $("log").scrollHeight;
    };
    const wait = (why) => { $("chat-state").textContent = why || ANSWERING; };
    Object.assign(answer, await chat(request, grow, wait, controller.signal));
    problem("");
  } catch (error) {
    if (!controller.signal.aborted) {
      problem(error.message);
      said.whole.remove();
      $("chat-text").value = content;
      return;
    }
    answer.finish_reason = "stopped";
  } finally {
    controller = null;
    busy(false);
  }
  messages = [...asked, { role: "assistant", content: answer.text }];
  said.whole.append(thumbs(asked, answer));
}

function busy(is) {
  $("chat-send").disabled = is;
  $("chat-stop").disabled = !is;
  $("chat-state").textContent = is ? ANSWERING : "";
}

function add(role, content, model = "You") {
  const text = el("p", { class: "turn", dir: "auto" }, content);
  const whole = el("div", { class: `said ${role}` }, el("b", { class: "quiet" }, el("bdi", {}, model)), text);
  $("log").append(whole);
  $("log").scrollTop = $("log").scrollHeight;
  return { whole, text };
}

function thumbs(asked, answer) {
  const state = el("span", { class: "quiet", role: "status" });
  let last = null;
  const button = (label, rating) => {
    const made = el("button", { type: "button", "aria-pressed": "false" }, label);
    made.addEventListener("click", async () => {
      try {
        if (last) await cast({ kind: "undo", id: uid(), undoes: last });
        last = uid();
        await cast({ kind: "thumb", id: last, messages: asked, answer, rating });
        for (const other of made.parentElement.querySelectorAll("button")) {
          other.setAttribute("aria-pressed", String(other === made));
        }
        state.textContent = "Saved";
      } catch (error) {
        last = null;
        state.textContent = `Not saved: ${error.message}`;
      }
    });
    return made;
  };
  return el("div", { class: "thumbs", role: "group", "aria-label": "Rate this answer" }, button("Good", 1), button("Bad", -1), state);
}
