// Everything around the image: piles, classes, facts, lists, buttons.

import { svgRect } from "./editor.js";
import { picture } from "./server.js";

const $ = (id) => document.getElementById(id);

function make(tag, { text, ...given } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), given);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

const kbd = (text) => make("kbd", { text });
let page;

export function build(given) {
  page = given;
  const rows = [];
  let group = null;
  for (const each of page.keys.filter((k) => k.says)) {
    if (each.group !== group) rows.push(make("h2", { text: (group = each.group) }));
    rows.push(make("p", {}, kbd(each.shown), make("span", { text: each.says })));
  }
  const close = make("button", { type: "button", text: "Back to work", autofocus: true });
  close.append(" ", kbd("Esc"));
  close.addEventListener("click", () => $("help").close());
  $("help").replaceChildren(make("h1", { text: "Keys" }), make("div", {}, ...rows), close);
}

export function all(editor, here, titles) {
  piles(here, titles);
  classes(here);
  facts(here);
  boxes(editor, here);
  buttons(here);
  banner(here);
  neighbours(editor, here);
}

export function piles(here, titles) {
  const buttons = here.piles
    .filter((each) => each.total)
    .map((each) => {
      const button = make("button", { type: "button" }, `${titles[each.pile]} `);
      button.append(make("b", { text: each.open }));
      button.setAttribute("aria-pressed", each.pile === here.pile);
      button.dataset.pile = each.pile;
      button.addEventListener("click", () => page.changePile(each.pile));
      return button;
    });
  $("piles").replaceChildren(...buttons);
  const pile = here.piles.find((each) => each.pile === here.pile);
  if (!pile) return;
  const done = pile.total - pile.open;
  $("bar").max = Math.max(1, pile.total);
  $("bar").value = done;
  $("left").textContent = `${done} of ${pile.total} done · ${duration(pile.seconds_left)}`;
}

function duration(seconds) {
  if (!seconds) return "nothing left";
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 60) return `about ${minutes} min left`;
  return `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

// The classes of the pile with what is open, and the keys of the classes a box can have.
function classes(here) {
  const pile = here.piles.find((each) => each.pile === here.pile);
  const counts = new Map((pile?.classes ?? []).map((each) => [each.name, each]));
  const names = here.known.classes.map((each) => each.name);
  const others = [...counts.keys()].filter((name) => !names.includes(name));
  const rows = [...names, ...others].map((name) => {
    const count = counts.get(name);
    const number = names.indexOf(name);
    const row = make("li", {}, make("i", { className: `hue-${Math.max(0, number) % 9}` }));
    row.append(kbd(number < 0 ? "" : number < 9 ? `${number + 1}` : `⇧${number - 8}`));
    row.append(make("span", { text: name || "without a class" }));
    row.append(make("b", { text: count ? count.open : "" }));
    row.classList.toggle("done", !count?.open);
    row.classList.toggle("here", Boolean(here.task) && name === here.className);
    if (number < 0) row.querySelector("i").className = "";
    if (count?.open) {
      row.title = `${count.open} of ${count.total} open; go to this class`;
      row.addEventListener("click", () => page.changeClass(name));
    }
    return row;
  });
  $("class-list").replaceChildren(...rows);
}

function facts(here) {
  const { task } = here;
  $("name").textContent = task?.image ?? "";
  $("empty").hidden = Boolean(task) && !here.unreadable;
  if (here.unreadable) $("empty").textContent = `${here.unreadable}. S goes on.`;
  $("facts").classList.toggle("without", !task);
  if (!task) return;
  const parts = [make("strong", { text: task.image_class ?? task.class_name ?? "without a class" })];
  parts.push(` · ${task.size[0]} × ${task.size[1]} px`);
  const reason = make("span", { text: task.reason });
  if (task.kind !== "boxes") reason.className = "doubt";
  parts.push(make("br"), reason);
  if (task.other) parts.push(make("span", { className: "doubt", text: ` Perhaps ${task.other}.` }));
  $("reason").replaceChildren(...parts);
}

export function boxes(editor, here) {
  const rows = editor.boxes.map((each, k) => {
    const [x0, y0, x1, y1] = each.box;
    const chance = each.probability == null ? "" : each.probability.toFixed(2);
    const row = make("li", { className: each.taken ? "taken" : "offered" });
    row.append(
      make("i", { className: `hue-${editor.hue(each.class_name)}` }),
      make("span", { text: each.class_name }),
      make("span", { className: "size", text: `${Math.round(x1 - x0)} × ${Math.round(y1 - y0)}` }),
      make("b", { text: chance }),
    );
    row.classList.toggle("here", k === editor.selected);
    row.title = `${each.taken ? "taken" : "offered; Space takes it"}: ${each.box.map(round).join(", ")}`;
    row.addEventListener("click", () => editor.select(k));
    return row;
  });
  $("box-list").replaceChildren(...rows);
  if (!rows.length && here.task) {
    const pen = here.task.pile === "audit" ? "none" : `none yet; drag to draw ${editor.pen}`;
    $("box-list").append(make("li", { className: "pen", text: pen }));
  }
}

const round = (value) => `${Math.round(value * 10) / 10}`;

function buttons(here) {
  const wanted = page.keys.filter((k) => k.button && (k.piles ?? [here.pile]).includes(here.pile));
  const made = wanted.map((each) => {
    const button = make("button", { type: "button", text: `${each.button} ` }, kbd(each.shown));
    button.dataset.action = each.action;
    button.disabled = !here.task && !["undo", "skip"].includes(each.action);
    button.addEventListener("click", () => page.actions[each.action]());
    return button;
  });
  $("actions").replaceChildren(...made);
}

export function banner(here) {
  const { conflict, task } = here;
  $("banner").hidden = !conflict && !task?.busy;
  if (conflict) {
    const when = new Date(conflict.changed_at).toLocaleTimeString([], { timeStyle: "short" });
    $("banner").replaceChildren(
      make("b", { text: `${conflict.changed_by} changed this image at ${when}. ` }),
      "Theirs is dotted in white, yours is as you left it. ",
      kbd("Enter"),
      " records yours instead, ",
      kbd("R"),
      " leaves theirs.",
    );
  } else if (task?.busy) {
    $("banner").replaceChildren(
      make("b", { text: `${task.busy} has this image open too. ` }),
      "Who records second is asked.",
    );
  }
}

export function nothing(here, titles) {
  const pile = here.piles.find((each) => each.pile === here.pile);
  const lines = [];
  if (pile?.open) {
    lines.push(make("h1", { text: "The last ones are open elsewhere" }));
    lines.push(make("p", { text: `${pile.open} left, at another person or window. ` }, kbd("S"), " asks again."));
  } else if (here.pile === "audit" && pile?.total) {
    lines.push(make("h1", { text: `All ${pile.total} images have an answer` }));
    lines.push(make("p", {}, kbd("F"), " takes the answers, ", kbd("U"), " goes back to the last one."));
  } else {
    lines.push(make("h1", { text: "Nothing is left here" }));
  }
  for (const other of here.piles.filter((each) => each.open && each.pile !== here.pile)) {
    const text = `${titles[other.pile]}: ${other.open} images wait. `;
    lines.push(make("p", { text }, kbd("Q"), " goes there."));
  }
  $("empty").replaceChildren(...lines);
}

export function audited({ classes: rows, notes }) {
  const table = make("table");
  const head = ["class", "answer", "at least", "accepted", "to review"];
  table.append(make("tr", {}, ...head.map((text) => make("th", { text }))));
  for (const row of rows) {
    const bound = row.bound == null ? "" : row.bound.toFixed(3);
    const cells = [row.name, row.answer, bound, row.accepted, row.review];
    table.append(make("tr", {}, ...cells.map((text) => make("td", { text }))));
  }
  const said = notes.map((text) => make("p", { text }));
  $("empty").replaceChildren(make("h1", { text: "What the audit says" }), table, ...said);
}

let asked = 0;
async function neighbours(editor, here) {
  const { task } = here;
  const mine = ++asked;
  const found = task?.neighbours ?? [];
  $("neighbour-part").hidden = !found.length;
  $("neighbour-title").textContent = `Drawn before: ${task?.class_name ?? ""}`;
  const shown = found.map((each) => {
    const [w, h] = each.size;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    for (const [x0, y0, x1, y1] of each.boxes) {
      const kind = `hue-${editor.hue(task.class_name)}`;
      svg.append(svgRect({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind }));
    }
    return make("figure", { title: each.image }, make("img", { alt: "" }), svg);
  });
  $("neighbours").replaceChildren(...shown);
  for (const [k, each] of found.entries()) {
    try {
      const url = await picture(each.image);
      if (mine !== asked) return;
      shown[k].firstChild.src = url;
    } catch {
      if (mine !== asked) return;
      shown[k].remove(); // one that cannot be shown is no loss
    }
  }
}
