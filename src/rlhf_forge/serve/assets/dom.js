// Elements and the text in them. Text goes in as text: nothing on this page is parsed as HTML.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value === "boolean") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null)); // strings become text nodes
  return element;
}

export function showTurns(place, messages) {
  place.replaceChildren(
    ...messages.map((turn) =>
      el("p", { class: "turn", dir: "auto" }, messages.length > 1 ? el("b", {}, turn.role) : null, turn.content),
    ),
  );
}

export function fillModels(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  select.value = chosen;
}

export function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// Enter sends, Shift and Enter make a new line.
export function onSubmit(form, field, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
}

// Not crypto.randomUUID: that is missing where a page comes by plain HTTP from another machine.
export function uid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// 48 bits: a whole number to JavaScript and to JSON.
export function drawSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0xffff) * 2 ** 32 + low;
}

export function remembered(key, fallback = "") {
  try {
    return localStorage.getItem(key) ?? fallback;
  } catch {
    return fallback; // storage is switched off: the page works, and forgets
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // as above
  }
}
