"""The report of real and of very long sessions, and its page in a real browser."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agent.format import figure
from agent.journal.experiment import Evidence
from agent.journal.paths import journal_path
from agent.protocol.load import load_protocol
from agent.report.close_up import MOST_RUNS
from agent.report.gather import evidence_words
from agent.report.timing import time_spent
from agent.repository.workspace import Workspace
from agent.views.page import chart, scale, sidebyside
from agent.views.page.write import write_report
from tests.common.browser import Page, browser, find
from tests.common.journals import HOSTILE, JournalBuilder, Writer, as_named
from tests.common.reports import LONG, Made
from tests.common.station_journals import StationsBuilder
from tests.common.terminals import in_terminal
from tests.common.workspaces import Cli, commit_all, git

# Alone it takes 2 to 3 s, and up to 8 where six workers share two cores.
PLENTY_OF_SECONDS, PLENTY_OF_BYTES = 20.0, 4_000_000
PROGRAM = find()
needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here: `apt-get install chromium` runs this test"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("report") / "workspace")
    yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_real_session_from_start_to_its_commands(quick: Path, program: Cli, tmp_path: Path) -> None:
    assert program(quick, "run", "--tag", "one", "--max-experiments", "3").returncode == 0
    done = program(quick, "report")
    assert done.returncode == 0, done.stderr
    html, svg, png = map(Path, done.stdout.split())
    assert html == quick / ".autoresearch" / "sessions" / "one" / "report" / "index.html"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().startswith("<svg ")
    assert svg.read_text().count('class="pt ') == 4
    assert git(quick, "status", "--porcelain") == ""
    data = json.loads(program(quick, "report", "--json").stdout)["data"]["sessions"][0]
    kept = [row for row in data["rows"][1:] if row["status"] == "keep"]
    assert kept
    assert data["diff"][0]["before"] != data["diff"][0]["after"]
    shown = git(quick, *shlex.split(data["commands"][0]["command"])[1:])
    assert shown == data["diff"][0]["after"].strip()
    # The commands on the page do what their headings say.
    git(quick, "checkout", "-q", "main")
    for each in data["commands"][:-2]:
        subprocess.run(each["command"], shell=True, cwd=quick, check=True, capture_output=True)
    assert [each["command"].partition("autoresearch ")[2] for each in data["commands"][-2:]] == [
        "confirm --tag one",
        "run --tag one",
    ]
    assert program(quick, "adopt", "--tag", "one").returncode == 3
    assert program(quick, "confirm", "--tag", "one").returncode == 0
    data = json.loads(program(quick, "report", "--json").stdout)["data"]["sessions"][0]
    assert data["confirmation"]["verdict"] == "confirmed"
    assert data["rows"][data["confirmation"]["number"]]["words"].startswith("confirmed by held-out runs; when it was")
    assert data["commands"][-2]["command"].endswith("adopt --tag one")
    assert (quick.parent / "best-one" / "train.py").read_text().strip() == shown
    again = program(quick, "report", "--tag", "one", "--out", str(tmp_path / "elsewhere"))
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == sorted(
        ["index.html", "progress.svg", "progress.png"]
    ), again.stderr


def test_report_refuses_wrong_input(made: Made, quick: Path, cli: Cli) -> None:
    assert cli(quick, "report").returncode == 3
    missing = cli(made.folder, "report", "--tag", "nowhere")
    assert missing.returncode == 3
    assert "unknown session 'nowhere'" in missing.stderr
    unlike = cli(made.folder, "report", "--tag", "night", "--tag", "up")
    assert unlike.returncode == 2
    assert "write a report for each" in unlike.stderr


def test_long_report_is_fast_and_small(made: Made) -> None:
    began = time.process_time()  # processor time, which other load affects less
    path = write_report(made.workspace, ("long",), made.folder.parent / "measured")[0]
    assert time.process_time() - began < PLENTY_OF_SECONDS
    assert path.stat().st_size < PLENTY_OF_BYTES


def test_every_experiment_is_a_point_of_its_kind(made: Made) -> None:
    made.report("long")
    rows = made.data("long")["sessions"][0]["rows"]
    svg = (made.folder.parent / "long" / "progress.svg").read_text()
    kinds = Counter(re.findall(r'class="pt (\w+)"', svg))
    assert kinds.total() == LONG + 1
    assert kinds["crash"] == sum(row["status"] == "crash" for row in rows)
    assert kinds["pruned"] == sum(row["pruned"] is not None for row in rows) > 0
    assert kinds["baseline"] + kinds["kept"] + kinds["provisional"] == sum(row["status"] == "keep" for row in rows)
    far = [row for row in rows if row["metric"] is not None and row["metric"] > 1.85]
    assert far
    assert len(re.findall(r'data-n="\d+"><path class="far"', svg)) == len(far)
    assert f"{len(far)} out of range" in svg


@pytest.fixture
def ended(quick: Path) -> Path:
    JournalBuilder("t").baseline().mixed(3).save(journal_path(quick, "t"))
    return quick


@pytest.mark.parametrize("name", ["index.html", "progress.svg", "progress.png"])
def test_file_that_is_not_of_a_report_is_not_replaced(ended: Path, cli: Cli, name: str) -> None:
    site = ended / "site"
    site.mkdir()
    (site / name).write_text("mine\n")
    done = cli(ended, "report", "--out", "site")
    assert done.returncode == 2
    assert f"--out site would replace site/{name}, which is not part of a report" in done.stderr
    assert [(each.name, each.read_text()) for each in site.iterdir()] == [(name, "mine\n")]


def test_report_is_replaced_by_the_next_one_but_not_written_into_git(ended: Path, cli: Cli) -> None:
    before = sorted((ended / ".git").iterdir())
    for out in (".git", ".git/report"):
        done = cli(ended, "report", "--out", out)
        assert done.returncode == 2
        assert "which belongs to git" in done.stderr
    assert sorted((ended / ".git").iterdir()) == before
    for _ in range(2):
        for out in ("site", ".autoresearch/site"):
            assert cli(ended, "report", "--out", out).returncode == 0


@pytest.fixture
def without_metric(quick: Path) -> Path:
    """The page of a session with a crash and with a candidate that no station could measure."""
    builder = JournalBuilder("t", base=git(quick, "rev-parse", "HEAD")).baseline()
    builder.discard().crash().unmeasured().save(journal_path(quick, "t"))
    return write_report(Workspace(quick, load_protocol(quick)), ["t"])[0]


def test_experiment_without_a_metric_is_not_drawn_as_a_crash(without_metric: Path) -> None:
    svg = (without_metric.parent / "progress.svg").read_text()
    assert re.findall(r'class="pt (\w+)" data-n="(\d)"', svg) == [
        *(("discard", "1"), ("crash", "2"), ("unmeasured", "3"), ("baseline", "0")),
    ]
    words = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"no metric", "crashed", "discarded, no metric"} <= {*words}
    crossed, empty = (re.search(rf'<g class="pt {kind}" [^>]*>(<\w+)', svg) for kind in ("crash", "unmeasured"))
    assert crossed is not None
    assert empty is not None
    assert (crossed[1], empty[1]) == ("<path", "<circle")


@needs_browser
def test_part_of_the_chart_has_the_same_marks(without_metric: Path, page: Page) -> None:
    page.open(without_metric)
    page.run("document.querySelector('.from').focus(); document.querySelector('.from').select()")
    page.type("1")
    page.press("Enter", 13)
    part = "document.querySelector('.wide .part')"
    assert page.run(f"[...{part}.querySelectorAll('.pt')].map(p => [p.className.baseVal, p.firstChild.tagName])") == [
        *(["pt discard", "circle"], ["pt crash", "path"], ["pt unmeasured", "circle"]),
    ]
    assert page.run(f"[...{part}.querySelectorAll('text')].some(t => t.textContent === 'no metric')")


@needs_browser
def test_panel_counts_the_runs_that_it_leaves_out(quick: Path, page: Page) -> None:
    made = StationsBuilder("studio", base=git(quick, "rev-parse", "HEAD"))
    made.run("studio", of=0).record(None, "keep")
    for _ in range(MOST_RUNS):
        made.run("studio", of=0)
    made.write.save(journal_path(quick, "t"))
    page.open(write_report(Workspace(quick, load_protocol(quick)), ["t"])[0], fragment="#0")
    text = page.run("document.querySelector('aside.panel').innerText")
    assert "1 more run as incumbent or in comparisons: autoresearch export --runs --tag t" in text


def test_the_png_has_its_letters_where_the_system_has_none(made: Made) -> None:
    svg = chart.alone(made.data("night")["sessions"])
    drawn = chart.png(svg, system_fonts=False)
    assert drawn.startswith(b"\x89PNG")
    assert int.from_bytes(drawn[16:20], "big") == 2080
    assert len(drawn) > 1.5 * len(chart.png(re.sub("<text.*?</text>", "", svg), system_fonts=False))


def test_what_models_write_stays_text(made: Made) -> None:
    html = made.report("long").read_text()
    found = Tags()
    found.feed(html)
    assert found.count["script"] == 2  # the data, which does not run, and the script
    assert found.count["img"] == 0
    assert "onerror" not in found.attributes
    assert not re.search(r"[\x00\x1b\u202e\ud800\uffff]", html)
    assert "{{ 7*7 }}" in html
    assert "<script>document" not in html
    assert "<script" not in (made.folder.parent / "long" / "progress.svg").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes.update(name for name, _ in attrs)


def test_report_accounts_for_time(made: Made) -> None:
    session = made.data("long")["sessions"][0]
    spent = session["time"]
    assert sum(spent.values()) == pytest.approx(session["seconds"], rel=0.01)
    assert spent["training"] > 0.7 * session["seconds"]
    assert spent["interruptions"] == pytest.approx(120 * len(range(5, LONG + 1, 97)), rel=0.01)
    assert spent["crashes"] == pytest.approx(12 * session["crashed"])


@pytest.mark.quick
def test_evaluation_is_read_from_the_log(tmp_path: Path) -> None:
    from agent.journal.journal import read

    (tmp_path / "run.log").write_text("x" * 9000 + "\nevaluation: 7.5s\n---\nval_bpb: 1.0\n")
    write = Writer()
    write("session")
    write("proposed", 4.0, number=0)
    secondary = {"training_seconds": 30.0}
    write("measured", 41.0, number=0, seconds=40.0, secondary=secondary, log=str(tmp_path / "run.log"))
    write.save(tmp_path / "journal.jsonl")
    spent = time_spent(read(tmp_path / "journal.jsonl"), as_named)
    assert (spent.training, spent.evaluation, spent.starting) == (30.0, 7.5, 2.5)
    assert (spent.proposing, spent.other) == (4.0, 1.0)


def test_a_confirmation_and_its_gaps(made: Made) -> None:
    session = made.data("long")["sessions"][0]
    found = session["confirmation"]
    assert found["current"]
    assert found["runs"] == {"a": 3, "b": 3}
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert "The gain is confirmed." in made.report("long").read_text()
    assert made.data("night")["sessions"][0]["confirmation"] is None
    journal = made.folder / ".autoresearch" / "sessions" / "bare" / "journal.jsonl"
    lines = (made.folder / ".autoresearch" / "sessions" / "long" / "journal.jsonl").read_text().splitlines()
    last = next(each for each in map(json.loads, reversed(lines)) if each["event"] == "confirmed")
    pair = {side: last[side] for side in ("a", "b")}
    bare = json.dumps({"event": "confirmed", "at": 1795000000, **pair, "means": {"a": 1.8, "b": 1.4}})
    journal.parent.mkdir()
    journal.write_text("\n".join([*lines[:-2], bare]).replace('"tag": "long"', '"tag": "bare"') + "\n")
    assert made.data("bare")["sessions"][0]["confirmation"]["interval"] is None
    assert "Re-measured" in made.report("bare").read_text()
    shutil.rmtree(journal.parent)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("how", "runs", "word"),
    [
        ("confirmed", 2, "repeated"),
        ("confirmed", 1, "exact"),
        ("simplification", 2, "repeated"),
        ("one run", 1, "provisional"),
        ("greedy", 1, "provisional"),
    ],
)
def test_evidence_in_words(how: str, runs: int, word: str) -> None:
    evidence = Evidence(how, 1.0, runs, 1.1, 3, 0.1, 0.0, None)
    assert evidence_words(4, evidence).startswith(word)
    assert evidence_words(4, None).startswith("provisional")


@pytest.mark.quick
def test_the_range_shows_what_is_interesting() -> None:
    best = [2.5, 1.81, 1.80, 1.795, 1.793]
    low, high = scale.interesting(best, [*best, 1.82, 9.0], 0.001, down=True)
    assert 1.7 < low < 1.793
    assert 1.82 < high < 2.0
    assert scale.interesting([1.5], [1.5], 0.0, down=True) == pytest.approx((1.5, 1.5), rel=1e-3)
    low, high = scale.interesting([1.5], [1.5, 1.6, 1.61, 1.62, 1.63, 8.0], 0.0, down=True)
    assert low < 1.5
    assert 1.6 < high < 2.0
    assert scale.interesting([5.0, 7.0], [5.0, 6.0, 7.0, -90.0], 0.0, down=False)[0] > 3
    assert scale.written(scale.ticks(1.7, 1.8, 5)) == ["1.70", "1.75", "1.80"]


@pytest.mark.quick
@pytest.mark.parametrize(
    "ends", [(1.9e-13, 2.1e-13), (-3e-15, 4e-15), (0.0, 3e-5), (1.7, 1.7 + 1e-11), (1e-300, 2e-300), (2e9, 2e9 + 1e-2)]
)
def test_ticks_of_any_size_differ(ends: tuple[float, float]) -> None:
    values = scale.ticks(*ends, 6)
    assert len(values) > 2
    assert len(set(scale.written(values))) == len(values)
    assert all(ends[0] <= value <= ends[1] for value in values[1:-1])
    low, high = scale.interesting([ends[0]], [ends[0], *[ends[0] * (1 + 3e-16)] * 2], 0.0, down=False)
    assert low < high


def test_metric_near_zero_is_reported(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("{loss:.6f}", "{2e-13 * loss:.20f}"))
    commit_all(quick, "tiny")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3", AUTORESEARCH_REPORT="1")
    assert done.returncode == 0, done.stderr
    assert "e-13" in done.stdout
    assert "e-13" in (quick / ".autoresearch/sessions/t/report/progress.svg").read_text()
    assert "0.000000" not in cli(quick, "status").stdout


def test_session_survives_a_page_that_cannot_be_drawn(quick: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # as if it were not installed
    run = ("run", "--tag", "t", "--max-experiments", "3")
    done = cli(quick, *run, AUTORESEARCH_REPORT="1", AUTORESEARCH_CONFIRM="1")
    assert done.returncode == 0, done.stderr
    assert "the report was not written: ModuleNotFoundError" in done.stderr
    assert "confirmed" in done.stdout


@pytest.mark.parametrize(
    ("runs", "noise", "says", "drawn"),
    [
        ("2", None, "The noise is unknown.", "not known yet"),
        ("3", 0.0, "Runs are deterministic", "none, runs are deterministic"),
    ],
)
def test_noise_is_shown_once_it_is_known(
    quick: Path, cli: Cli, runs: str, noise: float | None, says: str, drawn: str
) -> None:
    done = cli(quick, "run", "--tag", "t", "--baseline-runs", runs, "--max-experiments", "0")
    assert ("noise     none, runs are deterministic" in done.stdout) == (noise == 0.0), done.stdout
    assert json.loads(cli(quick, "status", "--json").stdout)["data"]["noise"] == noise
    shown = in_terminal(quick, "status")[1]
    assert drawn in shown
    assert "standard deviation" not in done.stdout + shown
    assert cli(quick, "report").returncode == 0
    page = (quick / ".autoresearch/sessions/t/report/index.html").read_text()
    assert says in page
    assert "No idea was tried." in page
    assert "Every idea was kept" not in page


def test_noise_that_a_verdict_only_guessed_is_unknown(quick: Path, cli: Cli) -> None:
    agent = ("--proposer", "command", "--agent-cmd", "sed -i 's/^DEPTH = 4 /DEPTH = 1 /' train.py")
    flags = ("--tag", "t", "--baseline-runs", "1", "--max-experiments", "1", "--no-confirm", *agent)
    assert cli(quick, "run", *flags).returncode == 0
    for command in ("status", "report"):
        data = json.loads(cli(quick, command, "--json").stdout)["data"]
        assert data.get("sessions", [data])[0]["noise"] is None


def test_clone_without_commits_of_the_session_says_so(quick: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "3").returncode == 0
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--single-branch", "--branch", "main", f"file://{quick}", str(clone))
    shutil.copytree(quick / ".autoresearch/sessions", clone / ".autoresearch/sessions")
    assert cli(clone, "report", "--tag", "t").returncode == 0
    page = (clone / ".autoresearch/sessions/t/report/index.html").read_text()
    assert "The commits are not in this repository." in page
    assert "The best is the baseline" not in page


def test_compared_sessions_show_the_gain_of_held_out_runs(made: Made) -> None:
    about = made.data("night")["sessions"][0]
    journal = journal_path(made.folder, "sure")
    JournalBuilder("sure", about["rows"][0]["commit"], about["best_commit"]).baseline().keep().confirmed().save(journal)
    html = made.report("night", "sure").read_text()
    sure = made.data("night", "sure")["sessions"][1]
    row = next(each for each in re.findall(r"<tr>.*?</tr>", html) if ">sure<" in each)
    assert "confirmed" in row
    assert f">{figure(sure['confirmation']['gain'], 1.0, '+')}<" in row
    assert sure["gain"] != pytest.approx(sure["confirmation"]["gain"], abs=1e-5)
    shutil.rmtree(journal.parent)


@pytest.mark.quick
def test_diff_aligns_changed_lines() -> None:
    rows = list(sidebyside.rows("a = 1\nb = 2\nc\n", "a = 1\nb = 3\nc\nd\n"))
    assert [row.kind for row in rows] == ["same", "changed", "same", "added"]
    assert rows[1].left
    assert rows[1].right
    assert [text for text, differs in rows[1].right.pieces if differs] == ["3"]
    moved = list(sidebyside.rows("RATE = 0.1  # search\n", "# a remark\n\nRATE = 0.4  # search\n"))
    assert [row.kind for row in moved] == ["added", "added", "changed"]
    assert len(list(sidebyside.rows("x\n" * 200, "\n".join(map(str, range(200)))))) == 400


POINTS = "[...document.querySelectorAll('figure.chart svg')].filter(s => s.getBoundingClientRect().width).at(0)"


@needs_browser
def test_page_works_in_browser(made: Made, page: Page) -> None:
    page.open(made.report("long"))
    assert page.run(f"{POINTS}.querySelectorAll('.pt').length") == LONG + 1
    assert (
        page.run("document.title") == "long · val_bpb · autoresearch"
    )  # not the title that a description tries to set
    at = page.run(
        "(() => { const p = document.querySelector('.wide .pt[data-n=\"500\"]'); p.scrollIntoView({block: 'center'});"
        "const b = p.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    assert page.run("document.querySelector('.tip').hidden")
    page.move(*at)
    tip = page.run("document.querySelector('.tip').innerText")
    row = made.data("long")["sessions"][0]["rows"][500]
    assert f"#500 {row['status']}" in tip
    assert row["description"] in tip
    assert row["commit"][:7] in tip
    # From the keyboard: the slider below the chart.
    page.run("document.querySelector('.scrub input').focus()")
    page.press("Home", 36)
    page.press("ArrowRight", 39)
    assert page.run("document.querySelector('.tip').innerText").startswith("#1 ")
    for _ in range(2):
        page.press("ArrowRight", 39)
    assert HOSTILE.split(" ")[0] in page.run("document.querySelector('.tip').innerText")
    page.press("Escape", 27)
    assert page.run("document.querySelector('.tip').hidden")
    assert page.pdf().startswith(b"%PDF")
    assert page.console == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert len([url for url in page.requests if url.startswith("file:")]) == 1


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_diff_is_legible(made: Made, page: Page, dark: bool) -> None:
    page.open(made.report("night"), dark=dark)
    assert "RATE = 0.4" in page.run("document.querySelector('.diff .changed .right').innerText")
    assert "# <b>" in page.run("[...document.querySelectorAll('.diff .added')].map(e => e.innerText).join(' ')")
    for selector in (
        ".diff .changed .left",
        ".diff .changed .right",
        ".diff .changed .right mark",
        ".note",
        "svg .tick",
    ):
        assert page.run(CONTRAST % selector) >= 4.5, selector
    assert page.run("document.querySelector('.diff .row.changed').getBoundingClientRect().width") > 600


# Contrast ratio by WCAG between the text of an element and the nearest background.
CONTRAST = """(() => {
  const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => numbers(c).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const element = document.querySelector('%s'), style = getComputedStyle(element);
  const text = light(element instanceof SVGElement ? style.fill : style.color);
  let behind = element;
  while (behind && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const ground = light(getComputedStyle(behind || document.documentElement).backgroundColor);
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
})()"""


@needs_browser
@pytest.mark.parametrize("tags", [("long",), ("night", "long")], ids="-".join)
def test_page_fits_a_phone(made: Made, page: Page, tags: tuple[str, ...]) -> None:
    page.open(made.report(*tags), width=390, height=844)
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run("getComputedStyle(document.querySelector('.narrow')).display") == "block"
    where = "document.querySelector('figure[data-key] .narrow svg')"
    page.run(f"{where}.scrollIntoView({{block: 'center'}})")
    box = page.run(f"(() => {{ const b = {where}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()")
    page.touch(box[0] + box[2] / 2, box[1] + box[3] / 2)
    assert page.run("document.querySelector('.tip').innerText").startswith("#")
    inside = page.run(
        "(() => { const b = document.querySelector('.tip').getBoundingClientRect(); return [b.left, b.right] })()"
    )
    assert inside[0] >= 0
    assert inside[1] <= 390
    page.lift()
    assert page.console == []


@needs_browser
def test_sessions_are_compared_on_one_page(made: Made, page: Page) -> None:
    page.open(made.report("night", "long"))
    assert page.run("document.querySelectorAll('article').length") == 2
    assert page.run("document.querySelector('header table tbody').rows.length") == 2
    assert page.run("document.querySelectorAll('header .wide svg path[class^=line-]').length") == 2
    assert page.run("document.querySelector('.warn')") is None
    assert page.console == []
