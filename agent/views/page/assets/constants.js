// The values of a constant against the metric, a point for each experiment.

function beginConstants(session) {
  const section = session.article.querySelector(".about-constants");
  if (!section) return;
  const figure = section.querySelector(".scatter"), select = figure.querySelector("select");
  session.scatter = { drawing: figure.querySelector(".drawing"), caption: figure.querySelector("figcaption"), select, points: [] };
  const names = [...section.querySelectorAll("table.constants th[scope=row]")];
  names.forEach((cell, index) => {
    select.append(element("option", { value: index }, cell.textContent));
    const choice = button("", () => {
      select.value = index;
      drawScatter(session);
      figure.scrollIntoView({ block: "nearest" });
    }, { class: "link" });
    choice.append(...cell.childNodes);
    cell.append(choice);
  });
  select.addEventListener("change", () => drawScatter(session));
  whenSeen(figure, () => drawScatter(session));
  whenResized(session.scatter.drawing, () => redrawScatter(session));
}

function redrawScatter(session) {
  if (session.scatter && session.scatter.drawing.firstChild) drawScatter(session);
}

function scatterAxis(constant, values, first, last) {
  if (constant.choices) {
    // Earlier versions of a recipe may have had other choices.
    const choices = [...new Set([...constant.choices, ...values])].filter((choice) => values.includes(choice));
    const place = (value) => first + ((choices.indexOf(value) + 0.5) / choices.length) * (last - first);
    return [place, choices.map((choice) => [place(choice), setting(choice)])];
  }
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const log = constant.log && low > 0;
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
  const place = axis(low, high, first + 12, last - 12, log);
  const found = log ? logTicks(low, high) : ticks(low, high, (last - first) / 90);
  const at = found.length > 1 ? found : [low, high];
  return [place, at.map((value) => [place(value), setting(value)])];
}

function drawScatter(session) {
  const { drawing, caption, select } = session.scatter, { constants, rows, metric, down, noise } = session.data;
  const index = Number(select.value), constant = constants[index];
  const width = Math.max(260, drawing.clientWidth), height = 320;
  const box = { left: 66, top: 12, right: width - 12, bottom: height - 64 }, lane = box.bottom + 12;
  const known = rows.filter((row) => (constant.choices ? row.p[index] !== null : typeof row.p[index] === "number"));
  const [x, marks] = scatterAxis(constant, known.map((row) => row.p[index]), box.left, box.right);
  const best = rows.filter((row) => row.s === "keep" && row.m !== null).map((row) => row.m);
  const values = known.map((row) => row.v).filter((value) => value !== null);
  // The baseline may be far off, as in the chart above.
  const core = best.length > 3 ? best.slice(1) : best.length ? best : values;
  const [low, high] = values.length ? interesting(core.length ? core : values, values, noise ?? 0, down) : [0, 1];
  const y = axis(low, high, box.bottom, box.top), floor = box.bottom + 24;
  const parts = [...grid(y, low, high, box, 5), shape("path", { class: "axis", d: `M${box.left} ${floor}H${box.right}` })];
  if (known.some((row) => row.v === null)) parts.push(letters(box.left - 8, lane + 4, laneOf(known), "tick", "end"));
  for (const [at, text] of marks) parts.push(letters(at, floor + 16, text, "tick", "middle"));
  parts.push(letters((box.left + box.right) / 2, height - 6, constant.name, "tick", "middle"));
  const ordered = [...known].sort((a, b) => (a.s === "keep") - (b.s === "keep")); // kept ones on top
  session.scatter.points = ordered.map((row) => ({ number: row.n, x: x(row.p[index]), y: row.v === null ? lane : y.held(row.v) }));
  parts.push(...ordered.map((row) => point(row, x(row.p[index]), y, lane)));
  const chosen = session.scatter.points.find((each) => each.number === session.chosen);
  if (chosen) parts.push(shape("circle", { class: "ring", cx: chosen.x, cy: chosen.y, r: 9, fill: "none" }));
  const kept = known.filter((row) => row.s === "keep" && row.n > 0).length;
  const label = `${metric} against ${constant.name}: ${known.length} experiments, ${kept} of them kept.`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, "font-size": 12 }, ...parts);
  svg.addEventListener("click", (event) => {
    const around = svg.getBoundingClientRect(), scale = width / around.width;
    const found = nearest(session.scatter.points, (event.clientX - around.left) * scale, (event.clientY - around.top) * scale, GAP);
    if (found) openPanel(session, found.number, select);
  });
  drawing.replaceChildren(svg);
  const share = constant.share === null ? "There are too few experiments to tell its importance."
    : `Its importance is ${constant.share.toFixed(2)} (${constant.low.toFixed(2)} to ${constant.high.toFixed(2)}).`;
  caption.textContent = `${label} Green: the baseline and what was kept. ${share}`;
}
