"""Sessions with a playbook: what they try first, what they add at the end, and what happens to a person's edits."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.playbook.entries import parse
from tests.common.in_process import call
from tests.common.processes import deadly_git
from tests.common.sessions import assert_consistent, events, journal, keep_in_turn
from tests.common.workspaces import ROOT, Cli, commit_all, git, set_protocol

BOOK = """# Playbook

## Deeper

- what: more layers
- turns: DEPTH up
- effect: 5 %
- source: a record

## Slower

- what: a lower rate
- turns: RATE down
- effect: 2 %

## In code

- what: another activation
- effect: 1 %
"""
CHANGES = ("s/^RATE = 0.1 /RATE = 0.3 /", "s/^DEPTH = 4 /DEPTH = 6 /")


@pytest.fixture
def booked(quick: Path) -> Path:
    """The quick workspace with a committed playbook."""
    (quick / "playbook.md").write_text(BOOK)
    commit_all(quick, "playbook", "playbook.md")
    return quick


def run(folder: Path, *args: str, tag: str = "t", count: int = 3, code: int = 0) -> str:
    flags = ("--max-experiments", str(count), "--no-report", "--no-keep-awake", "--sandbox", "off")
    done = call(folder, "run", "--tag", tag, *flags, *args)
    assert done.returncode == code, done.stderr
    return done.stderr


def listed(folder: Path, *args: str) -> dict[str, Any]:
    done = call(folder, "playbook", "--json", *args)
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


def keeps(folder: Path, tag: str = "t") -> list[tuple[int, str]]:
    return [(e.number, e.commit) for e in fold(journal_path(folder, tag)).experiments[1:] if e.verdict.status == "keep"]


def assert_one_entry_each(folder: Path, at: str = "HEAD") -> None:
    text = git(folder, "show", f"{at}:playbook.md")
    found = keeps(folder)
    assert found
    for number, commit in found:
        assert text.count(f"session t, experiment #{number}, commit {commit[:12]}") == 1


def test_search_tries_the_entries_first_and_cites_them(booked: Path) -> None:
    run(booked)
    proposed = events(booked, "proposed")[1:]
    assert [each.get("playbook", "") for each in proposed] == ["Deeper", "Slower", ""]
    assert [each["description"] for each in proposed[:2]] == ["DEPTH 4 -> 5", "RATE 0.1 -> 0.0667"]
    assert_consistent(booked)
    states = {each["title"]: each for each in listed(booked)["entries"]}
    assert [states[title]["state"] for title in ("Deeper", "Slower", "In code")] == ["tried", "tried", "untried"]
    trial = states["Deeper"]["trials"][0]
    assert (trial["tag"], trial["number"], trial["status"]) == (None, 1, "keep")
    assert trial["gain"] > 0
    shown, row = call(booked, "playbook").stdout, call(booked, "status").stdout
    assert "#1 keep +0.25" in shown
    # The same gain as in every other view, and positive is better.
    for number in (1, 2):
        (by,) = re.findall(rf"#{number} \w+ ([+-][\d.]+)", shown)
        assert by in next(line for line in row.splitlines() if f"#{number} " in line and "->" in line)
    assert "3 entries, 1 not tried in session t" in shown


def test_turn_that_its_constant_cannot_have_is_named(booked: Path) -> None:
    (booked / "playbook.md").write_text(BOOK.replace("RATE down", "RATE half"))
    note = "playbook.md, line 10: RATE is a number, so `RATE half` turns nothing"
    assert note in run(booked, count=1)
    assert note in listed(booked)["notes"]


def test_second_session_does_not_try_them_again(booked: Path) -> None:
    run(booked)
    git(booked, "checkout", "--quiet", "main")
    run(booked, tag="u", count=2)
    assert [each.playbook for each in fold(journal_path(booked, "u")).experiments] == [""] * 3
    states = {each["title"]: each for each in listed(booked, "--tag", "u")["entries"]}
    assert ("t", 1) in [(each["tag"], each["number"]) for each in states["Deeper"]["trials"]]
    git(booked, "checkout", "--quiet", "main")
    run(booked, "--fresh", tag="v", count=1)
    assert fold(journal_path(booked, "v")).experiments[1].playbook == "Deeper"


def test_session_without_a_playbook_adds_none(quick: Path) -> None:
    run(quick, "--confirm")
    assert events(quick, "confirmed")
    assert events(quick, "extended") == []
    assert not (quick / "playbook.md").exists()
    assert "playbook" not in json.dumps(journal(quick))
    assert listed(quick)["exists"] is False
    assert "this workspace has no playbook.md" in call(quick, "playbook").stdout
    assert_consistent(quick)


def test_session_adds_what_held_out_runs_confirm(booked: Path) -> None:
    said = run(booked, "--confirm", count=6)
    assert_consistent(booked)
    assert_one_entry_each(booked)
    numbers = [number for number, _ in keeps(booked)]
    assert [each["entries"] for each in events(booked, "extended")] == [numbers]
    assert f"added {', '.join(f'#{n}' for n in numbers)} to playbook.md on autoresearch/t" in said
    text = (booked / "playbook.md").read_text()
    assert text.startswith(BOOK)
    entry = next(each for each in parse(text).entries if each.title == "Deeper (t #1)")
    assert entry.what == 'as in "Deeper": DEPTH 4 -> 5'
    assert entry.gain == pytest.approx(14.4)
    assert "val_bpb 1.732 -> 1.482" in entry.effect
    assert "95 % interval" in entry.effect
    assert "confirmed by 3 and 3 held-out runs" in entry.effect
    assert "chip" in entry.where
    # Only what the best still has may be turned by the next session.
    best = fold(journal_path(booked, "t")).incumbent
    assert best is not None
    added = [each for each in parse(text).entries if each.title.endswith(")")]
    assert len(added) == len(numbers)
    assert all(best.parameters[turn.name] == turn.value for each in added for turn in each.turns)
    # One commit of the program, with no other file.
    assert git(booked, "show", "--format=%s", "--name-only", "HEAD").split("\n\n")[1] == "playbook.md"
    # The branch is still the best, for commands that compare commits.
    assert "the same program" in call(booked, "confirm", "best", "autoresearch/t").stderr


def test_resumed_session_adds_only_what_is_new(booked: Path) -> None:
    run(booked, "--confirm", count=1)
    run(booked, "--confirm", count=1)
    assert len(events(booked, "extended")) == 1
    run(booked, "--confirm", count=6)
    assert_one_entry_each(booked)
    first, second = (each["entries"] for each in events(booked, "extended"))
    assert not {*first} & {*second}
    assert_consistent(booked)


def test_deleted_entry_is_not_added_again(booked: Path) -> None:
    run(booked, "--confirm", count=1)
    (booked / "playbook.md").write_text(BOOK)
    run(booked, "--confirm", count=1)
    assert (booked / "playbook.md").read_text() == BOOK
    assert len(events(booked, "extended")) == 1


def test_gain_that_is_not_confirmed_says_so(booked: Path) -> None:
    """Its gain is that of one seed, and held-out runs have others."""
    text = (booked / "train.py").read_text().replace("RATE = 0.1", "SEED = 42  # search: off\nRATE = 0.1", 1)
    lucky = 'loss = 1.5 - (0.5 if SEED == 42 and DEPTH != 4 else 0.0) + 0.001 * DEPTH\nprint("---")'
    (booked / "train.py").write_text(text.replace('print("---")', lucky))
    git(booked, "commit", "--quiet", "-am", "one seed")
    run(booked, "--confirm", count=1)
    assert events(booked, "confirmed")[0]["verdict"] != "confirmed"
    assert_one_entry_each(booked)
    (added,) = [each for each in parse((booked / "playbook.md").read_text()).entries if "(t #1)" in each.title]
    assert added.effect.startswith("not confirmed: ")
    assert "held-out runs say" in added.effect
    assert (added.turns, added.gain) == ((), None)


def test_uncommitted_edit_neither_blocks_nor_is_lost(booked: Path) -> None:
    mine = BOOK + "\n## Mine\n\n- what: an idea of mine\n- turns: WIDTH up\n- effect: 50 %\n"
    (booked / "playbook.md").write_text(mine)
    said = run(booked, "--confirm", count=2)
    assert events(booked, "proposed")[1]["playbook"] == "Mine"
    assert (booked / "playbook.md").read_text() == mine
    assert_one_entry_each(booked)
    assert "playbook.md has uncommitted changes, which are left alone" in said
    run(booked, "--confirm", count=2)  # and it does not block the next start
    assert (booked / "playbook.md").read_text() == mine
    done = call(booked, "playbook", "--add", "t")
    assert done.returncode == 0, done.stderr
    assert "of session t to playbook.md" in done.stdout
    both = (booked / "playbook.md").read_text()
    assert both.startswith(mine)
    assert both.removeprefix(mine) == git(booked, "show", "HEAD:playbook.md").removeprefix(BOOK.strip() + "\n") + "\n"
    assert "has an entry for each change" in call(booked, "playbook", "--add", "t").stdout
    assert (booked / "playbook.md").read_text() == both
    assert "no uncommitted changes but those of playbook.md" in call(booked, "doctor").stdout


def test_edit_on_another_branch_goes_along_or_is_refused_in_a_sentence(booked: Path) -> None:
    run(booked, count=1)
    git(booked, "checkout", "--quiet", "main")
    mine = BOOK.replace("5 %", "6 %")
    (booked / "playbook.md").write_text(mine)
    run(booked, "--confirm", count=2)
    assert git(booked, "symbolic-ref", "--short", "HEAD") == "autoresearch/t"
    assert (booked / "playbook.md").read_text() == mine
    git(booked, "checkout", "--quiet", "--", "playbook.md")
    git(booked, "checkout", "--quiet", "main")
    (booked / "playbook.md").write_text(mine)  # now the branches differ there
    assert "uncommitted changes (playbook.md)" in run(booked, count=3, code=3)
    assert (booked / "playbook.md").read_text() == mine


def test_untracked_playbook_is_told_and_never_committed(quick: Path) -> None:
    (quick / "playbook.md").write_text(BOOK)
    said = run(quick, "--confirm", count=2)
    assert events(quick, "proposed")[1]["playbook"] == "Deeper"
    assert "git does not track playbook.md: add what the session found with `autoresearch playbook --add t`" in said
    assert (quick / "playbook.md").read_text() == BOOK
    assert git(quick, "ls-files", "playbook.md") == ""
    assert call(quick, "playbook", "--add", "t").returncode == 0
    assert len(parse((quick / "playbook.md").read_text()).entries) == 3 + len(keeps(quick))


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("# Ansible playbook\n\n## Deploy\n\nRun it.\n", {}),
        (BOOK, {"mutableSurface": {"allowedGlobs": ["train.py", "*.md"], "allowedKinds": ["code_edit"]}}),
        (BOOK, {"immutableHarness": {"paths": ["prepare.py", "playbook.md"], "rationale": "it is read"}}),
    ],
)
def test_file_of_another_purpose_stays_as_it_is(quick: Path, text: str, protocol: dict[str, Any]) -> None:
    (quick / "playbook.md").write_text(text)
    git(quick, "add", "playbook.md")
    set_protocol(quick, **protocol)
    run(quick, "--confirm", count=2)
    assert events(quick, "confirmed")
    assert events(quick, "extended") == []
    assert git(quick, "show", "HEAD:playbook.md") == text.strip()


def test_full_playbook_is_left_as_it_is(quick: Path) -> None:
    text = "".join(f"## Idea {number}\n- what: x\n" for number in range(200))
    (quick / "playbook.md").write_text(text)
    commit_all(quick, "playbook", "playbook.md")
    assert "nothing was added to playbook.md: playbook.md is full" in run(quick, "--confirm", count=2)
    assert (quick / "playbook.md").read_text() == text


def test_line_ends_and_a_missing_last_one_are_kept(quick: Path) -> None:
    text = b"# Playbook\r\n\r\n## A\r\n- what: x"
    (quick / "playbook.md").write_bytes(text)
    commit_all(quick, "playbook", "playbook.md")
    run(quick, "--confirm", count=2)
    content = (quick / "playbook.md").read_bytes()
    assert content.startswith(text + b"\r\n\r\n## ")
    assert content.count(b"\n") == content.count(b"\r\n")
    assert len(parse(content.decode()).entries) == 1 + len(keeps(quick))


def hostile(folder: Path, kind: str) -> None:
    path = folder / "playbook.md"
    outside = folder.parent / "outside.md"
    outside.write_text(BOOK)
    match kind:
        case "binary":
            path.write_bytes(bytes(range(256)) * 100)
        case "large":
            with path.open("wb") as file:
                file.truncate(50 * 2**20)
        case "link":
            path.symlink_to(outside)
        case "folder":
            path.mkdir()
        case "control":
            path.write_text("## \x1b]0;owned\x07Red \x1b[31m\n- what: \x1b[2J\x9b5n\u202e\n- turns: DEPTH up\n")
        case "title":
            path.write_text(f"## {'x' * 10_000}\n- what: y\n- turns: DEPTH up\n")
        case "many":
            path.write_text("".join(f"## T{number}\n- what: x\n- turns: RATE up\n" for number in range(5000)))


@pytest.mark.parametrize("kind", ["binary", "large", "link", "folder", "control", "title", "many"])
@pytest.mark.parametrize("tracked", [True, False])
def test_hostile_playbook_costs_nothing(quick: Path, kind: str, tracked: bool) -> None:
    hostile(quick, kind)
    if tracked and kind not in ("folder", "large"):
        commit_all(quick, "playbook", "playbook.md")
    before = git(quick, "rev-parse", "HEAD")
    said = run(quick, "--confirm", count=2)
    assert_consistent(quick)
    assert (quick.parent / "outside.md").read_text() == BOOK
    if kind not in ("control", "many", "folder"):
        assert "playbook.md" in said
    if kind not in ("control", "many") or not tracked:
        assert events(quick, "extended") == []
        assert git(quick, "diff", "--stat", before, "HEAD", "--", "playbook.md") == ""
    assert "\x1b" not in said + call(quick, "playbook").stdout
    assert call(quick, "playbook", "--json").returncode == 0
    assert call(quick, "doctor").returncode in (0, 1)


def test_adopt_takes_the_entries_along(booked: Path, cli: Cli) -> None:
    keep_in_turn(booked, cli, *CHANGES)
    assert cli(booked, "confirm").returncode == 0
    git(booked, "switch", "--quiet", "main")
    (booked / "playbook.md").write_text(BOOK.replace("1 %", "3 %"))
    git(booked, "commit", "--quiet", "-am", "mine")
    done = cli(booked, "adopt", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["files"] == ["playbook.md", "train.py"]
    assert_one_entry_each(booked, "main")
    assert git(booked, "show", "main:playbook.md").startswith(BOOK.replace("1 %", "3 %"))
    assert git(booked, "status", "--porcelain", "--untracked-files=no") == ""
    # The session's branch adds them as well, and they are the same.
    run(booked, "--confirm", count=2)
    assert_one_entry_each(booked, "autoresearch/t")
    (first, second) = (git(booked, "show", f"{at}:playbook.md").splitlines() for at in ("main", "autoresearch/t"))
    assert first[-12:] == second[-12:]


def test_adopt_of_one_keep_takes_its_entry_alone(booked: Path, cli: Cli) -> None:
    keep_in_turn(booked, cli, *CHANGES)
    assert cli(booked, "confirm").returncode == 0
    assert cli(booked, "adopt", "2", "--provisional").returncode == 0
    text = git(booked, "show", "main:playbook.md")
    assert "experiment #2," in text
    assert "experiment #1," not in text


def test_adopt_without_a_playbook_takes_the_changes_alone(quick: Path, cli: Cli) -> None:
    keep_in_turn(quick, cli, *CHANGES)
    assert cli(quick, "confirm").returncode == 0
    data = json.loads(cli(quick, "adopt", "--json").stdout)["data"]
    assert (data["files"], data["note"]) == (["train.py"], None)


def test_adopt_says_that_a_full_playbook_gets_no_entry(quick: Path, cli: Cli) -> None:
    (quick / "playbook.md").write_text("".join(f"## Idea {number}\n- what: x\n" for number in range(200)))
    commit_all(quick, "playbook", "playbook.md")
    keep_in_turn(quick, cli, *CHANGES)
    assert "entry" not in cli(quick, "adopt", "1", "--provisional").stdout  # nothing was found yet
    assert cli(quick, "confirm").returncode == 0
    done = cli(quick, "adopt")
    assert done.returncode == 0, done.stderr
    assert "changed train.py\nplaybook.md gets no entry: playbook.md is full" in done.stdout


def test_wrong_uses_of_the_command_are_sentences(booked: Path) -> None:
    for args, code, words in (
        (["--tag", "missing"], 3, "no sessions in"),
        (["--add", "missing"], 3, "no sessions in"),
        (["--add", "t", "--tag", "t"], 2, "mutually exclusive"),
    ):
        done = call(booked, "playbook", *args)
        assert done.returncode == code
        assert words in done.stderr
    run(booked, tag="empty", count=0)
    nothing = call(booked, "playbook", "--add", "empty")
    assert (nothing.returncode, "hint" in nothing.stderr) == (3, False)
    assert "session empty kept nothing better than the baseline, so it has nothing to add" in nothing.stderr
    git(booked, "switch", "--quiet", "main")
    run(booked, count=1)
    assert "no held-out runs of session t" in call(booked, "playbook", "--add", "t").stderr
    run(booked, "--confirm", count=1)
    (booked / "playbook.md").unlink()
    assert "playbook.md not found" in call(booked, "playbook", "--add", "t").stderr
    (booked / "playbook.md").mkdir()
    assert "cannot read playbook.md: it is not a regular file" in call(booked, "playbook", "--add", "t").stderr


def confirmed(folder: Path) -> str:
    """Leave a session with held-out runs whose entries are not added yet. Return the end of its branch."""
    run(folder, "--no-confirm", count=2)
    assert call(folder, "confirm", "--sandbox", "off").returncode == 0
    assert events(folder, "extended") == []
    return git(folder, "rev-parse", "HEAD")


def test_session_confirmed_by_hand_adds_at_its_next_start(booked: Path) -> None:
    before = confirmed(booked)
    run(booked, "--confirm", count=2)
    assert git(booked, "rev-parse", "HEAD^") == before
    assert_one_entry_each(booked)


@pytest.mark.parametrize("checkout", ["before", "after"])
def test_kill_between_the_event_and_the_move_is_finished(booked: Path, checkout: str) -> None:
    before = confirmed(booked)
    run(booked, "--confirm", count=2)
    after = git(booked, "rev-parse", "HEAD")
    git(booked, "update-ref", "refs/heads/autoresearch/t", before)
    if checkout == "before":
        git(booked, "restore", "--source", before, "--staged", "--worktree", "playbook.md")
    run(booked, "--confirm", count=2)
    assert git(booked, "rev-parse", "HEAD") == after
    assert len(events(booked, "extended")) == 1
    assert_one_entry_each(booked)
    assert_consistent(booked)


def test_kill_before_the_event_adds_once(booked: Path) -> None:
    before = confirmed(booked)
    path = journal_path(booked, "t")
    whole = path.read_bytes()
    run(booked, "--confirm", count=2)
    path.write_bytes(whole)  # the commit was made, and nothing else
    git(booked, "reset", "--quiet", "--hard", before)
    run(booked, "--confirm", count=2)
    assert git(booked, "rev-parse", "HEAD^") == before
    assert_one_entry_each(booked)
    assert_consistent(booked)


def test_moved_branch_is_left_where_it_is(booked: Path) -> None:
    confirmed(booked)
    git(booked, "commit", "--quiet", "--allow-empty", "-m", "mine")
    mine = git(booked, "rev-parse", "HEAD")
    run(booked, "--confirm", count=2, code=3)
    assert git(booked, "rev-parse", "HEAD") == mine
    assert (booked / "playbook.md").read_text() == BOOK


@pytest.mark.slow
def test_killed_at_any_call_of_git_nothing_is_lost_or_doubled(booked: Path) -> None:
    """A git that kills the program at its Nth call of those that write: the same command again finishes."""
    before, killed = confirmed(booked), 0
    command = ["run", "--tag", "t", "--max-experiments", "2", "--confirm", "--no-report", "--sandbox", "off"]
    for step in itertools.count(1):
        folder = Path(shutil.copytree(booked, booked.parent / f"killed-{step}", symlinks=True))
        fake = deadly_git(booked.parent / f"bin-{step}", step)
        env = {**os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "agent", *command], cwd=folder, env=env, capture_output=True, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        run(folder, "--confirm", count=2)
        assert git(folder, "rev-parse", "HEAD^") == before
        assert_one_entry_each(folder)
        assert_consistent(folder)
        assert len(events(folder, "extended")) == 1
        if done.returncode == 0:
            break
        killed += 1
    assert killed > 5
