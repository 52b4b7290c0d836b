// The table of all experiments: sort by a column, filter, search, and open a row.

// What a column sorts by; the others by their text.
const SORTS = { 0: (row) => row.n, 2: (row) => row.v, 3: (row) => row.g, 5: (row) => row.t };

function beginTable(session) {
  const table = session.article.querySelector("table.all"), body = table.tBodies[0], form = session.article.querySelector(".filter");
  session.table = { body, form, sorted: null };
  session.shown = null;
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row || !getSelection().isCollapsed) return; // a person selects text to copy it
    event.preventDefault();
    openPanel(session, Number(row.cells[0].textContent), row.querySelector("a"));
  });
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    cell.replaceChildren(button(cell.textContent, () => sortBy(session, index), { class: "sort" }));
  });
  const by = [...new Set([...body.rows].map((row) => row.cells[6].textContent))].sort();
  form.querySelector(".proposers").append(...by.map((name) => element("option", { value: name }, name)));
  form.addEventListener("input", () => filter(session));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => filter(session)));
}

function sortBy(session, index) {
  const { body, sorted } = session.table, { rows, down } = session.data;
  const heads = [...body.parentElement.tHead.rows[0].cells];
  // Gains begin with the largest, and values with the best.
  const first = index === 3 || (index === 2 && !down) ? -1 : 1;
  const way = sorted && sorted.index === index ? -sorted.way : first;
  const key = SORTS[index] ? (row) => SORTS[index](rows[Number(row.cells[0].textContent)]) : (row) => row.cells[index].textContent;
  const keyed = [...body.rows].map((row) => [key(row), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // rows without a value come last either way
    return way * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...keyed.map(([, row]) => row));
  session.table.sorted = { index, way };
  heads.forEach((head, place) => {
    if (place === index) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

// The numbers of the rows that the table shows, in its order.
const shownOrder = (session) =>
  [...session.table.body.rows].filter((row) => !row.hidden).map((row) => Number(row.cells[0].textContent));

// Whether an experiment has a word, in small letters: in its description, its reason or its diff, or as NAME=value.
function has(session, row, word) {
  session.texts ??= new Map();
  if (!session.texts.has(row.n)) {
    const named = row.p.map((value, index) => `${session.data.constants[index].name}=${setting(value)}`.toLowerCase());
    const text = [`#${row.n}`, session.row(row.n).cells[4].textContent, row.diff ?? ""].join("\n").toLowerCase();
    session.texts.set(row.n, { text, named: new Set(named) });
  }
  const { text, named } = session.texts.get(row.n);
  return named.has(word) || text.includes(word);
}

function filter(session) {
  const { body, form } = session.table, { rows } = session.data;
  const words = form.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = form.querySelector(".verdicts").value, by = form.querySelector(".proposers").value;
  const fits = (row) =>
    (!verdict || row.k === verdict || row.s === verdict && verdict === "keep") &&
    (!by || row.by === by) && words.every((word) => has(session, row, word));
  const found = new Set(rows.filter(fits).map((row) => row.n));
  for (const row of body.rows) row.hidden = !found.has(Number(row.cells[0].textContent));
  session.shown = found.size < rows.length ? found : null;
  form.querySelector(".count").textContent = session.shown ? `${found.size} of ${rows.length} rows` : "";
  dim(session);
}
