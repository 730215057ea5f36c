// The image with its boxes: what is drawn, selected, zoomed; it knows nothing of the server.

import { area, clamp, drawnBox, equal, holds, movedBox, resizedBox } from "./geometry.js";

const SVG = "http://www.w3.org/2000/svg";
const REACH = 9; // screen pixels around a handle that still take hold of it
const DRAG = 3; // screen pixels from which on a press is a drag
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const copyOf = (boxes) => boxes.map((each) => ({ ...each, box: [...each.box] }));

export class Editor {
  constructor({ stage, picture, svg, changed, viewed, locked }) {
    Object.assign(this, { stage, picture, svg, changed, viewed, locked });
    this.hue = () => 0;
    this.clear();
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    stage.addEventListener("pointerup", (event) => this.release(event));
    stage.addEventListener("pointercancel", () => this.cancel());
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.fitted && this.fit()).observe(stage);
  }

  clear() {
    this.size = null;
    this.boxes = [];
    this.past = [];
    this.theirs = [];
    this.selected = -1;
    this.gesture = null;
    this.redrawing = false;
    this.readonly = false;
    this.pen = null;
    this.fitted = true;
    this.view = { scale: 1, x: 0, y: 0 };
    this.picture.hidden = true;
    this.render();
  }

  // `boxes` as the page begins with them; each keeps `was`, to be told from an edited one.
  show({ size, boxes, pen, readonly }) {
    this.clear();
    this.size = size;
    this.boxes = copyOf(boxes);
    this.pen = pen;
    this.readonly = readonly;
    this.picture.hidden = false;
    this.fit();
  }

  // What keys act on: the selected box, or the only one.
  get target() {
    if (this.selected >= 0) return this.selected;
    return this.boxes.length === 1 ? 0 : -1;
  }

  get taken() {
    return this.boxes.filter((each) => each.taken);
  }

  // Every change by hand goes through here; what is being recorded stays as it is.
  edit(change) {
    if (this.readonly || !this.size || this.locked()) return this.render();
    this.apply(change);
  }

  apply(change) {
    const before = { boxes: copyOf(this.boxes), selected: this.selected };
    change();
    if (JSON.stringify(before.boxes) === JSON.stringify(this.boxes)) return this.render();
    this.past.push(before);
    this.render();
    this.changed();
  }

  undo() {
    const before = this.past.pop();
    if (!before) return false;
    Object.assign(this, before);
    this.redrawing = false;
    this.render();
    this.changed();
    return true;
  }

  // Puts back boxes of an earlier visit; they can be undone like an edit.
  restore(boxes) {
    this.apply(() => {
      this.boxes = copyOf(boxes);
      this.selected = -1;
    });
  }

  select(index) {
    this.selected = index;
    this.redrawing = false;
    this.render();
    this.viewed();
  }

  cycle(step) {
    const n = this.boxes.length;
    if (n) this.select(this.selected < 0 ? (step > 0 ? 0 : n - 1) : (this.selected + step + n) % n);
  }

  toggle() {
    const at = this.target;
    if (at < 0) return false;
    this.edit(() => {
      this.boxes[at].taken = !this.boxes[at].taken;
      this.selected = at;
    });
    return true;
  }

  // A box that was offered stays in sight, untaken; one drawn here is gone.
  reject() {
    const at = this.target;
    if (at < 0) return false;
    this.edit(() => {
      if (this.boxes[at].was) {
        this.boxes[at].taken = false;
      } else {
        this.boxes.splice(at, 1);
        this.selected = -1;
      }
    });
    return true;
  }

  // The class of the target, or of the next box that is drawn. A class that is the whole image
  // has the full frame.
  classify(name, whole) {
    this.pen = name;
    const at = this.target;
    this.edit(() => {
      if (at < 0 && !whole) return;
      const full = [0, 0, ...this.size];
      if (at < 0) {
        this.boxes.push({ box: full, class_name: name, taken: true });
        this.selected = this.boxes.length - 1;
        return;
      }
      this.boxes[at].class_name = name;
      this.boxes[at].taken = true;
      if (whole) this.boxes[at].box = full;
      this.selected = at;
    });
    this.viewed();
  }

  add(box) {
    this.edit(() => {
      this.boxes.push({ box, class_name: this.pen, taken: true });
      this.selected = this.boxes.length - 1;
    });
  }

  addInMiddle() {
    if (!this.size) return;
    const rect = this.stage.getBoundingClientRect();
    const [x, y] = this.toImage(rect.left + rect.width / 2, rect.top + rect.height / 2);
    const half = this.size.map((side) => Math.max(1, side / 8));
    const middle = [clamp(x, half[0], this.size[0] - half[0]), clamp(y, half[1], this.size[1] - half[1])];
    const box = drawnBox(
      [middle[0] - half[0], middle[1] - half[1]],
      [middle[0] + half[0], middle[1] + half[1]],
      this.size,
    );
    if (box) this.add(box);
  }

  redraw() {
    const at = this.target;
    if (at < 0 || this.readonly) return false;
    this.selected = at;
    this.redrawing = true;
    this.render();
    return true;
  }

  nudge(dx, dy) {
    this.reshape((box) => movedBox(box, dx, dy, this.size));
  }

  // Moves the right or lower edge.
  stretch(dx, dy) {
    const edges = (dx ? "e" : "") + (dy ? "s" : "");
    this.reshape((box) => resizedBox(box, edges, box[2] + dx, box[3] + dy, this.size));
  }

  reshape(change) {
    const at = this.target;
    if (at < 0) return;
    this.edit(() => {
      this.selected = at;
      this.boxes[at].box = change(this.boxes[at].box);
      this.boxes[at].taken = true;
    });
  }

  escape() {
    if (this.gesture) this.cancel();
    else this.select(-1);
  }

  // --- where things are ---

  fit() {
    this.fitted = true;
    if (!this.size) return this.render();
    const { clientWidth: w, clientHeight: h } = this.stage;
    const scale = Math.max(0.01, Math.min((w - 24) / this.size[0], (h - 24) / this.size[1]));
    this.view = { scale, x: (w - this.size[0] * scale) / 2, y: (h - this.size[1] * scale) / 2 };
    this.render();
  }

  // Zooms so that a point of the stage, in screen pixels, stays where it is.
  zoom(factor, at) {
    if (!this.size) return;
    const { clientWidth: w, clientHeight: h } = this.stage;
    const [px, py] = at ?? this.middleOfTarget() ?? [w / 2, h / 2];
    const scale = clamp(this.view.scale * factor, 0.05, 64);
    const ratio = scale / this.view.scale;
    this.view = { scale, x: px - (px - this.view.x) * ratio, y: py - (py - this.view.y) * ratio };
    this.fitted = false;
    this.render();
  }

  middleOfTarget() {
    if (this.selected < 0) return null;
    const [x0, y0, x1, y1] = this.onStage(this.boxes[this.selected].box);
    return [(x0 + x1) / 2, (y0 + y1) / 2];
  }

  pan(dx, dy) {
    this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy };
    this.fitted = false;
    this.render();
  }

  wheel(event) {
    event.preventDefault();
    const rect = this.stage.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), [event.clientX - rect.left, event.clientY - rect.top]);
  }

  toImage(clientX, clientY) {
    const rect = this.stage.getBoundingClientRect();
    const { scale, x, y } = this.view;
    return [(clientX - rect.left - x) / scale, (clientY - rect.top - y) / scale];
  }

  onStage([x0, y0, x1, y1]) {
    const { scale, x, y } = this.view;
    return [x0 * scale + x, y0 * scale + y, x1 * scale + x, y1 * scale + y];
  }

  // --- the pointer ---

  press(event) {
    if (!this.size || this.gesture) return;
    const point = this.toImage(event.clientX, event.clientY);
    const start = [event.clientX, event.clientY];
    const turn = event.button === 0 ? this.holdAt(event, point) : { kind: "pan" };
    if (this.readonly && turn.kind !== "pan") return;
    event.preventDefault();
    document.activeElement?.blur?.();
    this.stage.setPointerCapture(event.pointerId);
    const box = this.selected < 0 ? null : [...this.boxes[this.selected].box];
    this.gesture = { ...turn, start, last: start, point, box, moved: false, shape: null };
  }

  // What a press at a point takes hold of.
  holdAt(event, [x, y]) {
    if (this.redrawing || this.selected < 0) return { kind: "draw" };
    const rect = this.stage.getBoundingClientRect();
    const at = [event.clientX - rect.left, event.clientY - rect.top];
    const box = this.boxes[this.selected].box;
    const near = (edges) => {
      const [hx, hy] = this.handle(edges, this.onStage(box));
      return Math.max(Math.abs(hx - at[0]), Math.abs(hy - at[1]));
    };
    const [edges, away] = HANDLES.map((h) => [h, near(h)]).sort((a, b) => a[1] - b[1])[0];
    if (away <= REACH) return { kind: "resize", edges };
    return { kind: holds(box, x, y) ? "move" : "draw" };
  }

  handle(edges, [x0, y0, x1, y1]) {
    const x = edges.includes("w") ? x0 : edges.includes("e") ? x1 : (x0 + x1) / 2;
    const y = edges.includes("n") ? y0 : edges.includes("s") ? y1 : (y0 + y1) / 2;
    return [x, y];
  }

  drag(event) {
    const held = this.gesture;
    if (!held) return;
    const away = Math.hypot(event.clientX - held.start[0], event.clientY - held.start[1]);
    if (!held.moved && away < DRAG) return;
    held.moved = true;
    const [x, y] = this.toImage(event.clientX, event.clientY);
    const [dx, dy] = [x - held.point[0], y - held.point[1]];
    if (held.kind === "pan") {
      this.pan(event.clientX - held.last[0], event.clientY - held.last[1]);
      held.last = [event.clientX, event.clientY];
    } else if (held.kind === "draw") {
      held.shape = drawnBox(held.point, [x, y], this.size);
    } else if (held.kind === "move") {
      held.shape = movedBox(held.box, dx, dy, this.size);
    } else {
      // The grip, not the pointer, decides: who takes hold beside an edge does not shift it.
      const [gx, gy] = this.handle(held.edges, held.box);
      held.shape = resizedBox(held.box, held.edges, gx + dx, gy + dy, this.size);
    }
    this.render();
  }

  release(event) {
    const held = this.gesture;
    this.gesture = null;
    if (!held || held.kind === "pan") return;
    if (!held.moved) return this.click(held);
    if (!held.shape) return this.render();
    const at = this.selected;
    if (held.kind === "draw" && !this.redrawing) return this.add(held.shape);
    this.redrawing = false;
    this.edit(() => {
      this.boxes[at].box = held.shape;
      this.boxes[at].taken = true;
    });
  }

  // Selects the smallest box under the pointer; again, the next larger one.
  click({ point: [x, y] }) {
    if (this.redrawing) return;
    const under = [...this.boxes.keys()]
      .filter((k) => holds(this.boxes[k].box, x, y))
      .sort((a, b) => area(this.boxes[a].box) - area(this.boxes[b].box));
    const next = under[(under.indexOf(this.selected) + 1) % under.length];
    this.select(under.length ? next : -1);
  }

  cancel() {
    this.gesture = null;
    this.redrawing = false;
    this.render();
  }

  // --- what is seen ---

  render() {
    const { scale, x, y } = this.view;
    if (this.size) {
      const style = this.picture.style;
      style.width = `${this.size[0] * scale}px`;
      style.height = `${this.size[1] * scale}px`;
      style.transform = `translate(${x}px, ${y}px)`;
      this.picture.classList.toggle("pixels", scale >= 3);
    }
    this.stage.classList.toggle("redrawing", this.redrawing);
    this.stage.classList.toggle("readonly", this.readonly);
    const held = this.gesture;
    const shapes = [];
    for (const each of this.theirs) shapes.push(...this.outline(each, "theirs", each.box));
    this.boxes.forEach((each, k) => {
      const chosen = k === this.selected;
      const moving = chosen && held?.shape && (held.kind !== "draw" || this.redrawing);
      const box = moving ? held.shape : each.box;
      const kinds = [each.taken ? "taken" : "offered", `hue-${this.hue(each.class_name)}`];
      if (chosen) kinds.push("selected");
      if (each.suspicious) kinds.push("suspicious");
      shapes.push(...this.outline(each, kinds.join(" "), box));
    });
    if (held?.kind === "draw" && held.shape && !this.redrawing) {
      shapes.push(this.rect(held.shape, `taken selected hue-${this.hue(this.pen)}`));
    }
    if (this.selected >= 0 && !held) {
      const box = this.onStage(this.boxes[this.selected].box);
      for (const edges of HANDLES) shapes.push(this.knob(edges, box));
    }
    this.svg.replaceChildren(...shapes);
  }

  outline(each, kinds, box) {
    const chance = each.probability == null ? "" : ` ${each.probability.toFixed(2)}`;
    const mark = each.suspicious ? " ?" : "";
    const [x0, y0, , y1] = this.onStage(box);
    const text = document.createElementNS(SVG, "text");
    const above = y0 > 16;
    const inside = !above && y1 - y0 > 40;
    text.setAttribute("x", Math.max(2, x0));
    text.setAttribute("y", above ? y0 - 5 : inside ? Math.max(0, y0) + 14 : y1 + 14);
    text.setAttribute("class", kinds);
    text.textContent = `${each.class_name}${chance}${mark}`;
    return [this.rect(box, `halo ${kinds}`), this.rect(box, kinds), text];
  }

  rect(box, kinds) {
    const [x0, y0, x1, y1] = this.onStage(box);
    return svgRect({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kinds });
  }

  knob(edges, box) {
    const [x, y] = this.handle(edges, box);
    return svgRect({ x: x - 4, y: y - 4, width: 8, height: 8, class: `knob ${edges}` });
  }
}

export function svgRect(values) {
  const rect = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
  return rect;
}

export const sameBoxes = (some, others) => {
  const left = [...others];
  return (
    some.length === others.length &&
    some.every((one) => {
      const at = left.findIndex((o) => o.class_name === one.class_name && equal(o.box, one.box));
      if (at >= 0) left.splice(at, 1);
      return at >= 0;
    })
  );
};
