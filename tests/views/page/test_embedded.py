"""The data that the page carries for its script: inert, finite and bounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.views.page import embedded
from agent.views.page.embedded import BUDGET, CAPS, in_html
from tests.common.journals import HOSTILE, JournalBuilder
from tests.common.reports import Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("report") / "workspace")


@pytest.mark.quick
def test_data_cannot_end_its_element() -> None:
    text = in_html({"a": f"</script><!--<script>{HOSTILE}\u2028"})
    assert "<" not in text
    assert json.loads(text)["a"].startswith("</script><!--<script>")
    with pytest.raises(ValueError, match="JSON"):
        in_html({"a": float("nan")})


def test_every_experiment_has_its_record(made: Made) -> None:
    (session,) = embedded.embedded(made.workspace, made.data("long")["sessions"])
    rows = session["rows"]
    assert [row["n"] for row in rows] == list(range(1001))
    assert rows[500]["diff"].startswith("diff --git")
    assert rows[500]["runs"][0][0] == "candidate"
    assert len(rows[500]["c"]["x"]) == 48
    assert rows[500]["c"]["steps"][-1] == 300
    assert rows[500]["c"]["seconds"] == 300.0
    assert rows[0]["diff"] is None
    assert len(in_html(session).encode()) < BUDGET
    assert all(len(row["p"]) == len(session["constants"]) for row in rows)


def test_texts_are_shortened_until_they_fit(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BUDGET", 1_500_000)
    (session,) = embedded.embedded(made.workspace, made.data("long")["sessions"])
    assert len(in_html(session).encode()) < 1_500_000
    short = [row for row in session["rows"] if row["short"]]
    assert short
    assert max(len(row["diff"] or "") for row in short) <= max(CAPS[:-1])
    assert all(row["diff"].splitlines()[-1][0] in " +-@di" for row in short if row["diff"])
    assert all(row["log"].endswith("num_steps: 300") for row in session["rows"])  # logs keep their end


def test_logs_without_a_readable_curve_give_none(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    for text in ("", "no numbers\n", "loss: nan (1%)\nloss: nan (2%)\n", "step 1 (1%) | loss: 3.0\n", "loss " * 1000):
        log.write_text(text)
        assert embedded._curve(log, None, 48) is None, text
    assert embedded._curve(tmp_path / "missing.log", None, 48) is None
    log.write_bytes(b"10% loss: 3.0\r20% loss: 2.5\r\xff\xfe 30% loss: inf\r15% loss: 9\r40% loss: 2.0\n")
    assert embedded._curve(log, 30.0, 48) == {
        "x": [100, 200, 400],
        "y": [3.0, 2.5, 2.0],
        "steps": None,
        "seconds": 30.0,
    }


def test_session_without_logs_and_commits_has_a_page(made: Made) -> None:
    made.folder.joinpath(".autoresearch/sessions/bare").mkdir(exist_ok=True)
    JournalBuilder("bare").baseline().mixed(12).save(made.folder / ".autoresearch/sessions/bare/journal.jsonl")
    (session,) = embedded.embedded(made.workspace, made.data("bare")["sessions"])
    assert {row["diff"] for row in session["rows"]} == {None}
    assert {row["c"] for row in session["rows"]} == {None}
    assert "<h2" in made.report("bare").read_text()
