"use strict";
// Elements, figures and axes that all parts of the page use. What runs and models wrote becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const GAP = 24; // pixels between a click and the nearest point, at most

function add(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const element = (name, attributes = {}, ...children) => add(document.createElement(name), attributes, children);
const shape = (name, attributes = {}, ...children) => add(document.createElementNS(SVG, name), attributes, children);

function button(text, act, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

// The same figures as in the tables: 1.294512, 176,890,964.
function figure(value, like = value) {
  const size = Math.abs(like) || Math.abs(value);
  if (size > 0 && size < 1e-3)
    return setting(Number(value.toFixed(Math.min(100, 5 - Math.floor(Math.log10(size)))))).replaceAll("-", "−");
  const digits = size < 100 ? 6 : Math.max(0, 6 - Math.trunc(Math.log10(size)));
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

const signed = (value, like) => `${value > 0 ? "+" : ""}${figure(value, like)}`;

function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), two = (n) => String(n).padStart(2, "0");
  if (minutes === 0) return `${whole}s`;
  return minutes < 60 ? `${minutes}m${two(whole % 60)}s` : `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
}

// A setting as a person would type it: 0.04, 16384, SSSL.
const setting = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value ?? "-"));

// A value on a linear or logarithmic axis, as pixels.
function axis(low, high, first, last, log = false) {
  const of = log ? Math.log : (value) => value;
  const span = of(high) - of(low) || 1;
  const place = (value) => first + ((of(value) - of(low)) / span) * (last - first);
  place.holds = (value) => value >= low && value <= high;
  place.held = (value) => place(Math.min(Math.max(value, low), high));
  return place;
}

function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? rough;
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high && found.length < 50; index++) found.push(index * step);
  return found;
}

// 1, 2 and 5 times each power of ten; fewer if they are many.
function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const each of [1, 2, 5]) found.push(each * 10 ** power);
  const inside = found.filter((each) => each >= low && each <= high);
  return inside.length > 9 ? inside.filter((each) => String(each.toExponential())[0] === "1") : inside;
}

function tickTexts(values) {
  const largest = Math.max(...values.map(Math.abs), 0);
  const [unit, letter] = largest >= 1e6 ? [1e6, " M"] : largest >= 1e5 ? [1e3, " k"] : [1, ""];
  const step = values.length > 1 ? (values[1] - values[0]) / unit : 1;
  if (largest > 0 && largest < 1e-4) {
    const shown = 1 + Math.floor(Math.log10(largest)) - Math.floor(Math.log10(Math.min(step, largest)) + 1e-9);
    return values.map((value) => setting(Number(value.toPrecision(Math.max(1, shown)))).replace("-", "−"));
  }
  const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return values.map((value) => (value / unit).toLocaleString("en-US", options).replace("-", "−") + (value ? letter : ""));
}

function letters(x, y, text, name = "tick", anchor = "start") {
  return shape("text", { class: name, x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, text);
}

// Horizontal lines with their values, and the line below.
function grid(y, low, high, box, count = 6) {
  const values = ticks(low, high, count), texts = tickTexts(values);
  return values.flatMap((value, index) => [
    shape("path", { class: "grid", d: `M${box.left} ${y(value).toFixed(1)}H${box.right}` }),
    letters(box.left - 8, y(value) + 4, texts[index], "tick", "end"),
  ]);
}

// The range to draw: the running best and what is near it. A value far off must not flatten the rest.
function interesting(best, values, noise, down) {
  const span = Math.max(...best) - Math.min(...best);
  let reach = Math.max(span, 6 * noise);
  if (span === 0) {
    const sorted = [...values].sort((a, b) => a - b), at = (part) => sorted[Math.round(part * (sorted.length - 1))];
    reach = Math.max(reach, 2 * (at(0.75) - at(0.25)), 1.5 * Math.abs(at(0.5) - best[0]));
  }
  reach = reach || 1e-3 * Math.abs(best[0]) || 1;
  const [above, below] = down ? [0.6, 0.2] : [0.2, 0.6];
  const low = Math.min(...best) - below * reach, high = Math.max(...best) + above * reach;
  const near = [...values, ...best].filter((value) => value >= low && value <= high);
  const edge = Math.max(0.04 * reach, 1.5 * noise);
  return [Math.max(low, Math.min(...near) - edge), Math.min(high, Math.max(...near) + edge)];
}

// The marks of markers.py, in the same shapes and classes.
function mark(kind, x, y) {
  switch (kind) {
    case "baseline": return shape("path", { d: `M${x - 4.5} ${y - 4.5}h9v9h-9z` });
    case "kept": return shape("circle", { cx: x, cy: y, r: 4.8 });
    case "provisional": return shape("circle", { cx: x, cy: y, r: 4, "stroke-width": 2 });
    case "pruned": return shape("path", { d: `M${x - 3} ${y}h6`, "stroke-width": 2 });
    case "crash": return shape("path", { d: `M${x - 2.5} ${y - 2.5}l5 5m0 -5l-5 5`, "stroke-width": 1.3, fill: "none" });
    default: return shape("circle", { cx: x, cy: y, r: 2.6 });
  }
}

// The words beside the lane of the experiments without a value.
const laneOf = (rows) => (rows.some((row) => row.k === "unmeasured") ? "no metric" : "crashed");

// A point of an experiment: its mark, a triangle if its value is out of range, or its mark in the lane without one.
function point(row, x, y, lane) {
  const lost = row.v === null;
  const level = lost ? lane : y.held(row.v);
  let drawn = mark(row.k, x, level);
  if (!lost && !y.holds(row.v)) {
    const inwards = level < lane / 2 ? 1 : -1;
    drawn = shape("path", { class: "far", d: `M${x} ${level + inwards}l4.5 ${inwards * 8}h-9z` });
  }
  return shape("g", { class: `pt ${row.k}`, "data-n": row.n }, drawn);
}

function nearest(points, x, y, most = Infinity) {
  let found = null, least = most ** 2;
  for (const each of points) {
    const distance = (each.x - x) ** 2 + (each.y - y) ** 2;
    if (distance <= least) [found, least] = [each, distance];
  }
  return found;
}
