// Start the parts of the page. Without this script the page shows the same figures, and only does not answer.

function sessionOf(article) {
  const { prefix } = article.dataset, key = article.id;
  let parsed = null;
  return {
    article, key, prefix, chosen: null, shown: null,
    // Parsed when it is first needed, so that the page is painted before.
    get data() {
      parsed ??= JSON.parse(document.getElementById(`${key}-data`).textContent);
      return parsed;
    },
    row: (number) => document.getElementById(`${prefix}${number}`),
    // What the table says of an experiment.
    told(number) {
      const cells = this.row(number).cells, texts = [...cells].map((cell) => cell.textContent), what = cells[4];
      const [, verdict, value, gain, , took, by, commit] = texts;
      return { verdict, value, gain, took, by, commit, reason: what.querySelector("small").textContent, what: what.firstChild?.nodeName === "#text" ? what.firstChild.data : "" };
    },
  };
}

function whenSeen(node, act) {
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    act();
  }, { rootMargin: "600px" });
  watch.observe(node);
}

// Draw again when the width has changed, such as beside the open panel.
function whenResized(node, act) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    act();
  }).observe(node);
}

// Open the experiment that the address names: report.html#12
function follow(sessions) {
  const name = decodeURIComponent(location.hash.slice(1));
  const session = sessions.find(({ prefix }) => name.startsWith(prefix) && /^\d+$/.test(name.slice(prefix.length)));
  if (!session || !session.row(name.slice(session.prefix.length))) return;
  const from = document.activeElement;
  openPanel(session, Number(name.slice(session.prefix.length)), from === document.body ? null : from);
  session.row(session.chosen).scrollIntoView({ block: "center" });
}

// A number in a list opens its panel, without a jump to its row.
function followLink(session, event) {
  const link = event.target.closest("a[href^='#']"), name = link?.getAttribute("href").slice(1 + session.prefix.length);
  if (event.defaultPrevented || !link || !/^\d+$/.test(name)) return;
  event.preventDefault();
  openPanel(session, Number(name), link);
}

function beginCommands() {
  for (const command of document.querySelectorAll(".command")) {
    const copy = command.querySelector("button"), text = command.querySelector("pre");
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text); // without access to the clipboard, select the text for the user to copy
        copy.textContent = "Selected";
      }
    });
  }
}

function begin() {
  const sessions = [...document.querySelectorAll("article")].map(sessionOf);
  document.documentElement.classList.add("js");
  beginPanel();
  for (const session of sessions) {
    beginChart(session);
    beginTable(session);
    beginConstants(session);
    beginCurves(session);
    session.article.addEventListener("click", (event) => followLink(session, event));
  }
  beginCommands();
  addEventListener("hashchange", () => follow(sessions));
  addEventListener("beforeprint", () => {
    for (const session of sessions) {
      if (session.scatter && !session.scatter.drawing.firstChild) drawScatter(session);
      showCurves(session);
    }
  });
  follow(sessions);
  // The browser takes the focus away when it goes to the row that the address names.
  addEventListener("load", () => setTimeout(focusPanel));
}

begin();
