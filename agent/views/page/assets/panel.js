// The panel of one experiment: diff, runs, reasoning and the end of the log.

const panel = document.querySelector("aside.panel");
let opened = null; // the session whose experiment it shows
let opener = null; // gets the focus back

function openPanel(session, number, from = null) {
  const row = session.data.rows[number];
  if (!row) return;
  if (panel.hidden) opener = from ?? document.activeElement;
  if (opened && opened !== session) choose(opened, null);
  opened = session;
  panel.replaceChildren(...panelParts(session, row));
  panel.setAttribute("aria-label", `Experiment #${number}`);
  panel.hidden = false;
  panel.scrollTop = 0;
  document.documentElement.classList.add("opened");
  address(`#${session.prefix}${number}`);
  choose(session, number);
  hideTip(session.chart);
  // On a phone the panel covers the lower part: bring the chart into the upper one.
  if (from === session.chart.slider && innerWidth <= 700) session.chart.frame.scrollIntoView({ block: "start" });
  panel.focus({ preventScroll: true });
}

// Unless something else has the focus by now.
function focusPanel() {
  if (!panel.hidden && document.activeElement === document.body) panel.focus({ preventScroll: true });
}

function closePanel() {
  if (panel.hidden) return;
  panel.hidden = true;
  document.documentElement.classList.remove("opened");
  address(location.pathname + location.search);
  choose(opened, null);
  if (opener && opener.isConnected) opener.focus({ preventScroll: true });
  hideTip(opened.chart); // the slider shows it when it gets the focus
  opened = null;
}

// Keep the address of what is shown, without a step in the history and without a jump.
function address(text) {
  try {
    history.replaceState(null, "", text);
  } catch {
    // Some browsers refuse it to a page from disk; then only the link is missing.
  }
}

function choose(session, number) {
  session.article.querySelector("tr.chosen")?.classList.remove("chosen");
  session.chosen = number;
  if (number !== null) session.row(number).classList.add("chosen");
  ring(session);
  redrawScatter(session);
}

// The experiment before or after, of those that the table shows and in its order.
function neighbor(step) {
  const order = shownOrder(opened), place = order.indexOf(opened.chosen);
  if (place < 0) return order.length ? order[0] : null;
  return order[place + step] ?? null;
}

function turn(step) {
  const number = neighbor(step);
  if (number !== null) openPanel(opened, number);
}

function beginPanel() {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") {
      for (const each of document.querySelectorAll(".tip")) each.hidden = true;
      closePanel();
    } else if (!panel.hidden && (panel.contains(document.activeElement) || document.activeElement === document.body)) {
      // The arrows up and down scroll it.
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    }
  });
}

function panelParts(session, row) {
  const told = session.told(row.n), data = session.data;
  const title = element("h2", { class: row.s }, `#${row.n} `, element("span", { class: "verdict" }, told.verdict));
  const head = element("header", {}, title,
    button("‹", () => turn(-1), { "aria-label": "Previous experiment", title: "Previous (←)" }),
    button("›", () => turn(1), { "aria-label": "Next experiment", title: "Next (→)" }),
    button("×", closePanel, { "aria-label": "Close", title: "Close (Esc)" }));
  const facts = [];
  if (row.m !== null || row.v !== null) facts.push([data.metric, row.m !== null ? figure(row.m) : told.value]);
  if (row.g !== null) facts.push(["gain over the best of its time", signed(row.g, row.v ?? row.g)]);
  facts.push(["time until the verdict", told.took]);
  if (row.runs.length) facts.push(["time of the runs listed here", duration(row.runs.reduce((sum, run) => sum + (run[2] ?? 0), 0))]);
  facts.push(["proposed by", told.by], ["commit", told.commit]);
  const parts = [head, element("p", { class: "what" }, told.what), element("p", { class: "note" }, told.reason)];
  parts.push(element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
  const last = data.rows[data.rows.length - 1].n;
  const actions = element("p", { class: "controls" });
  if (row.n < last) actions.append(button("Zoom from here on", () => zoom(session, row.n, last)));
  if (row.c) actions.append(button("Add its learning curve", (event) => {
    addCurve(session, row.n);
    event.target.textContent = "Added below";
  }));
  parts.push(actions);
  if (row.diff !== null) parts.push(element("h3", {}, "Change"), patch(row.diff), shortened(row, "diff", `autoresearch diff ${row.n} --tag ${data.tag}`));
  if (row.runs.length) parts.push(element("h3", {}, "Runs"), runsTable(row.runs), others(row, data));
  if (row.why) parts.push(element("h3", {}, "Reasoning"), element("p", { class: "reasoning" }, row.why), shortened(row, "why", `autoresearch show ${row.n} --tag ${data.tag}`));
  if (row.log) parts.push(element("h3", {}, "End of the log"), element("pre", { class: "log", tabindex: 0 }, row.log), shortened(row, "log", `autoresearch log ${row.n} --tag ${data.tag}`));
  return parts.filter((part) => part !== null);
}

function shortened(row, part, command) {
  if (!row.short.includes(part)) return null;
  return element("p", { class: "note" }, "Shortened. The whole: ", element("code", {}, command));
}

function others(row, data) {
  if (!row.more) return null;
  const command = element("code", {}, `autoresearch export --runs --tag ${data.tag}`);
  return element("p", { class: "note" }, `${row.more} more ${row.more === 1 ? "run" : "runs"} as incumbent or in comparisons: `, command);
}

// A unified diff, a line each, with the file's name instead of git's header.
function patch(text) {
  if (!text.trim()) return element("p", { class: "note" }, "No file was changed.");
  const lines = text.split("\n").filter((line) => !/^(index |--- |\+\+\+ |old mode|new mode|similarity)/.test(line));
  if (lines[lines.length - 1] === "") lines.pop();
  return element("pre", { class: "patch", tabindex: 0 }, ...lines.map((line) => {
    const name = line.startsWith("diff --git ") ? "file" : line.startsWith("@@") ? "gap" : { "+": "came", "-": "gone" }[line[0]] ?? "";
    return element("span", { class: name }, name === "file" ? line.replace(/^diff --git a\/.* b\//, "") : line || " ");
  }));
}

function runsTable(runs) {
  const cells = ([side, metric, seconds, note]) => element("tr", {},
    element("th", { scope: "row" }, side),
    element("td", { class: "n" }, metric === null ? "-" : figure(metric)),
    element("td", { class: "n" }, seconds === null ? "-" : duration(seconds)),
    element("td", { class: "what" }, note));
  const head = ["run", "value", "time", ""].map((name, index) => element("th", { scope: "col", class: index % 3 ? "n" : null }, name));
  return element("table", { class: "runs" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...runs.map(cells)));
}
