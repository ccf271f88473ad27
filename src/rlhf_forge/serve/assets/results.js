// What the votes say so far.

import { get } from "/page/api.js";
import { $, el, problem } from "/page/dom.js";

const percent = (share) => `${Math.round(100 * share)} %`;
const between = (share) =>
  share.n ? `${percent(share.value)} (${Math.round(100 * share.low)} to ${Math.round(100 * share.high)}, n ${share.n})` : "no votes yet";

// One line under the vote buttons.
export function numbersOf(told) {
  const parts = [`${told.votes} votes`];
  const left = told.votes - told.counted;
  if (left) parts.push(`${left} of them not counted`);
  if (told.left_wins.n) parts.push(`left chosen ${between(told.left_wins)}`);
  if (told.longer_wins.n) parts.push(`longer chosen ${between(told.longer_wins)}`);
  return parts.join(" · ");
}

export async function show() {
  try {
    draw(await get("/v1/feedback/statistics"));
  } catch (error) {
    problem(error.message);
  }
}

function draw(told) {
  $("results").replaceChildren(models(told.models), checks(told), counts(told));
}

function table(caption, head, rows, kind = "wide") {
  const cell = (tag, value, at) => el(tag, { ...(tag === "th" ? { scope: "col" } : {}), ...(at.number ? { class: "number" } : {}) }, value);
  return el("div", { class: "scroll" }, el("table", { class: kind },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...head.map((at) => cell("th", at.name, at)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, i) => cell("td", value, head[i]))))),
  ));
}

function models(rows) {
  if (!rows.length) return el("p", {}, "No votes between two models yet.");
  const head = [{ name: "Model" }, { name: "Wins, a tie counting half" }, { name: "Strength", number: true }];
  const bar = (row) => el("meter", { min: "0", max: "1", value: String(row.wins.value), "aria-label": `share of wins of ${row.model}` });
  const wins = (row) => el("span", {}, between(row.wins), " ", bar(row));
  return el("div", {},
    table("Ranking", head, rows.map((row) => [el("bdi", {}, row.model), wins(row), row.strength.toFixed(2)])),
    el("p", { class: "quiet" }, "Strength is Bradley-Terry's: a lead of 1 means odds of 2.7 to 1."),
  );
}

function checks(told) {
  const rows = [
    ["Left side chosen", between(told.left_wins), "50 % is fair; far from it, position sways the votes"],
    ["Longer answer chosen", between(told.longer_wins), "far above 50 %, a reward model will learn length"],
    ["Same choice when a pair came back", between(told.self_consistency), "one pair in 15 returns with its sides swapped"],
    ...Object.entries(told.reward_agrees).map(([model, share]) => [
      el("span", {}, "Agrees with reward model ", el("bdi", {}, model)), between(share), "where it scores them apart",
    ]),
    ...told.agreement.map((two) => [
      el("span", {}, el("bdi", {}, two.annotators[0]), " and ", el("bdi", {}, two.annotators[1]), " agree"),
      between(two.equal),
      two.kappa === null ? "no kappa: they always choose the same" : `Cohen's kappa ${two.kappa.toFixed(2)}`,
    ]),
  ];
  const explained = rows.map(([what, share, reading]) => [el("span", {}, what, el("span", { class: "quiet" }, reading)), share]);
  return table("Can the votes be trusted?", [{ name: "What" }, { name: "Share" }], explained);
}

function counts(told) {
  const words = { a: "first model's answer", b: "second model's answer", tie: "tie", both_bad: "both bad" };
  const rows = [
    ["Votes", told.votes], ["counted above", told.counted], ["skipped", told.skipped], ["undone", told.undone],
    ...Object.entries(told.choices).map(([choice, n]) => [`chosen: ${words[choice] ?? choice}`, n]),
    ...Object.entries(told.flags).map(([flag, n]) => [`flagged ${flag}`, n]),
    ...Object.entries(told.thumbs).map(([thumb, n]) => [`thumbs ${thumb}`, n]),
  ];
  return table("Counts", [{ name: "What" }, { name: "Number", number: true }], rows.map(([what, n]) => [what, String(n)]), "narrow");
}
