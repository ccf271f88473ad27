// Two answers that grow in lockstep: which model is the faster shows on neither side.

import { chat } from "/page/api.js";
import { drawSeed } from "/page/dom.js";

const TICK_MS = 30;
const CHARACTERS_A_TICK = 6;

export class Answer {
  constructor(stored) {
    Object.assign(this, {
      text: "", model: "", seed: null, sampling: {}, finish_reason: null, tokens: null, latency_ms: null,
      ...stored, done: true, error: "", waits: "",
    });
    this.controller = new AbortController();
  }

  static asked(model, sampling) {
    return Object.assign(new Answer({ model, sampling, seed: drawSeed() }), { done: false });
  }

  async draw(messages) {
    const begun = performance.now();
    const request = { model: this.model, messages, seed: this.seed, ...this.sampling };
    try {
      const grow = (piece) => { this.text += piece; };
      const wait = (why) => { this.waits = why; };
      const end = await chat(request, grow, wait, this.controller.signal);
      Object.assign(this, end, { latency_ms: Math.round(performance.now() - begun) });
    } catch (error) {
      if (this.controller.signal.aborted) return;
      this.error = error.message;
      this.finish_reason = "error";
    }
    this.done = true;
  }

  // Ends here, with what was shown of it. Answers that come back keep their text: it names the pair.
  cut(shown, { keep }) {
    const whole = this.done && shown >= this.text.length;
    this.controller.abort();
    if (whole) return;
    if (!keep) Object.assign(this, { text: upTo(this.text, shown), tokens: null, latency_ms: null });
    this.finish_reason = "cut_by_vote";
    this.done = true;
  }

  // As the vote stores it.
  side() {
    const { text, model, artefact, seed, sampling, finish_reason, tokens, latency_ms } = this;
    return { text, model, artefact: artefact ?? null, seed, sampling, finish_reason, tokens, latency_ms };
  }
}

// How many characters of both may be shown: no more than the slower one has, until it has ended.
export function mayShow(answers, shown) {
  const bound = Math.min(...answers.map((answer) => (answer.done ? Infinity : answer.text.length)));
  const longest = Math.max(...answers.map((answer) => answer.text.length));
  return Math.max(shown, Math.min(shown + CHARACTERS_A_TICK, bound, longest));
}

export function upTo(text, length) {
  const split = length < text.length && /[\uD800-\uDBFF]/.test(text.charAt(length - 1));
  return text.slice(0, split ? length - 1 : length);
}

export class Lockstep {
  constructor(answers, onStep) {
    Object.assign(this, { answers, onStep, shown: 0 });
    this.timer = setInterval(() => this.step(), TICK_MS);
  }

  step() {
    this.shown = mayShow(this.answers, this.shown);
    if (this.ended) clearInterval(this.timer);
    this.onStep();
  }

  get ended() {
    return this.answers.every((answer) => answer.done && this.shown >= answer.text.length);
  }

  // Both can be read: a vote is possible.
  get readable() {
    return this.answers.every((answer) => !answer.error && (answer.done || upTo(answer.text, this.shown)))
      && (this.shown > 0 || this.ended);
  }

  stop() {
    clearInterval(this.timer);
    for (const answer of this.answers) answer.controller.abort();
  }
}
