"use strict";
// Show the row of the point nearest to the pointer, or selected by the slider below the chart.
for (const figure of document.querySelectorAll("figure.chart[data-key]")) {
  const key = figure.dataset.key, tip = figure.querySelector(".tip"), slider = figure.querySelector("input");
  const drawings = [...figure.querySelectorAll("svg")].map((svg) => ({ svg, points: null }));
  for (const title of figure.querySelectorAll(".pt > title")) title.remove(); // the browser's tooltip would cover ours

  const drawn = () => drawings.find((each) => each.svg.getBoundingClientRect().width > 0);
  const points = (drawing) => {
    if (!drawing.points) {
      drawing.points = [...drawing.svg.querySelectorAll(".pt")].map((point) => {
        const box = point.getBBox();
        return { point, number: Number(point.dataset.n), x: box.x + box.width / 2, y: box.y + box.height / 2 };
      });
    }
    return drawing.points;
  };

  const line = (name, text) => {
    const element = document.createElement("span");
    element.className = name;
    element.textContent = text;
    tip.append(element);
  };

  const show = (drawing, found) => {
    const cells = [...document.getElementById(`${key}-${found.number}`).cells];
    const [number, verdict, value, change, , took, by, commit] = cells.map((cell) => cell.textContent);
    const what = cells[4].firstChild ? cells[4].firstChild.textContent : "";
    const reason = cells[4].querySelector("small").textContent;
    tip.replaceChildren();
    line(`verdict ${verdict.split(",")[0]}`, `#${number} ${verdict}`);
    line("value", value === "-" ? "" : `${value}${change === "-" ? "" : `  (${change})`}`);
    line("what", what);
    if (reason) line("note", reason);
    line("note", `${took} by ${by}, ${commit}`);
    for (const each of figure.querySelectorAll(".pt.at")) each.classList.remove("at");
    found.point.classList.add("at");
    slider.value = found.number;
    slider.setAttribute("aria-valuetext", `#${number} ${verdict} ${value}: ${what}`);
    tip.hidden = false;
    const frame = figure.getBoundingClientRect(), box = drawing.svg.getBoundingClientRect();
    const scale = box.width / drawing.svg.viewBox.baseVal.width;
    const x = box.left - frame.left + found.x * scale, y = box.top - frame.top + found.y * scale;
    const room = frame.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, x + 14 + tip.offsetWidth > frame.width ? x - 14 - tip.offsetWidth : x + 14))}px`;
    tip.style.top = `${y - tip.offsetHeight - 12 > 0 ? y - tip.offsetHeight - 12 : y + 14}px`;
  };

  const hide = () => {
    tip.hidden = true;
    for (const each of figure.querySelectorAll(".pt.at")) each.classList.remove("at");
  };

  const nearest = (event) => {
    const drawing = drawn(), box = drawing.svg.getBoundingClientRect();
    const scale = drawing.svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, least = Infinity;
    for (const each of points(drawing)) {
      const distance = (each.x - x) ** 2 + (each.y - y) ** 2;
      if (distance < least) [best, least] = [each, distance];
    }
    if (best) show(drawing, best);
  };

  for (const { svg } of drawings) {
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  }
  const slide = () => {
    const drawing = drawn(), found = points(drawing).find((each) => each.number === Number(slider.value));
    if (found) show(drawing, found);
  };
  slider.addEventListener("input", slide);
  slider.addEventListener("focus", slide);
  slider.addEventListener("blur", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

for (const command of document.querySelectorAll(".command")) {
  const button = command.querySelector("button"), text = command.querySelector("pre");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // without access to the clipboard, select the text for the user to copy
      button.textContent = "Selected";
    }
  });
}
document.documentElement.classList.add("js");
