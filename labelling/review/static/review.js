// The page: one image after the other, every decision sent and confirmed before it says so.

import { Drafts, rebased } from "./drafts.js";
import { Editor, sameBoxes } from "./editor.js";
import { KEYS, keyOf } from "./keys.js";
import { ask, picture, Refused, start, Unreachable } from "./server.js";
import * as panels from "./panels.js";

const KEEP = 30_000; // milliseconds between two signs of life
const RETRY = 2_000;
const HUES = 9;
const TITLES = { queue: "Review", seed: "Draw", audit: "Audit" };

const $ = (id) => document.getElementById(id);
const here = {
  session: (sessionStorage.session ??= crypto.randomUUID()),
  known: null, // what the server said at the start
  piles: [],
  pile: sessionStorage.pile ?? null,
  className: sessionStorage.className ?? null,
  task: null,
  seen: 0, // the revision that the person began with
  conflict: null, // the image as somebody else left it
  busy: false,
  decisions: JSON.parse(sessionStorage.decisions ?? "[]"),
  look: { brightness: 100, contrast: 100 },
};
let drafts;

const editor = new Editor({
  stage: $("stage"),
  picture: $("picture"),
  svg: $("boxes"),
  changed: () => {
    if (!drafts.keep(here.task, editor.boxes, here.seen)) {
      say("warn", "this browser keeps nothing: do not reload before the image is recorded");
    }
    panels.boxes(editor, here);
  },
  viewed: () => panels.boxes(editor, here),
  locked: () => here.busy,
});
editor.hue = (name) => Math.max(0, here.known.classes.findIndex((c) => c.name === name)) % HUES;

const asked = (more) => ({ session: here.session, who: who(), ...more });
const who = () => $("who").value.trim() || here.known.who;
const isWhole = (name) => here.known.classes.some((c) => c.name === name && c.kind !== "box");

function say(kind, text) {
  $("status").className = kind;
  $("status").textContent = text;
}

// Runs one question at a time; what cannot be reached is tried again by the person.
async function busily(work) {
  if (here.busy) return;
  here.busy = true;
  document.body.classList.add("busy");
  try {
    await work();
  } catch (error) {
    if (error instanceof Unreachable) {
      say("error", "The server cannot be reached. What you drew is kept here; waiting for it …");
      waitForServer();
    } else if (error instanceof Refused) {
      say("error", error.message);
    } else {
      throw error;
    }
  } finally {
    here.busy = false;
    document.body.classList.remove("busy");
  }
}

let waiting = false;
async function waitForServer() {
  if (waiting) return;
  waiting = true;
  for (;;) {
    await new Promise((done) => setTimeout(done, RETRY));
    try {
      here.piles = (await start()).piles;
      break;
    } catch (error) {
      if (error instanceof Unreachable) continue;
      say("error", error.message);
      waiting = false;
      return;
    }
  }
  waiting = false;
  say("ok", "The server is back. Nothing was lost; go on with the same key.");
  panels.piles(here, TITLES);
  if (!here.task) busily(() => proceed());
}

// --- from image to image ---

async function proceed(after = null) {
  const { task, piles } = await ask(
    "/api/next",
    asked({ pile: here.pile, class_name: here.className, after }),
  );
  here.piles = piles;
  if (task) return show(task);
  here.task = null;
  delete sessionStorage.image;
  editor.clear();
  panels.nothing(here, TITLES);
  panels.all(editor, here, TITLES);
}

async function open(pile, image) {
  const { task, piles } = await ask("/api/open", asked({ pile, image }));
  Object.assign(here, { piles, pile });
  sessionStorage.pile = pile;
  await show(task);
}

const begun = (boxes) =>
  boxes.map((each) => ({ ...each, was: { box: each.box, class_name: each.class_name } }));

async function show(task, mine = null) {
  let url = null;
  let problem = "";
  try {
    url = await picture(task.image);
    $("picture").src = url;
    await $("picture").decode();
    const { naturalWidth: w, naturalHeight: h } = $("picture");
    if (w !== task.size[0] || h !== task.size[1]) problem = `the browser shows it as ${w} × ${h}`;
  } catch (error) {
    if (error instanceof Unreachable) throw error;
    problem = error.message;
  }
  task.boxes = begun(task.boxes);
  Object.assign(here, { task, seen: task.revision, conflict: null, pile: task.pile });
  here.className = task.class_name ?? "";
  Object.assign(sessionStorage, {
    pile: task.pile,
    image: task.image,
    className: here.className,
  });
  if (problem) {
    editor.clear();
    here.unreadable = `${task.image}: ${problem}`;
  } else {
    here.unreadable = null;
    const pen = penFor(task);
    const readonly = task.pile === "audit";
    editor.show({ size: task.size, boxes: task.boxes, pen, readonly });
    putBack(task, mine);
  }
  panels.all(editor, here, TITLES);
}

function penFor(task) {
  const names = here.known.classes.map((c) => c.name);
  const wanted = [task.image_class, task.class_name, here.pen].find((n) => names.includes(n));
  return wanted ?? names[0];
}

// Puts boxes back that were drawn before a reload, an undo, or while somebody else was faster.
function putBack(task, mine) {
  const draft = mine ? { revision: task.revision, boxes: mine } : drafts.of(task);
  if (!draft || task.pile === "audit") return;
  here.seen = draft.revision;
  editor.restore(rebased(draft.boxes, task));
  if (draft.revision !== task.revision) contest(task);
  else if (!mine) say("ok", "Your boxes of before are back; U takes them away.");
}

// --- decisions ---

async function record(boxes, word) {
  const { task } = here;
  if (!task || here.unreadable || task.pile === "audit") return;
  if (here.conflict && boxes.length && sameBoxes(boxes, here.conflict.boxes.filter((b) => b.taken)))
    return takeTheirs();
  say("", "recording …");
  const sent = boxes.map(({ box, class_name, entry, candidate }) => ({
    box,
    class_name,
    entry: entry ?? null,
    candidate: candidate ?? null,
  }));
  let revision;
  try {
    const { pile, image } = task;
    const body = asked({ pile, image, revision: task.revision, boxes: sent });
    revision = (await ask("/api/decide", body)).revision;
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 409) throw error;
    return overtaken(task, boxes, word, error.message);
  }
  done(task, revision, word);
  await proceed(task.image);
}

function done(task, revision, word) {
  here.decisions.push({ pile: task.pile, image: task.image, revision, boxes: editor.boxes });
  here.decisions = here.decisions.slice(-200);
  sessionStorage.decisions = JSON.stringify(here.decisions);
  drafts.drop(task);
  say("ok", `${task.image}: ${word}, recorded`);
}

const offers = (task) => task.boxes.map((each) => each.candidate).join();

// Somebody changed the image meanwhile, or our own last answer got lost on its way.
async function overtaken(task, boxes, word, text) {
  const fresh = (await ask("/api/open", asked({ pile: task.pile, image: task.image }))).task;
  const live = fresh.boxes.filter((each) => each.taken);
  if (fresh.revision === task.revision) {
    if (offers(fresh) === offers(task)) return say("error", text);
    await show(fresh, editor.boxes);
    return say("warn", `Not recorded: ${text}. Enter records yours, R shows the new ones.`);
  }
  if (fresh.revision === task.revision + 1 && fresh.changed_by === who() && sameBoxes(boxes, live)) {
    done(task, fresh.revision, word);
    return proceed(task.image);
  }
  fresh.boxes = begun(fresh.boxes);
  const mine = rebased(editor.boxes, fresh);
  here.task = fresh;
  editor.boxes = mine;
  drafts.keep(fresh, mine, here.seen); // so that a reload asks again
  contest(fresh);
  panels.all(editor, here, TITLES);
}

function contest(fresh) {
  here.conflict = fresh;
  editor.theirs = fresh.boxes.filter((each) => each.taken);
  editor.select(-1);
  panels.banner(here);
  say("warn", "Not recorded: this image was changed meanwhile. Your boxes are still here.");
}

async function takeTheirs() {
  const { task } = here;
  drafts.drop(task);
  here.conflict = null;
  await proceed(task.image);
}

function accept() {
  if (here.task?.pile === "audit") return say("warn", "Y: all of it is right. N: it is not.");
  if (!here.task || here.unreadable) return;
  const boxes = editor.taken;
  if (!boxes.length)
    return say("warn", "No box is taken: draw one or take one with Space. N if nothing is there.");
  busily(() => record(boxes, `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}`));
}

function none() {
  if (here.task?.pile === "audit") return answer(false);
  if (here.task) busily(() => record([], "nothing to see"));
}

function answer(right) {
  const { task } = here;
  if (task?.pile !== "audit" || here.unreadable) return;
  busily(async () => {
    say("", "recording …");
    await ask("/api/answer", asked({ image: task.image, right }));
    here.decisions.push({ pile: "audit", image: task.image });
    sessionStorage.decisions = JSON.stringify(here.decisions);
    say("ok", `${task.image}: ${right ? "right" : "wrong"}, noted`);
    await proceed(task.image);
  });
}

function finish() {
  const audit = here.piles.find((each) => each.pile === "audit");
  if (here.pile !== "audit" || here.task || !audit.total || audit.open) return;
  busily(async () => {
    say("", "working out what the answers say …");
    const found = await ask("/api/finish", asked({}));
    here.decisions = here.decisions.filter((each) => each.pile !== "audit");
    here.piles = (await start()).piles;
    panels.all(editor, here, TITLES);
    panels.audited(found);
    say("ok", "The audit is in the ledger and in the report.");
  });
}

// Takes back the last change of this image, or else the last decision.
function undo() {
  if (here.busy) return;
  if (editor.undo()) return say("", "");
  busily(async () => {
    const last = here.decisions.at(-1);
    if (!last) return say("warn", "There is nothing to undo.");
    const { pile, image } = last;
    if (pile === "audit") await ask("/api/answer", asked({ image, right: null }));
    else await ask("/api/undo", asked({ pile, image, revision: last.revision }));
    here.decisions.pop();
    sessionStorage.decisions = JSON.stringify(here.decisions);
    await open(pile, image);
    if (last.boxes) putBack(here.task, last.boxes);
    say("ok", `${image}: taken back`);
    panels.all(editor, here, TITLES);
  });
}

function skip() {
  if (here.busy) return;
  say("", "");
  busily(() => proceed(here.task?.image ?? null));
}

// Begins the image anew, or takes what somebody else left.
function renew() {
  const { task } = here;
  if (!task) return;
  if (here.conflict) return busily(takeTheirs);
  drafts.drop(task);
  busily(async () => {
    await open(task.pile, task.image);
    say("", "as it came");
  });
}

function changePile(pile) {
  here.pile = pile;
  here.className = null;
  sessionStorage.pile = pile;
  say("", "");
  busily(() => proceed());
}

function nextPile() {
  const names = here.piles.filter((each) => each.total).map((each) => each.pile);
  if (names.length) changePile(names[(names.indexOf(here.pile) + 1) % names.length]);
}

function changeClass(name) {
  here.className = name;
  say("", "");
  busily(() => proceed());
}

function nextClass(step) {
  const pile = here.piles.find((each) => each.pile === here.pile);
  const open = pile?.classes.filter((each) => each.open || each.name === here.className) ?? [];
  if (!open.length) return;
  const at = open.findIndex((each) => each.name === here.className);
  changeClass(open[(at + step + open.length) % open.length].name);
}

function classify(number) {
  const found = here.known.classes[number];
  if (!found || !here.task || here.task.pile === "audit") return;
  here.pen = found.name;
  editor.classify(found.name, isWhole(found.name));
}

// --- the view ---

function look(name, factor) {
  const slider = $(name);
  here.look[name] = factor === null ? 100 : Math.round(here.look[name] * factor);
  here.look[name] = Math.min(Math.max(here.look[name], slider.min), slider.max);
  slider.value = here.look[name];
  lighten();
}

function lighten() {
  const { brightness, contrast } = here.look;
  $("picture").style.filter = `brightness(${brightness}%) contrast(${contrast}%)`;
}

function resetView() {
  look("brightness", null);
  look("contrast", null);
  editor.fit();
}

function arrows(dx, dy, event) {
  const step = event.ctrlKey || event.metaKey ? 10 : 1;
  if (editor.target < 0) editor.pan(-dx * 40, -dy * 40);
  else if (event.shiftKey) editor.stretch(dx * step, dy * step);
  else editor.nudge(dx * step, dy * step);
}

const doing = (worked, otherwise) => worked || say("warn", otherwise);
const CHOOSE = "Choose a box first: Tab, or a click.";

const actions = {
  accept,
  none,
  yes: () => answer(true),
  reject: () => {
    if (here.task?.pile === "audit") return answer(false);
    if (here.task) doing(editor.reject(), CHOOSE);
  },
  take: () => here.task && doing(editor.toggle(), CHOOSE),
  redraw: () => {
    if (here.task && doing(editor.redraw(), CHOOSE) === true)
      say("", "Drag the box anew, or move it with the arrows.");
  },
  add: () => editor.readonly || editor.addInMiddle(),
  undo,
  skip,
  renew,
  finish,
  forward: () => editor.cycle(1),
  back: () => editor.cycle(-1),
  escape: () => editor.escape(),
  classify,
  nextClass: () => nextClass(1),
  lastClass: () => nextClass(-1),
  nextPile,
  brighter: () => look("brightness", 1.15),
  darker: () => look("brightness", 1 / 1.15),
  harder: () => look("contrast", 1.2),
  softer: () => look("contrast", 1 / 1.2),
  closer: () => editor.zoom(1.4),
  farther: () => editor.zoom(1 / 1.4),
  bare: () => $("stage").classList.add("bare"),
  resetView,
  arrows,
  name: () => $("who").select(),
  help: () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if ($("help").open || event.altKey || !here.known) return;
  if (event.target === $("who")) {
    if (["Enter", "Escape"].includes(event.key)) event.target.blur();
    return;
  }
  const found = keyOf(event);
  if (!found) return;
  event.preventDefault();
  if (here.busy && found.waits) return;
  actions[found.action](...found.with, event);
});

document.addEventListener("keyup", () => $("stage").classList.remove("bare"));
window.addEventListener("blur", () => $("stage").classList.remove("bare"));

// --- the start ---

async function signOfLife() {
  if (!here.task || document.hidden || here.busy) return;
  try {
    const { kept } = await ask("/api/keep", asked({ image: here.task.image }));
    if (kept || here.busy) return;
    const { pile, image, revision } = here.task;
    const { task } = await ask("/api/open", asked({ pile, image }));
    if (here.busy || here.task?.image !== image) return;
    here.task.busy = task.busy;
    if (task.revision !== revision && pile !== "audit") {
      task.boxes = begun(task.boxes);
      editor.boxes = rebased(editor.boxes, task);
      here.task = task;
      contest(task);
    }
    panels.banner(here);
  } catch (error) {
    if (error instanceof Unreachable) {
      say("error", "The server cannot be reached. What you drew is kept here; waiting for it …");
      waitForServer();
    }
  }
}

async function begin() {
  here.known = await start();
  here.piles = here.known.piles;
  drafts = new Drafts(here.known.id);
  document.title = `wafer review: ${here.known.workspace}`;
  $("who").value = localStorage.who || here.known.who;
  const full = here.piles.filter((each) => each.total);
  if (!full.some((each) => each.pile === here.pile))
    here.pile = (full.find((each) => each.open) ?? full[0]).pile;
  const { pile, image } = sessionStorage;
  try {
    if (pile === here.pile && image) return await open(pile, image);
  } catch (error) {
    if (!(error instanceof Refused)) throw error; // it is gone from the pile
  }
  await proceed();
}

// A click must not take the keyboard away from the image.
for (const part of [...document.querySelectorAll("nav, footer, aside, #show-help")])
  part.addEventListener("mousedown", (event) => {
    if (event.target.tagName !== "INPUT") event.preventDefault();
  });
for (const name of ["brightness", "contrast"]) {
  $(name).addEventListener("input", () => {
    here.look[name] = Number($(name).value);
    lighten();
  });
  $(name).addEventListener("change", () => $(name).blur());
}
$("who").addEventListener("change", () => (localStorage.who = $("who").value.trim()));
$("show-help").addEventListener("click", actions.help);
panels.build({ actions, editor, changePile, changeClass, keys: KEYS });
setInterval(signOfLife, KEEP);
busily(begin);
