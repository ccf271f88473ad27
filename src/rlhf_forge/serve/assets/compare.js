// Compare: one prompt, two answers, one vote; then the next.

import { cast, get, person, post } from "/page/api.js";
import { Answer, Lockstep, upTo } from "/page/answers.js";
import { $, onSubmit, problem, remember, remembered, showTurns, uid } from "/page/dom.js";
import { listen } from "/page/keys.js";
import { asUser, parsePrompts } from "/page/prompts.js";
import { numbersOf } from "/page/results.js";

const OTHER = { a: "b", b: "a" };
const PLACES = ["left", "right"];
const REMARKS = {
  cut_by_vote: "Cut off by your vote: counted, but not exported by default",
  error_text: "Not counted: an answer is an error message",
  identity_leak: "Not counted: an answer says which model it is",
  too_fast: "Not counted: faster than the answers can be read",
};
const state = { known: null, pair: null, waiting: [], list: [], at: 0, past: [], busy: false };

const source = () => document.querySelector("input[name=source]:checked").value;
const say = (text) => { $("status").textContent = text; };
const answerAt = (pair, place) => pair.answers[place === "left" ? pair.left : OTHER[pair.left]];

export function begin(known) {
  state.known = known;
  onSubmit($("ask"), $("prompt"), start);
  for (const radio of document.querySelectorAll("input[name=source]")) radio.addEventListener("change", showSource);
  $("prompt-list").value = remembered("prompts");
  $("prompt-list").addEventListener("input", readList);
  $("prompt-file").addEventListener("change", readFile);
  for (const button of document.querySelectorAll("[data-vote]")) {
    button.addEventListener("click", () => act(button.dataset.vote));
  }
  for (const name of ["skip", "undo"]) $(name).addEventListener("click", () => act(name));
  $("help-button").addEventListener("click", () => act("help"));
  listen(() => !$("view-compare").hidden, act);
  readList();
  showSource();
  showNumbers();
}

function showSource() {
  $("list-fields").hidden = source() !== "list";
  $("typed-fields").hidden = source() !== "typed";
  $("start").textContent = source() === "typed" ? "Ask both" : "Start";
}

async function readFile() {
  const [file] = $("prompt-file").files;
  if (!file) return;
  $("prompt-list").value = await file.text();
  readList();
}

function readList() {
  const text = $("prompt-list").value;
  const { prompts, unused } = parsePrompts(text);
  state.at = text === remembered("prompts") ? Math.min(Number(remembered("at", "0")), prompts.length) : 0;
  state.list = prompts;
  remember("prompts", text);
  remember("at", state.at);
  showList(unused);
}

function showList(unused = 0) {
  const done = state.at ? `, ${state.at} done` : "";
  $("list-state").textContent = `${state.list.length} prompts${done}${unused ? `, ${unused} lines not used` : ""}`;
}

function start() {
  if (source() === "typed") {
    const text = $("prompt").value.trim();
    if (text) state.waiting = [asUser(text)];
    if (!state.waiting.length) return $("prompt").focus();
    $("prompt").value = "";
  }
  return next();
}

function sampling() {
  const most = Number($("max-tokens").value);
  return { temperature: Number($("temperature").value), ...(most ? { max_tokens: most } : {}) };
}

// The next pair: one that comes back, one that others judged, or new answers to the next prompt.
async function next() {
  if (state.busy) return;
  state.busy = true;
  try {
    await offered();
    problem("");
  } catch (error) {
    problem(error.message);
  } finally {
    state.busy = false;
  }
}

async function offered() {
  const { offer } = await post("/v1/feedback/next", { ...person(), shared: source() === "shared" });
  if (offer === null) return ended("You have judged every pair that others have.");
  if (offer.again) {
    const { messages, a, b, pair } = offer.again;
    return show({ messages, left: offer.shown_left, answers: { a: new Answer(a), b: new Answer(b) }, pair });
  }
  const messages = source() === "list" ? state.list[state.at] : state.waiting.shift();
  if (!messages) return ended(source() === "list" ? "The list is at its end." : "");
  const fromList = source() === "list";
  if (fromList) moveList(1);
  const answers = { a: Answer.asked($("model-a").value, sampling()), b: Answer.asked($("model-b").value, sampling()) };
  return show({ messages, left: offer.shown_left, answers, fromList });
}

function moveList(by) {
  state.at += by;
  remember("at", state.at);
  showList();
}

function ended(text) {
  if (text) say(text);
  if (source() === "typed") $("prompt").focus();
}

function show(pair) {
  state.pair?.lockstep.stop();
  state.pair = Object.assign(pair, { id: uid(), readableAt: null, waits: "" });
  $("setup").open = false;
  $("ask").hidden = true;
  $("pair").hidden = false;
  showTurns($("asked"), pair.messages);
  for (const place of PLACES) {
    $(`${place}-model`).textContent = "";
    $(place).classList.remove("chosen");
    $(place).setAttribute("aria-busy", "true");
  }
  pair.lockstep = new Lockstep([pair.answers.a, pair.answers.b], () => draw(pair));
  for (const answer of pair.lockstep.answers) if (!answer.done) answer.draw(pair.messages);
  draw(pair);
}

function draw(pair) {
  const { lockstep } = pair;
  for (const place of PLACES) {
    const answer = answerAt(pair, place);
    const text = answer.error ? `No answer: ${answer.error}` : upTo(answer.text, lockstep.shown);
    if ($(place).textContent !== text) $(place).textContent = text;
    $(place).classList.toggle("empty", lockstep.readable && answer.done && !answer.text);
    if (lockstep.ended) $(place).setAttribute("aria-busy", "false");
  }
  if (lockstep.readable) pair.readableAt ??= performance.now();
  const failed = lockstep.answers.some((answer) => answer.error);
  if (failed) say("An answer failed: skip the pair.");
  else sayWhyItWaits(pair);
  enable(lockstep.readable);
}

function sayWhyItWaits(pair) {
  const waits = pair.lockstep.answers.map((answer) => answer.waits).find(Boolean) ?? "";
  if (waits !== pair.waits) say(waits);
  pair.waits = waits;
}

function enable(readable) {
  for (const button of document.querySelectorAll("[data-vote]")) button.disabled = !readable;
  $("skip").disabled = !state.pair;
  $("undo").disabled = state.past.length === 0;
}

function act(action, strength = null) {
  if (action === "help") return $("help").showModal();
  if (action === "comment") return $("pair").hidden || $("comment").focus();
  if (action === "undo") return undo();
  return vote(action, strength);
}

async function vote(action, strength) {
  const { pair } = state;
  if (!pair || state.busy || (action !== "skip" && !pair.lockstep.readable)) return;
  state.busy = true;
  try {
    // Sent again after a failure, it must be the very same vote: the first may have been stored.
    const name = `${action} ${strength}`;
    pair.ballots ??= {};
    pair.ballots[name] ??= ballot(pair, action, strength);
    const body = pair.ballots[name];
    enable(false);
    say("Saving…");
    const { flags } = await cast(body);
    counted(pair, body, flags);
  } catch (error) {
    problem(`Not saved: ${error.message}. Vote again to try again.`);
    enable(true);
    return;
  } finally {
    state.busy = false;
  }
  problem("");
  if (source() !== "typed" || state.waiting.length) await next();
}

// What is stored is what is on the screen at this moment.
function ballot(pair, action, strength) {
  const seconds = pair.readableAt === null ? null : (performance.now() - pair.readableAt) / 1000;
  const { shown } = pair.lockstep;
  pair.lockstep.stop();
  const places = { left: pair.left, right: OTHER[pair.left] };
  for (const answer of pair.lockstep.answers) answer.cut(shown, { keep: Boolean(pair.pair) });
  pair.seconds = seconds;
  return {
    kind: "comparison",
    id: pair.id,
    blind: true,
    messages: pair.messages,
    a: pair.answers.a.side(),
    b: pair.answers.b.side(),
    shown_left: pair.left,
    choice: places[action] ?? action,
    strength,
    comment: $("comment").value,
    seconds_to_vote: seconds,
    pair: pair.pair ?? null,
  };
}

function counted(pair, body, flags) {
  state.past.push(pair);
  state.pair = null;
  $("ask").hidden = false;
  $("comment").value = "";
  const names = PLACES.map((place) => answerAt(pair, place).model);
  PLACES.forEach((place, at) => {
    $(`${place}-model`).textContent = names[at];
    $(place).classList.toggle("chosen", answerAt(pair, place) === pair.answers[body.choice]);
  });
  const chosen = { tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
  const what = chosen[body.choice] ?? `${body.choice === pair.left ? "Left" : "Right"} is better`;
  const remarks = flags.map((flag) => ` ${REMARKS[flag] ?? flag}.`).join("");
  say(`Saved: ${what}. In that pair left was ${names[0]} and right was ${names[1]}.${remarks}`);
  enable(false);
  score(body).then(showNumbers);
}

// What the reward models say of the same two answers; the page shows how often they agree.
async function score({ id, messages, a, b, choice }) {
  if (choice === "skip" || !a.text || !b.text) return;
  const whole = [a, b].map(({ text }) => [...messages, { role: "assistant", content: text }]);
  for (const model of state.known.reward_models) {
    try {
      const { scores } = await post("/v1/score", { model, messages: whole });
      await post("/v1/feedback/scores", { vote: id, model, a: scores[0], b: scores[1] });
    } catch {
      return; // the vote stands without it
    }
  }
}

async function showNumbers() {
  try {
    $("numbers").textContent = numbersOf(await get("/v1/feedback/statistics"));
  } catch {
    $("numbers").textContent = "";
  }
}

async function undo() {
  const pair = state.past.at(-1);
  if (!pair || state.busy) return;
  state.busy = true;
  try {
    pair.undo ??= uid();
    await cast({ kind: "undo", id: pair.undo, undoes: pair.id });
  } catch (error) {
    problem(`Not undone: ${error.message}`);
    return;
  } finally {
    state.busy = false;
  }
  state.past.pop();
  if (state.pair?.fromList) moveList(-1);
  else if (state.pair && !state.pair.pair) state.waiting.unshift(state.pair.messages);
  showAgain(pair);
  showNumbers();
}

// The undone pair as it stood, to be voted on anew.
function showAgain(pair) {
  const { answers, messages, left, seconds } = pair;
  show({ answers, messages, left, pair: pair.pair });
  const { lockstep } = state.pair;
  lockstep.shown = Math.max(...lockstep.answers.map((answer) => answer.text.length));
  state.pair.readableAt = performance.now() - 1000 * (seconds ?? 0);
  draw(state.pair);
  say("Undone. Vote again.");
}
