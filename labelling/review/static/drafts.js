// What was drawn and not yet recorded, kept by the browser until the ledger has it.

export class Drafts {
  constructor(workspace) {
    this.prefix = `wafer:${workspace}:`;
  }

  key(task) {
    return `${this.prefix}${task.pile}:${task.image}`;
  }

  // `revision` is that of the image which the person began with.
  keep(task, boxes, revision) {
    try {
      localStorage.setItem(this.key(task), JSON.stringify({ revision, boxes }));
      return true;
    } catch {
      return false; // the browser's store is full or off
    }
  }

  of(task) {
    try {
      return JSON.parse(localStorage.getItem(this.key(task)));
    } catch {
      return null;
    }
  }

  drop(task) {
    localStorage.removeItem(this.key(task));
  }
}

// Boxes that were made from another state of the image, with their origins in this one. A box
// whose origin is gone is one drawn anew.
export function rebased(boxes, task) {
  const free = [...task.boxes];
  const mine = boxes.map((each) => {
    const at = free.findIndex(
      (other) =>
        each.was &&
        other.class_name === each.was.class_name &&
        other.box.every((value, k) => value === each.was.box[k]),
    );
    const origin = at < 0 ? {} : free.splice(at, 1)[0];
    return {
      ...each,
      was: at < 0 ? null : each.was,
      entry: origin.entry ?? null,
      candidate: origin.candidate ?? null,
    };
  });
  return mine.filter((each) => each.taken || each.was);
}
