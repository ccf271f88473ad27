// All that this page asks its server.

import { $, uid } from "/page/dom.js";

export const session = uid();
const TRIES = 5;
const MOST_WAIT_MS = 4000;

export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function person() {
  return { annotator: $("annotator").value.trim(), session };
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function answered(path, options) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.ok) return response;
  if (response.status === 401) $("key-form").hidden = false;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `the server answered ${response.status}`;
  throw new ApiError(response.status, message, Number(response.headers.get("Retry-After")) || null);
}

export async function get(path) {
  return (await answered(path, { cache: "no-store" })).json();
}

export async function post(path, body, signal) {
  return (await answered(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// Sent again until it is acknowledged: it carries its own id, so it is stored once.
export async function cast(body) {
  for (let tried = 1; ; tried += 1) {
    try {
      return await post("/v1/feedback", { source: "page", ...person(), ...body });
    } catch (error) {
      const refused = error instanceof ApiError && error.status < 500;
      if (refused || tried === TRIES) throw error;
      await pause(Math.min(250 * 2 ** tried, MOST_WAIT_MS));
    }
  }
}

// Asks again for as long as the server says when: its models are being loaded, or its places are taken.
async function admitted(path, options, onWait) {
  for (;;) {
    try {
      return await answered(path, options);
    } catch (error) {
      if (!error.retryAfter) throw error;
      onWait(error.message);
      await pause(1000 * error.retryAfter);
    }
  }
}

// Calls onPiece with each piece of text, and onWait with why there is none yet; resolves to how the answer ended.
export async function chat(request, onPiece, onWait, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const options = { method: "POST", body: JSON.stringify(body), signal };
  const response = await admitted("/v1/chat/completions", options, onWait);
  onWait("");
  const end = { finish_reason: null, tokens: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return end;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(500, event.error.message);
    end.tokens = event.usage?.completion_tokens ?? end.tokens;
    for (const choice of event.choices) {
      if (choice.delta.content) onPiece(choice.delta.content);
      end.finish_reason = choice.finish_reason ?? end.finish_reason;
    }
  }
  if (end.finish_reason === null) throw new ApiError(500, "the answer broke off");
  return end;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}
