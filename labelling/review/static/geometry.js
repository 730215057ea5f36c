// Boxes are [xmin, ymin, xmax, ymax] in pixels of the image. What a person drags lands on whole
// pixels; an edge that nobody touched keeps its value to the last digit.

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function drawnBox([ax, ay], [bx, by], [width, height]) {
  const x = [ax, bx].map((v) => clamp(Math.round(v), 0, width)).sort((a, b) => a - b);
  const y = [ay, by].map((v) => clamp(Math.round(v), 0, height)).sort((a, b) => a - b);
  return x[1] > x[0] && y[1] > y[0] ? [x[0], y[0], x[1], y[1]] : null;
}

// Moves by whole pixels; at the frame it stops short, by a part of a pixel if need be.
export function movedBox([x0, y0, x1, y1], dx, dy, [width, height]) {
  const x = clamp(Math.round(dx), -x0, width - x1);
  const y = clamp(Math.round(dy), -y0, height - y1);
  return [
    x === -x0 ? 0 : x0 + x,
    y === -y0 ? 0 : y0 + y,
    x === width - x1 ? width : x1 + x,
    y === height - y1 ? height : y1 + y,
  ];
}

// `edges` holds any of n, e, s, w; (x, y) is where they go. One pixel is left at least.
export function resizedBox(box, edges, x, y, [width, height]) {
  let [x0, y0, x1, y1] = box;
  if (edges.includes("w")) x0 = clamp(Math.round(x), 0, Math.max(0, x1 - 1));
  if (edges.includes("e")) x1 = clamp(Math.round(x), Math.min(width, x0 + 1), width);
  if (edges.includes("n")) y0 = clamp(Math.round(y), 0, Math.max(0, y1 - 1));
  if (edges.includes("s")) y1 = clamp(Math.round(y), Math.min(height, y0 + 1), height);
  return [x0, y0, x1, y1];
}

export const holds = ([x0, y0, x1, y1], x, y) => x >= x0 && x <= x1 && y >= y0 && y <= y1;

export const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

export const equal = (a, b) => a.every((value, k) => value === b[k]);
