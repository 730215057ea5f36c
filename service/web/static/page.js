// Sends images to the server one after the other, two at a time, and shows the answers.

const AT_ONCE = 2;
const SHOWN = 60;
const TRIES = 20;
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
const waiting = [];
const counts = new Map();
let key = "";
let wantsKey = false;
let working = 0;
let sent = 0;
let answered = 0;

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text) {
  at("status").textContent = text;
}

function headers() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

async function asked(file) {
  for (let tries = 0; tries < TRIES; tries += 1) {
    const response = await fetch("/v1/classify", { method: "POST", body: file, headers: headers() });
    if (response.status !== 503 && response.status !== 429) return [response.status, await response.json()];
    await pause(Number(response.headers.get("retry-after")) || 1);
  }
  return [503, { error: "the server had too much to do; try again later" }];
}

function work() {
  while (waiting.length && working < AT_ONCE && !wantsKey) {
    working += 1;
    const file = waiting.shift();
    asked(file)
      .then(([status, answer]) => take(file, status, answer))
      .catch(() => take(file, 0, { error: "the server cannot be reached" }))
      .finally(() => {
        working -= 1;
        work();
      });
  }
}

function take(file, status, answer) {
  if (status === 401) {
    waiting.unshift(file);
    askForKey();
    return;
  }
  answered += 1;
  show(file, answer);
  const name = answer.class ?? "(no answer)";
  const count = counts.get(name) ?? { images: 0, review: 0 };
  counts.set(name, count);
  count.images += 1;
  count.review += answer.decision === "auto" ? 0 : 1;
  showCounts();
  say(`${answered} of ${sent} answered`);
}

function askForKey() {
  if (wantsKey) return;
  wantsKey = true;
  at("key-form").hidden = false;
  at("key").focus();
  say("This server wants a key.");
}

function add(files) {
  sent += files.length;
  waiting.push(...files);
  say(`${answered} of ${sent} answered`);
  work();
}

function show(file, answer) {
  const card = element("li");
  card.dataset.name = file.name;
  card.append(shot(file, answer), facts(file, answer));
  at("results").prepend(card);
  while (at("results").children.length > SHOWN) at("results").lastElementChild.remove();
}

function shot(file, answer) {
  const frame = element("div", "", "shot");
  const image = new Image();
  const address = URL.createObjectURL(file);
  image.alt = "";
  image.onload = () => {
    frame.append(image);
    const corners = answer.vector?.slice(0, 4);
    if (corners && corners[0] !== null) frame.append(box(image, corners));
    URL.revokeObjectURL(address);
  };
  image.onerror = () => {
    frame.textContent = "no preview of this kind of file";
    URL.revokeObjectURL(address);
  };
  image.src = address;
  return frame;
}

function box(image, [xmin, ymin, xmax, ymax]) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  const rectangle = document.createElementNS(SVG, "rect");
  const sides = { x: xmin, y: ymin, width: xmax - xmin, height: ymax - ymin };
  for (const [name, value] of Object.entries(sides)) rectangle.setAttribute(name, value);
  drawing.append(rectangle);
  return drawing;
}

function facts(file, answer) {
  const part = element("div", "", "facts");
  if (!answer.vector) {
    part.append(element("p", answer.error ?? "no answer", "error"), element("p", file.name, "quiet"));
    return part;
  }
  const [xmin, ymin, xmax, ymax] = answer.vector;
  const where = xmin === null ? "no box" : `box ${xmin}, ${ymin} to ${xmax}, ${ymax}`;
  const decision = answer.reason ? `${answer.decision}: ${answer.reason}` : answer.decision;
  part.append(
    element("p", answer.class, "class"),
    element("p", `${(answer.confidence * 100).toFixed(1)} %`),
    element("p", decision, answer.decision),
    element("p", where, "quiet"),
    element("p", `${file.name}, ${answer.latency_ms.total} ms`, "quiet"),
  );
  return part;
}

function showCounts() {
  const rows = [...counts].sort(([, one], [, other]) => other.images - one.images);
  at("counts").replaceChildren(
    ...rows.map(([name, count]) => {
      const row = element("tr");
      row.append(element("td", name), element("td", count.images), element("td", count.review));
      return row;
    }),
  );
}

async function showModel() {
  const response = await fetch("/v1/model", { headers: headers() }).catch(() => null);
  if (response?.status === 401) {
    askForKey();
    return false;
  }
  const model = response?.ok ? await response.json() : null;
  at("model").textContent = model ? `${model.model} on ${model.engine}` : "";
  return true;
}

at("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = "";
});
at("clear").addEventListener("click", () => {
  at("results").replaceChildren();
  counts.clear();
  showCounts();
});
at("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  wantsKey = false;
  if (!(await showModel())) {
    say("This key is not known.");
    return;
  }
  at("key-form").hidden = true;
  at("files").focus();
  say("");
  work();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") add([...event.dataTransfer.files]);
  });
}
showModel();
