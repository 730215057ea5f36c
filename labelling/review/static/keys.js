// Every key, what it does, and how the help names it. `waits`: not while something is recorded.

const ANY = "with or without";
const arrow = (key, dx, dy) => ({ key, action: "arrows", with: [dx, dy], shift: ANY, ctrl: ANY });

export const KEYS = [
  { key: "Enter", action: "accept", waits: true, shown: "Enter", says: "accept the boxes that are taken, next image", group: "Decide", button: "Accept", piles: ["queue", "seed"] },
  { key: "n", action: "none", waits: true, shown: "N", says: "nothing to see here (audit: something is wrong)", group: "Decide", button: "Nothing here", piles: ["queue", "seed"] },
  { key: "y", action: "yes", waits: true, shown: "Y", says: "audit: class and every box are right", group: "Decide", button: "All right", piles: ["audit"] },
  { key: "n", action: "none", waits: true, shown: "N", button: "Something is wrong", piles: ["audit"] },
  { key: "s", action: "skip", waits: true, shown: "S", says: "next image, without a decision", group: "Decide", button: "Skip" },
  { key: "u", action: "undo", waits: true, shown: "U", says: "undo the last change, then the last decision", group: "Decide", button: "Undo" },
  { key: "z", ctrl: true, action: "undo", waits: true },
  { key: "r", action: "renew", waits: true, shown: "R", says: "begin the image anew; after a conflict, take the other person's boxes", group: "Decide" },
  { key: "f", action: "finish", waits: true, shown: "F", says: "audit: take the answers, once all are given", group: "Decide" },

  { key: "Tab", action: "forward", shown: "Tab", says: "next box (Shift: the one before)", group: "Boxes" },
  { key: "Tab", shift: true, action: "back" },
  { key: " ", action: "take", shown: "Space", says: "take an offered (dashed) box, or leave it", group: "Boxes", button: "Take or leave", piles: ["queue", "seed"] },
  { key: "x", action: "reject", shown: "X", says: "reject the box", group: "Boxes", button: "Reject box", piles: ["queue", "seed"] },
  { key: "Delete", action: "reject" },
  { key: "Backspace", action: "reject" },
  { key: "e", action: "redraw", shown: "E", says: "draw the box anew", group: "Boxes", button: "Redraw", piles: ["queue", "seed"] },
  { key: "d", action: "add", shown: "D", says: "new box in the middle, without the mouse", group: "Boxes", button: "New box", piles: ["queue", "seed"] },
  ...Array.from({ length: 9 }, (_, k) => ({ code: `Digit${k + 1}`, numpad: `Numpad${k + 1}`, action: "classify", with: [k] })),
  ...Array.from({ length: 9 }, (_, k) => ({ code: `Digit${k + 1}`, shift: true, action: "classify", with: [k + 9] })),
  { shown: "1–9", says: "class of the box (Shift: the tenth and on)", group: "Boxes" },
  arrow("ArrowLeft", -1, 0),
  arrow("ArrowRight", 1, 0),
  arrow("ArrowUp", 0, -1),
  arrow("ArrowDown", 0, 1),
  { shown: "← ↑ → ↓", says: "move the box by a pixel (Shift: its right and lower edge; Ctrl: ten)", group: "Boxes" },
  { key: "Escape", action: "escape", shown: "Esc", says: "choose no box; stop drawing", group: "Boxes" },

  { key: "+", shift: ANY, action: "closer", shown: "+  −", says: "zoom (also the wheel; drag with the right button moves the image)", group: "View" },
  { key: "=", action: "closer" },
  { key: "-", shift: ANY, action: "farther" },
  { key: "b", action: "brighter", shown: "B", says: "brighter (Shift: darker)", group: "View" },
  { key: "b", shift: true, action: "darker" },
  { key: "c", action: "harder", shown: "C", says: "more contrast (Shift: less)", group: "View" },
  { key: "c", shift: true, action: "softer" },
  { key: "h", action: "bare", shown: "H", says: "hide the boxes, as long as it is held", group: "View" },
  { key: "0", action: "resetView", shown: "0", says: "whole image, as it is", group: "View" },

  { key: "g", action: "nextClass", waits: true, shown: "G", says: "next class (Shift: the one before)", group: "Go" },
  { key: "g", shift: true, action: "lastClass", waits: true },
  { key: "q", action: "nextPile", waits: true, shown: "Q", says: "review, draw, audit in turn", group: "Go" },
  { key: "w", action: "name", shown: "W", says: "your name", group: "Go" },
  { key: "?", shift: ANY, action: "help", shown: "?", says: "this list", group: "Go" },
];

const fits = (wanted, held) => wanted === ANY || held === Boolean(wanted);

export function keyOf(event) {
  const ctrl = event.ctrlKey || event.metaKey;
  const found = KEYS.find((each) => {
    if (!each.action || !fits(each.ctrl, ctrl) || !fits(each.shift, event.shiftKey)) return false;
    if (each.code) return event.code === each.code || (!each.shift && event.code === each.numpad);
    return each.key === (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  });
  return found && { action: found.action, with: found.with ?? [], waits: found.waits };
}
