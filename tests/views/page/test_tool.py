"""The page of a thousand experiments in a real browser: panel, table, zoom, constants and learning curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.format import duration
from tests.common.browser import Page, browser, find
from tests.common.journals import HOSTILE, NAMES, JournalBuilder
from tests.common.reports import LONG, Made

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: `apt-get install chromium` runs this test")

FIRST_PAINT = 3000  # milliseconds, on a busy machine; about 300 on an idle one
ENTER, ESCAPE, LEFT, RIGHT = ("Enter", 13), ("Escape", 27), ("ArrowLeft", 37), ("ArrowRight", 39)
PANEL = "document.querySelector('.panel')"
FORM = "document.querySelector('.filter')"
SHOWN = "[...document.querySelectorAll('table.all tbody tr')].filter(r => !r.hidden)"
NUMBERS = f"{SHOWN}.map(r => Number(r.cells[0].textContent))"
# After the frames in which the page answers to what it now shows, such as a section that came into view.
SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 20))))"
DRAWN = "[...document.querySelectorAll('.chart .wide .part .pt')].map(p => Number(p.dataset.n))"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("report") / "workspace")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(made: Made, opened: Page) -> Iterator[Page]:
    """The report of a thousand experiments, which must leave no message in the console and load nothing."""
    opened.open(made.report("long"))
    yield opened
    assert opened.console == []
    assert all(url.startswith(("file:", "data:", "about:")) for url in opened.requests)


def middle(page: Page, selector: str) -> tuple[float, float]:
    """Scroll an element into view, and return its middle."""
    x, y = page.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}});"
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    return x, y


def rows(made: Made) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.data("long")["sessions"][0]["rows"]
    return found


def choose(page: Page, selector: str, value: str) -> None:
    """Choose an option of a select, as a person does."""
    page.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = '{value}';"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})) })()"
    )


def test_click_on_a_point_shows_diff_runs_and_log(made: Made, page: Page) -> None:
    at = middle(page, '.wide .pt[data-n="500"]')
    assert page.run(f"{PANEL}.hidden")
    page.click(*at)
    text = page.run(f"{PANEL}.innerText")
    assert text.startswith(f"#500 {rows(made)[500]['status']}")
    assert "+RATE = 500" in text
    assert "-RATE = 0.4" in text
    assert "candidate" in text
    assert "num_steps: 300" in text
    assert page.run("location.hash") == "#500"
    assert page.run("document.querySelector('.tip').hidden")
    assert page.run("document.querySelectorAll('.wide .ring').length") == 1
    assert page.run(f"document.activeElement === {PANEL}")
    page.press(*ESCAPE)
    assert page.run(f"{PANEL}.hidden")
    assert page.run("location.hash") == ""
    assert page.run("document.activeElement.type") == "range"


def test_click_far_from_any_point_opens_nothing(page: Page) -> None:
    x, y = middle(page, ".wide .plot .axis")
    page.click(x, y + 40)
    assert page.run(f"{PANEL}.hidden")


def test_keyboard_opens_turns_and_closes(page: Page) -> None:
    page.run("document.querySelector('.scrub input').focus()")
    page.press("Home", 36)
    for _ in range(3):
        page.press(*RIGHT)
    page.press(*ENTER)
    assert page.run(f"{PANEL}.getAttribute('aria-label')") == "Experiment #3"
    page.press(*RIGHT)
    assert page.run("location.hash") == "#4"
    for _ in range(2):
        page.press(*LEFT)
    assert page.run("location.hash") == "#2"
    page.press(*ESCAPE)
    page.run(
        "document.querySelector('details.every').open = true; document.getElementById('7').querySelector('a').focus()"
    )
    page.press(*ENTER)
    assert page.run(f"{PANEL}.innerText").startswith("#7 ")
    page.press(*ESCAPE)
    assert page.run("document.activeElement.getAttribute('href')") == "#7"


def test_row_opens_the_panel_and_arrows_follow_the_table(page: Page) -> None:
    page.run("document.querySelector('details.every').open = true")
    choose(page, ".verdicts", "crash")
    crashed = page.run(NUMBERS)
    assert len(crashed) > 3
    page.click(*middle(page, f'[id="{crashed[0]}"] .what'))
    assert page.run("location.hash") == f"#{crashed[0]}"
    page.press(*RIGHT)
    assert page.run("location.hash") == f"#{crashed[1]}"


def test_link_to_an_experiment_opens_it(made: Made, opened: Page) -> None:
    opened.open(made.report("long"), fragment="#12")
    assert opened.run(f"{PANEL}.innerText").startswith("#12 ")
    opened.run(SETTLED)
    assert opened.run(f"document.activeElement === {PANEL}")
    opened.press(*RIGHT)
    assert opened.run("location.hash") == "#13"
    opened.run("location.hash = '#34'")
    opened.run(SETTLED)
    assert opened.run(f"{PANEL}.innerText").startswith("#34 ")
    opened.open(made.report("long"), fragment="#99999")
    assert opened.run(f"{PANEL}.hidden")
    opened.open(made.report("night", "long"), fragment="#s1-12")
    assert opened.run(f"{PANEL}.innerText").startswith("#12 ")
    assert opened.run("document.querySelector('tr.chosen').id") == "s1-12"
    opened.run(SETTLED)
    assert opened.run(f"document.activeElement === {PANEL}")
    assert opened.console == []


def test_time_of_an_experiment_ends_with_its_verdict_and_the_panel_sums_the_runs_it_lists(
    made: Made, opened: Page
) -> None:
    opened.open(made.report("up"))
    rows = opened.run("JSON.parse(document.getElementById('s0-data').textContent).rows")
    row = max(rows, key=lambda each: len(each["runs"]))
    opened.run(f"location.hash = '#{row['n']}'")
    opened.run(SETTLED)
    names = f"[...{PANEL}.querySelectorAll('dt')]"
    facts = opened.run(f"Object.fromEntries({names}.map((dt) => [dt.textContent, dt.nextSibling.textContent]))")
    assert facts["time of the runs listed here"] == duration(sum(run[2] for run in row["runs"]))
    before = [run[2] for run in row["runs"] if run[0] == "candidate"]
    assert facts["time until the verdict"] == duration(sum(before))


def test_what_models_and_runs_wrote_stays_text(page: Page) -> None:
    page.run("location.hash = '#3'")
    page.run(SETTLED)
    assert page.run("document.title") == "long · val_bpb · autoresearch"
    text = page.run(f"{PANEL}.innerText")
    assert text.count(HOSTILE.split(" ")[0]) == 3  # description, reasoning and log
    assert page.run(f"{PANEL}.querySelectorAll('script, img, table table').length") == 0
    assert page.run("document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize(
    ("column", "key", "descending"),
    [(0, "number", False), (2, "metric", False), (3, "effect", True), (5, "seconds", False)],
)
def test_columns_sort(made: Made, page: Page, column: int, key: str, descending: bool) -> None:
    page.run("document.querySelector('details.every').open = true")
    head = f"document.querySelectorAll('table.all thead button')[{column}]"
    if column == 0:
        page.run(f"{head}.click()")
    page.run(f"{head}.click()")
    order = page.run(NUMBERS)
    assert sorted(order) == list(range(LONG + 1))
    values = {row["number"]: row[key] for row in rows(made) if row[key] is not None and row["pruned"] is None}
    known = [float(f"{values[n]:.7g}") for n in order if n in values]  # as many digits as the page has
    falling = descending or column == 0
    assert known == sorted(known, reverse=falling)
    assert page.run(f"{head}.parentElement.ariaSort") == ("descending" if falling else "ascending")
    page.run(f"{head}.click()")
    back = [float(f"{values[n]:.7g}") for n in page.run(NUMBERS) if n in values]
    assert back == sorted(known, reverse=not falling)


def test_text_columns_sort(page: Page) -> None:
    page.run("document.querySelectorAll('table.all thead button')[6].click()")
    by = page.run(f"{SHOWN}.map(r => r.cells[6].textContent)")
    assert by == sorted(by)


def test_filters_and_search(made: Made, page: Page) -> None:
    page.run("document.querySelector('details.every').open = true")
    choose(page, ".verdicts", "keep")
    kept = {row["number"] for row in rows(made) if row["status"] == "keep"}
    assert set(page.run(NUMBERS)) == kept
    choose(page, ".proposers", "llm")
    assert set(page.run(NUMBERS)) == {n for n in kept if rows(made)[n]["proposer"] == "llm"}
    assert "rows" in page.run("document.querySelector('.count').innerText")
    faded = page.run("document.querySelectorAll('.wide .pt.out').length")
    assert faded == LONG + 1 - len(page.run(NUMBERS))
    page.run(f"{FORM}.querySelector('[type=reset]').click()")
    page.run(SETTLED)
    assert len(page.run(NUMBERS)) == LONG + 1
    page.run(f"{FORM}.querySelector('input').focus()")
    page.type("rate = 500")  # in a diff, and in any case of letters
    assert 500 in page.run(NUMBERS)
    assert len(page.run(NUMBERS)) < 20
    page.run(f"{FORM}.querySelector('input').select()")
    first = next(row["number"] for row in rows(made) if row["reason"] == "out of memory")
    page.run("window.data = JSON.parse(document.getElementById('s0-data').textContent)")
    depth = "data.rows[%s].p[data.constants.findIndex(c => c.name === 'DEPTH')]"
    value = page.run(depth % first)
    page.type(f"depth={value:g} out of memory")  # a constant and a reason
    found = page.run(NUMBERS)
    assert first in found
    assert all(rows(made)[n]["reason"] == "out of memory" for n in found)
    assert set(page.run(f"{NUMBERS}.map(n => {depth % 'n'})")) == {value}
    page.run(f"{FORM}.querySelector('input').select()")
    page.type("<script>document")
    assert page.run(NUMBERS)


def test_drag_zooms_and_double_click_resets(page: Page) -> None:
    start, end = middle(page, '.wide .pt[data-n="300"]'), middle(page, '.wide .pt[data-n="400"]')
    start = middle(page, '.wide .pt[data-n="300"]')
    page.drag((start[0] - 0.3, start[1]), (end[0] + 0.3, start[1]))
    assert sorted(page.run(DRAWN)) == list(range(300, 401))
    assert page.run("[document.querySelector('.from').value, document.querySelector('.to').value]") == ["300", "400"]
    assert page.run("document.querySelector('.wide .plot').getBoundingClientRect().width") == 0
    assert page.run("document.querySelector('.wide .brush')") is None
    assert page.run("document.querySelector('.zoom .range').innerText").startswith("Drawn: #300 to #400.")
    x, y = middle(page, '.wide .part .pt[data-n="350"]')
    page.move(x, y)
    assert page.run("document.querySelector('.tip').innerText").startswith("#350 ")
    page.click(*middle(page, ".wide .part .axis"), count=2)
    assert page.run(DRAWN) == []
    assert page.run("document.querySelector('.wide .plot').getBoundingClientRect().width") > 500


def test_zoom_without_a_mouse_and_from_here_on(page: Page) -> None:
    page.run("document.querySelector('.from').focus(); document.querySelector('.from').select()")
    page.type("990")
    page.press(*ENTER)
    assert sorted(page.run(DRAWN)) == list(range(990, LONG + 1))
    assert page.run("[document.querySelector('.scrub input').min, document.querySelector('.scrub input').max]") == [
        "990",
        str(LONG),
    ]
    page.run("document.querySelector('.whole').click()")
    assert page.run(DRAWN) == []
    page.click(*middle(page, '.wide .pt[data-n="700"]'))
    number = int(page.run("location.hash")[1:])
    page.run(f"[...{PANEL}.querySelectorAll('button')].find(b => b.textContent === 'Zoom from here on').click()")
    assert sorted(page.run(DRAWN)) == list(range(number, LONG + 1))
    assert page.run("document.querySelectorAll('.wide .ring').length") == 1


def test_constants_are_drawn_against_the_metric(page: Page) -> None:
    page.run("document.querySelector('.scatter').scrollIntoView()")
    page.run(SETTLED)
    assert page.run("document.querySelectorAll('.scatter .pt').length") == LONG + 1
    assert set(page.run("[...document.querySelectorAll('.scatter option')].map(o => o.textContent)")) == set(NAMES)
    kept = page.run("document.querySelectorAll('.scatter .kept, .scatter .provisional, .scatter .baseline').length")
    assert kept == page.run(f"{SHOWN}.filter(r => r.className === 'keep').length")
    page.run(
        "[...document.querySelectorAll('table.constants button')].find(b => b.textContent === 'WEIGHT_DECAY').click()"
    )
    assert page.run("document.querySelector('.scatter svg').getAttribute('aria-label')").startswith(
        "val_bpb against WEIGHT_DECAY: 1001 experiments"
    )
    page.click(*middle(page, ".scatter .pt.kept"))
    assert page.run("document.querySelectorAll('.scatter .ring').length") == 1
    assert not page.run(f"{PANEL}.hidden")
    shares = page.run("[...document.querySelectorAll('table.constants .share')].map(c => c.innerText)")
    assert len(shares) == len(NAMES)
    assert all(" to " in share for share in shares)


def test_constant_with_values_of_several_types_is_drawn(made: Made, opened: Page) -> None:
    journal = made.folder / ".autoresearch" / "sessions" / "types" / "journal.jsonl"
    JournalBuilder("types").baseline().mixed(30).save(journal)
    journal.write_text(journal.read_text().replace('"DEPTH": 1.0', '"DEPTH": "<b>deep</b>"'))
    opened.open(made.report("types"))
    opened.run("document.querySelector('.scatter').scrollIntoView()")
    opened.run(SETTLED)
    for name in NAMES:
        place = f"[...document.querySelectorAll('.scatter option')].findIndex(o => o.textContent === '{name}')"
        choose(opened, ".scatter select", opened.run(place))
        assert opened.run("document.querySelectorAll('.scatter .pt').length") == 31
        assert "NaN" not in opened.run("document.querySelector('.scatter .drawing').innerHTML")
    assert opened.run("document.querySelectorAll('.scatter b').length") == 0
    assert opened.console == []


def test_print_has_the_figures_that_were_not_yet_in_view(page: Page) -> None:
    assert page.run("document.querySelectorAll('.scatter svg').length") == 0
    assert page.pdf().startswith(b"%PDF")
    assert page.run("document.querySelectorAll('.scatter svg, .about-curves svg').length") == 2


def test_learning_curves_over_one_another(page: Page) -> None:
    page.run("document.querySelector('[id$=-diff]').scrollIntoView()")
    page.run(SETTLED)
    curves = "[...document.querySelectorAll('path.curve')].map(c => Number(c.dataset.n))"
    first = page.run(curves)
    assert first[0] == 0
    assert len(first) == 6
    page.run("document.querySelector('.which').focus()")
    page.type("500")
    page.press(*ENTER)
    assert page.run(curves) == [*first, 500]
    page.run("document.querySelector('[aria-label=\"Remove #0\"]').click()")
    assert page.run(curves) == [*first[1:], 500]
    by_step = page.run("document.querySelector('path.curve').getAttribute('d')")
    choose(page, ".about-curves .by", "seconds")
    assert page.run("document.querySelector('.about-curves .drawing').textContent").endswith("#500")
    assert "seconds of training" in page.run("document.querySelector('.about-curves .drawing').textContent")
    assert page.run("document.querySelector('path.curve').getAttribute('d')") != ""
    assert by_step
    page.run("document.querySelector('.about-curves .none').click()")
    page.run("location.hash = '#77'")
    page.run(SETTLED)
    page.run(f"[...{PANEL}.querySelectorAll('button')].find(b => b.textContent === 'Add its learning curve').click()")
    assert page.run(curves) == [77]


def test_page_of_a_thousand_is_small_and_soon_painted(made: Made, page: Page) -> None:
    assert made.report("long").stat().st_size < 4_000_000
    painted = page.run(
        "new Promise(done => new PerformanceObserver(list => done(list.getEntries().at(-1).startTime))"
        ".observe({type: 'paint', buffered: true}))"
    )
    print(f"first paint after {painted:.0f} ms")
    assert painted < FIRST_PAINT


def test_page_works_without_scripts(made: Made, opened: Page) -> None:
    opened.scripts(False)
    try:
        opened.open(made.report("long"), fragment="#500")
        assert opened.run("document.querySelectorAll('.wide .pt').length") == LONG + 1
        assert opened.run("document.getElementById('500').matches(':target')")
        for selector in (".controls", ".js-only", ".panel", ".scrub"):
            assert opened.run(f"document.querySelector('{selector}').getBoundingClientRect().height") == 0, selector
        assert opened.run("document.querySelectorAll('table.constants .share').length") == len(NAMES)
    finally:
        opened.scripts(True)


@pytest.mark.parametrize("width", [1280, 1000, 390])
def test_panel_fits_and_leaves_the_chart_in_view(made: Made, opened: Page, width: int) -> None:
    opened.open(made.report("long"), width=width, height=844)
    at = middle(opened, f'.{"narrow" if width == 390 else "wide"} .pt[data-n="500"]')
    opened.tap(*at) if width == 390 else opened.click(*at)
    opened.run(SETTLED)
    box = opened.run(f"(b => [b.left, b.top, b.right, b.bottom])({PANEL}.getBoundingClientRect())")
    assert box[0] >= 0
    assert box[2] <= width
    assert box[3] <= 844
    assert opened.run("document.documentElement.scrollWidth") <= width
    seen = opened.run("(b => [b.top, b.right])(document.querySelector('figure.chart').getBoundingClientRect())")
    assert seen[0] < box[1] or seen[1] <= box[0] or width == 1000
    assert opened.console == []


@pytest.mark.parametrize("dark", [False, True])
def test_panel_and_controls_are_legible(made: Made, opened: Page, dark: bool) -> None:
    opened.open(made.report("long"), dark=dark, fragment="#500")
    for selector in (
        ".panel .gone",
        ".panel .came",
        ".panel .gap",
        ".panel .note",
        ".panel dt",
        ".controls label",
        ".controls input",
        ".constants small",
    ):
        assert opened.run(CONTRAST % selector) >= 4.5, selector


# Contrast ratio by WCAG between the text of an element and the nearest background.
CONTRAST = """(() => {
  const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => numbers(c).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const element = document.querySelector('%s');
  const text = light(getComputedStyle(element).color);
  let behind = element;
  while (behind && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const ground = light(getComputedStyle(behind || document.documentElement).backgroundColor);
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
})()"""
