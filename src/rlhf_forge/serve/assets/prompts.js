// Where prompts come from: the field, or the person's list.

// Lines of text, or JSON lines with a prompt or messages that wait for an answer.
export function parsePrompts(text) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  const prompts = lines.map(promptOf);
  return { prompts: prompts.filter(Boolean), unused: prompts.filter((prompt) => !prompt).length };
}

export const asUser = (text) => [{ role: "user", content: text }];

function promptOf(line) {
  if (!line.startsWith("{")) return asUser(line);
  try {
    const row = JSON.parse(line);
    const given = row.prompt ?? row.messages;
    if (typeof given === "string" && given.trim()) return asUser(given);
    return isPrompt(given) ? given.map(({ role, content }) => ({ role, content })) : null;
  } catch {
    return null;
  }
}

function isPrompt(turns) {
  return Array.isArray(turns) && turns.length > 0 && turns.at(-1)?.role === "user"
    && turns.every((turn) => typeof turn?.content === "string" && typeof turn.role === "string");
}
