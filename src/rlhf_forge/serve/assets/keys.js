// Keys for what the buttons do; off while someone types, and with Ctrl, Alt or Meta.

import { $ } from "/page/dom.js";

const TYPING = "input:not([type=radio], [type=checkbox], [type=file]), textarea, select, [contenteditable]";
// By the key's place, so that a layout with digits on Shift has them too.
const CODES = { Digit1: "left", Digit2: "right", Digit0: "tie", ArrowLeft: "left", ArrowRight: "right" };
const KEYS = { 1: "left", 2: "right", 0: "tie", b: "both_bad", s: "skip", u: "undo", c: "comment", "?": "help" };

export function listen(isActive, act) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target === $("comment")) return $("comment").blur();
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !isActive()) return undefined;
    if (event.target.closest?.(TYPING) || $("help").open || !$("keys-on").checked) return undefined;
    if (event.key.startsWith("Arrow") && event.target.closest?.("input, [role=region], [role=log]")) return undefined;
    const action = CODES[event.code] ?? KEYS[event.key];
    if (!action) return undefined;
    event.preventDefault();
    const much = event.shiftKey && (action === "left" || action === "right");
    return act(action, much ? 3 : null);
  });
}
