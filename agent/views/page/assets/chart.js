// The progress chart: the row under the pointer, the slider, and a part of the session drawn larger.

const LABELS = { wide: [24, 44], narrow: [8, 20] }; // most labels of kept experiments, and their most characters

function beginChart(session) {
  const frame = session.article.querySelector("figure.chart[data-key]");
  const chart = { frame, tip: frame.querySelector(".tip"), slider: frame.querySelector(".scrub input"), range: null };
  chart.drawings = [...frame.querySelectorAll("svg")].map((svg) => ({ svg, whole: svg.querySelector(".plot"), points: null }));
  for (const title of frame.querySelectorAll(".pt > title")) title.remove(); // the browser's tooltip would cover ours
  session.chart = chart;
  for (const drawing of chart.drawings) listen(session, drawing);
  const slide = () => {
    const drawing = shownDrawing(chart), found = points(drawing).find((each) => each.number === Number(chart.slider.value));
    if (found) showTip(session, drawing, found);
  };
  chart.slider.addEventListener("input", slide);
  chart.slider.addEventListener("focus", slide);
  chart.slider.addEventListener("blur", () => hideTip(chart));
  chart.slider.addEventListener("keydown", (event) => {
    if (event.key === "Enter") openPanel(session, Number(chart.slider.value), chart.slider);
  });
  const form = frame.querySelector(".zoom");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const ends = [".from", ".to"].map((name) => Number(form.querySelector(name).value)).sort((a, b) => a - b);
    zoom(session, ends[0], ends[1]);
  });
  form.querySelector(".whole").addEventListener("click", () => unzoom(session));
  whenResized(frame, () => ring(session));
}

const shownDrawing = (chart) => chart.drawings.find((each) => each.svg.getBoundingClientRect().width > 0);

function points(drawing) {
  if (!drawing.points) {
    const layer = drawing.svg.querySelector(".part") ?? drawing.whole;
    drawing.points = [...layer.querySelectorAll(".pt")].map((point) => {
      const box = point.getBBox();
      return { point, number: Number(point.dataset.n), x: box.x + box.width / 2, y: box.y + box.height / 2 };
    });
  }
  return drawing.points;
}

function listen(session, drawing) {
  const { svg } = drawing, { chart } = session;
  const at = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  let from = null, dragged = false;
  svg.addEventListener("pointerdown", (event) => {
    dragged = false;
    const [x, y] = at(event);
    if (event.pointerType === "mouse" && event.button === 0) from = x;
    const found = nearest(points(drawing), x, y);
    if (found) showTip(session, drawing, found);
  });
  svg.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (from !== null && Math.abs(x - from) > 6) {
      if (!dragged) svg.setPointerCapture(event.pointerId);
      dragged = true;
      hideTip(chart);
      brush(drawing, from, x);
      return;
    }
    const found = nearest(points(drawing), x, y);
    if (found && from === null) showTip(session, drawing, found);
  });
  const end = (event) => {
    const [x] = at(event), began = from;
    from = null;
    svg.querySelector(".brush")?.remove();
    if (!dragged || event.type === "pointercancel") return;
    const inside = points(drawing).filter((each) => each.x >= Math.min(began, x) && each.x <= Math.max(began, x));
    const numbers = inside.map((each) => each.number);
    if (numbers.length) zoom(session, Math.min(...numbers), Math.max(...numbers));
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip(chart));
  svg.addEventListener("click", (event) => {
    if (dragged) return;
    const found = nearest(points(drawing), ...at(event), GAP);
    if (found) openPanel(session, found.number, chart.slider);
  });
  svg.addEventListener("dblclick", () => unzoom(session));
}

function brush(drawing, from, to) {
  const box = boxOf(drawing);
  const [left, right] = [from, to].map((x) => Math.min(Math.max(x, box.left), box.right)).sort((a, b) => a - b);
  const rect = drawing.svg.querySelector(".brush") ?? drawing.svg.appendChild(shape("rect", { class: "brush" }));
  add(rect, { x: left, y: box.top, width: right - left, height: box.bottom + box.lane - box.top }, []);
}

function showTip(session, drawing, found) {
  const { frame, tip, slider } = session.chart, told = session.told(found.number);
  const line = (name, text) => tip.append(element("span", { class: name }, text));
  tip.replaceChildren();
  line(`verdict ${told.verdict.split(",")[0]}`, `#${found.number} ${told.verdict}`);
  line("value", told.value === "-" ? "" : `${told.value}${told.gain === "-" ? "" : `  (${told.gain})`}`);
  line("what", told.what);
  if (told.reason) line("note", told.reason);
  line("note", `${told.took} by ${told.by}, ${told.commit}`);
  for (const each of frame.querySelectorAll(".pt.at")) each.classList.remove("at");
  found.point.classList.add("at");
  slider.value = found.number;
  slider.setAttribute("aria-valuetext", `#${found.number} ${told.verdict} ${told.value}: ${told.what}`);
  tip.hidden = false;
  const around = frame.getBoundingClientRect(), box = drawing.svg.getBoundingClientRect();
  const scale = box.width / drawing.svg.viewBox.baseVal.width;
  const x = box.left - around.left + found.x * scale, y = box.top - around.top + found.y * scale;
  const room = around.width - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(room, x + 14 + tip.offsetWidth > around.width ? x - 14 - tip.offsetWidth : x + 14))}px`;
  tip.style.top = `${y - tip.offsetHeight - 12 > 0 ? y - tip.offsetHeight - 12 : y + 14}px`;
}

function hideTip(chart) {
  chart.tip.hidden = true;
  for (const each of chart.frame.querySelectorAll(".pt.at")) each.classList.remove("at");
}

function boxOf(drawing) {
  const [left, top, right, bottom] = drawing.whole.dataset.box.split(" ").map(Number);
  return { left, top, right, bottom, size: Number(drawing.whole.dataset.size), lane: Number(drawing.whole.dataset.lane) };
}

// Draw only the experiments `from` to `to`, with the range of values that is interesting there.
function zoom(session, from, to) {
  const rows = session.data.rows, last = rows[rows.length - 1].n;
  if (from === to) [from, to] = [Math.max(0, from - 1), Math.min(last, to + 1)];
  if (from <= 0 && to >= last) return unzoom(session);
  hideTip(session.chart);
  session.chart.range = [from, to];
  for (const drawing of session.chart.drawings) drawPart(session, drawing, from, to);
  showRange(session, from, to);
}

function unzoom(session) {
  const rows = session.data.rows;
  hideTip(session.chart);
  session.chart.range = null;
  for (const drawing of session.chart.drawings) {
    drawing.svg.querySelector(".part")?.remove();
    drawing.whole.removeAttribute("display");
    drawing.points = null;
  }
  showRange(session, 0, rows[rows.length - 1].n);
}

function showRange(session, from, to) {
  const form = session.article.querySelector(".zoom"), { slider } = session.chart;
  form.querySelector(".from").value = from;
  form.querySelector(".to").value = to;
  form.querySelector(".whole").disabled = session.chart.range === null;
  [slider.min, slider.max] = [from, to];
  // The legend and the caption count for the whole session.
  const outside = session.chart.drawings[0].svg.querySelectorAll(".part .far").length;
  const far = outside === 1 ? " A triangle marks one value out of this range." : ` Triangles mark ${outside} values out of this range.`;
  form.querySelector(".range").textContent = session.chart.range ? `Drawn: #${from} to #${to}.${outside ? far : ""}` : "";
  session.chart.frame.classList.toggle("zoomed", session.chart.range !== null);
  dim(session);
  ring(session);
}

function drawPart(session, drawing, from, to) {
  const box = boxOf(drawing), { rows, noise, down } = session.data;
  const inside = rows.slice(from, to + 1), kept = rows.filter((row) => row.s === "keep" && row.m !== null && row.n <= to);
  const before = kept.filter((row) => row.n < from).pop();
  const best = [...(before ? [before] : []), ...kept.filter((row) => row.n >= from)];
  const values = inside.map((row) => row.v).filter((value) => value !== null);
  // The middle of the values counts like a best one: most points of a late part are worse, but near.
  const known = [...best.map((row) => row.m), ...[...values].sort((a, b) => a - b).slice(values.length / 2, values.length / 2 + 1)];
  const [low, high] = known.length ? interesting(known, values.length ? values : known, noise ?? 0, down) : [0, 1];
  const y = axis(low, high, box.bottom, box.top), x = axis(from, to, box.left + 10, box.right - 8);
  const lane = box.bottom + box.lane / 2, floor = box.bottom + box.lane;
  const steps = best.map((row, index) => ({
    start: x.held(row.n), end: index + 1 < best.length ? x(best[index + 1].n) : box.right, level: y.held(row.m), row,
  }));
  if (steps.length && before) steps[0].start = box.left;
  const parts = grid(y, low, high, box);
  if (box.lane) parts.push(letters(box.left - 8, lane + 4, laneOf(rows), "tick", "end"));
  parts.push(shape("path", { class: "axis", d: `M${box.left} ${floor}H${box.right}` }));
  for (const value of ticks(from, to, box.right > 600 ? 10 : 5).filter(Number.isInteger))
    parts.push(letters(x(value), floor + box.size + 4, String(value), "tick", "middle"));
  parts.push(letters((box.left + box.right) / 2, floor + 2.6 * (box.size - 1), "experiment", "tick", "middle"));
  if (noise) parts.push(shape("path", { class: "band", "fill-opacity": 0.12, d: steps.map(({ start, end, row }) => {
    const [top, bottom] = [y.held(row.m - noise), y.held(row.m + noise)].sort((a, b) => a - b);
    return `M${start} ${top}H${end}V${bottom}H${start}z`;
  }).join("") }));
  const dots = inside.map((row) => point(row, x(row.n), y, lane));
  parts.push(...dots.filter((_, index) => inside[index].s !== "keep"));
  if (steps.length) parts.push(shape("path", { class: "steps", fill: "none", "stroke-width": 2,
    d: `M${steps[0].start} ${steps[0].level}` + steps.map(({ end, level }) => `V${level}H${end}`).join("") }));
  parts.push(...partLabels(session, steps.filter(({ row }) => row.n >= from), box));
  parts.push(...dots.filter((_, index) => inside[index].s === "keep"));
  drawing.svg.querySelector(".part")?.remove();
  drawing.whole.setAttribute("display", "none");
  drawing.svg.append(shape("g", { class: "part", "font-size": box.size - 1 }, ...parts));
  drawing.points = null;
}

// Labels of kept experiments, the latest first, beside their points where no other label is.
function partLabels(session, steps, box) {
  const [most, longest] = box.right > 600 ? LABELS.wide : LABELS.narrow, taken = [], found = [];
  for (const { row, start, level } of [...steps].reverse().slice(0, most)) {
    const told = `#${row.n} ${session.told(row.n).what}`;
    const text = told.length > longest ? `${told.slice(0, longest - 1).trimEnd()}…` : told;
    const long = 0.56 * (box.size - 1) * text.length;
    for (const [anchor, up] of [["end", 0], ["start", -9], ["start", 14], ["end", 14]]) {
      const left = anchor === "end" ? start - 9 - long : start + 9;
      const at = { left, right: left + long, top: level + up - 6, bottom: level + up + 7 };
      const fits = at.left >= box.left && at.right <= box.right && at.top >= box.top && at.bottom <= box.bottom;
      const meets = taken.some((each) => at.left < each.right && each.left < at.right && at.top < each.bottom && each.top < at.bottom);
      if (!fits || meets) continue;
      taken.push(at);
      const label = letters(anchor === "end" ? start - 9 : start + 9, level + up + 4, text, "label", anchor);
      found.push(add(label, { "stroke-width": 3, "paint-order": "stroke", "stroke-linejoin": "round" }, []));
      break;
    }
  }
  return found;
}

// Put a ring around the chosen experiment's point.
function ring(session) {
  for (const drawing of session.chart.drawings) {
    drawing.svg.querySelector(".ring")?.remove();
    if (drawing.svg.getBoundingClientRect().width === 0) continue;
    const found = points(drawing).find((each) => each.number === session.chosen);
    if (found) drawing.svg.append(shape("circle", { class: "ring", cx: found.x, cy: found.y, r: 9, fill: "none" }));
  }
}

// Fade the points of the rows that the filter leaves out.
function dim(session) {
  for (const each of session.chart.frame.querySelectorAll(".pt"))
    each.classList.toggle("out", session.shown !== null && !session.shown.has(Number(each.dataset.n)));
}
