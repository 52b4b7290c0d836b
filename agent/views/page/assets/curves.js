// Learning curves over one another: the training loss of chosen experiments.

const LINES = 6; // kinds of lines, by color and dashes, as in the chart that compares sessions
const FEW = 6; // kept experiments drawn at first

function beginCurves(session) {
  const section = session.article.querySelector(".about-curves"), form = section.querySelector("form");
  session.curves = { section, drawing: section.querySelector(".drawing"), caption: section.querySelector("figcaption"), numbers: [] };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    addCurve(session, Number(form.querySelector(".which").value));
  });
  form.querySelector(".kept-ones").addEventListener("click", () => drawCurves(session, keptCurves(session)));
  form.querySelector(".none").addEventListener("click", () => drawCurves(session, []));
  form.querySelector(".by").addEventListener("change", () => drawCurves(session, session.curves.numbers));
  whenResized(session.curves.drawing, () => session.curves.section.hidden || drawCurves(session, session.curves.numbers));
  whenSeen(session.article.querySelector("[id$=-diff]"), () => showCurves(session));
}

function showCurves(session) {
  const { curves, data } = session;
  if (!curves.section.hidden || !data.rows.some((row) => row.c)) return;
  curves.section.hidden = false;
  for (const option of curves.section.querySelectorAll("option"))
    option.disabled = option.value !== "x" && !data.rows.some((row) => row.c && row.c[option.value] !== null);
  curves.section.querySelector(".by").value = [...curves.section.querySelectorAll("option")].find((each) => !each.disabled).value;
  drawCurves(session, keptCurves(session));
}

// The baseline and the latest kept experiments.
function keptCurves(session) {
  const kept = session.data.rows.filter((row) => row.s === "keep" && row.c).map((row) => row.n);
  return kept.length <= FEW ? kept : [kept[0], ...kept.slice(1 - FEW)];
}

function addCurve(session, number) {
  showCurves(session);
  const { numbers, caption } = session.curves;
  if (!session.data.rows[number]?.c) caption.textContent = `#${number} has no learning curve: its log is missing or prints no loss.`;
  else if (!numbers.includes(number)) drawCurves(session, [...numbers, number]);
}

// The places of a curve's points along the axis; null if its log does not print them.
function along(curve, by) {
  if (by === "steps") return curve.steps;
  if (by === "seconds") return curve.seconds === null ? null : curve.x.map((part) => (part / 1000) * curve.seconds);
  return curve.x.map((part) => part / 10);
}

function drawCurves(session, numbers) {
  const { curves, data } = session, by = curves.section.querySelector(".by").value;
  curves.numbers = numbers;
  chips(session);
  const drawn = numbers.map((number) => ({ number, y: data.rows[number].c.y, x: along(data.rows[number].c, by) })).filter((each) => each.x);
  const width = Math.max(260, curves.drawing.clientWidth), height = 360;
  const box = { left: 66, top: 12, right: width - 52, bottom: height - 46 };
  const ends = drawn.map((each) => each.x[each.x.length - 1]), longest = Math.max(...ends, 1);
  // The first tenth of the training would flatten the rest: its losses go beyond the top.
  const settled = drawn.flatMap((each) => each.y.filter((_, index) => each.x[index] >= 0.1 * longest || index === each.y.length - 1));
  const low = Math.min(...settled), high = Math.max(...settled), edge = 0.04 * (high - low) || 0.01;
  const [bottom, top] = drawn.length ? [low - edge, high + edge] : [0, 1];
  const y = axis(bottom, top, box.bottom, box.top), x = axis(0, longest, box.left, box.right);
  const clip = `clip-${session.key}`;
  const parts = [shape("clipPath", { id: clip }, shape("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }))];
  parts.push(...grid(y, bottom, top, box, 6), shape("path", { class: "axis", d: `M${box.left} ${box.bottom}H${box.right}` }));
  for (const value of ticks(0, longest, width / 110)) parts.push(letters(x(value), box.bottom + 16, setting(value), "tick", "middle"));
  const words = { steps: "step", seconds: "seconds of training", x: "% of the training" }[by];
  parts.push(letters((box.left + box.right) / 2, height - 6, words, "tick", "middle"));
  const taken = [];
  for (const each of drawn) {
    const name = `line-${numbers.indexOf(each.number) % LINES}`;
    const path = each.y.map((loss, index) => `${index ? "L" : "M"}${x(each.x[index]).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
    parts.push(shape("path", { class: `curve ${name}`, d: path, fill: "none", "clip-path": `url(#${clip})`, "data-n": each.number }));
    const end = x(each.x[each.x.length - 1]);
    let level = y.held(each.y[each.y.length - 1]);
    while (taken.some(([at, other]) => Math.abs(at - end) < 40 && Math.abs(other - level) < 13) && level > box.top) level -= 2;
    taken.push([end, level]);
    parts.push(letters(end + 6, level + 4, `#${each.number}`, name));
  }
  const label = drawn.length ? `Training loss of experiments ${drawn.map((each) => `#${each.number}`).join(", ")}.` : "Add an experiment to see its curve.";
  curves.drawing.replaceChildren(shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, "font-size": 12 }, ...parts));
  const missing = numbers.length - drawn.length;
  curves.caption.textContent = `${label} Losses are those that each run printed, at up to 48 of its lines; the metric is another number.`
    + (missing ? ` ${missing} cannot be aligned this way.` : "");
}

function chips(session) {
  const { curves } = session;
  curves.section.querySelector(".chips").replaceChildren(...curves.numbers.map((number, index) => element("span", { class: `chip line-${index % LINES}` },
    button(`#${number}`, (event) => openPanel(session, number, event.target), { class: "link" }),
    button("×", () => drawCurves(session, curves.numbers.filter((other) => other !== number)), { "aria-label": `Remove #${number}` }))));
}
