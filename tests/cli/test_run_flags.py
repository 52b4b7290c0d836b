"""A session keeps its flags, so that resuming it needs only the tag."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli.run_config import KEPT, config_of
from agent.cli.run_flags import EndFlags, MeasureFlags, ProposerFlags, RunFlags, SessionFlags, TellFlags
from agent.decision.limits import Limits
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.workspaces import Cli, git


def session(folder: Path, cli: Cli, *args: str, code: int = 0, **env: str) -> str:
    done = cli(folder, "run", "--tag", "t", *args, **env)
    assert done.returncode == code, done.stderr
    return done.stderr


def flags(folder: Path) -> dict[str, Any]:
    return dict(fold(journal_path(folder, "t")).flags)


def journal_events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_path(folder, "t").read_text().splitlines()]


def test_resume_needs_only_tag(quick: Path, cli: Cli) -> None:
    other = shutil.copytree(quick, quick.parent / "other")
    kept = ("--training-seconds", "20", "--seed", "7", "--verdict", "greedy", "--no-prune", "--baseline-runs", "3")
    session(quick, cli, *kept, "--max-experiments", "2")
    said = session(quick, cli, "--max-experiments", "3")
    assert "is now" not in said
    found = {"training_seconds": 20, "seed": 7, "verdict": "greedy", "prune": False, "baseline_runs": 3}
    assert flags(quick) == found
    whole = [e.description for e in fold(journal_path(quick, "t")).experiments]
    # The same as one session that was given everything at once.
    session(other, cli, *kept, "--max-experiments", "3")
    assert [e.description for e in fold(journal_path(other, "t")).experiments] == whole


def test_resume_at_the_end_has_the_limits_that_are_left(quick: Path, cli: Cli) -> None:
    begun = datetime.now()
    limits = ("--max-experiments", "0", "--max-hours", "5", "--patience", "50", "--target", "-1e-7")
    done = cli(quick, "run", "--tag", "t", *limits, "--verdict", "greedy")
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("resume"))
    assert command[:4] == ["autoresearch", "run", "--tag", "t"]
    left = dict(zip(command[4::2], command[5::2], strict=True))
    until = datetime.fromisoformat(left.pop("--until"))
    assert begun + timedelta(hours=4, minutes=58) < until <= datetime.now() + timedelta(hours=5)
    assert left == {"--patience": "50", "--target": "-1e-07"}
    again = cli(quick, *command[1:], "--max-experiments", "1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "value"),
    [
        *((("run", "--tag", "t", "--max-experiments", "0", "--target"), value) for value in ("nan", "inf", "-inf")),
        *(
            ((*command, "--training-seconds"), "inf")
            for command in (["run", "--tag", "t", "--dry-run"], ["baseline"], ["init"])
        ),
        (("run", "--tag", "t", "--max-hours"), "nan"),
    ],
)
def test_number_that_limits_nothing_is_refused(quick: Path, cli: Cli, command: Sequence[str], value: str) -> None:
    done = cli(quick, *command, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {command[-1]} must be " in done.stderr
    assert f", got {value}" in done.stderr
    assert not (quick / ".autoresearch").exists()


@pytest.mark.parametrize(
    ("flag", "value", "bound"),
    [
        ("--max-hours", "8785", "at most 8784"),
        ("--max-hours", "1e306", "at most 8784"),
        ("--training-seconds", "1e9", "a number below 1000000000"),
        ("--max-memory-gb", "1e300", "a number below 1000000000"),
        ("--max-cost", "1e9", "a number below 1000000000"),
        ("--agent-timeout", "1e9", "a number below 1000000000"),
        ("--agent-cmd", "x" * 10_000, "fewer than 10000 characters"),
    ],
)
def test_flag_that_no_session_keeps_is_refused(quick: Path, cli: Cli, flag: str, value: str, bound: str) -> None:
    """A later start would go on without it."""
    done = cli(quick, "run", "--tag", "t", "--agent-cmd", "true", "--dry-run", flag, value)
    assert done.returncode == 2
    assert f"error: {flag} must " in done.stderr
    assert bound in done.stderr
    assert "Traceback" not in done.stderr


def test_infinite_training_seconds_of_the_environment_are_refused(quick: Path, cli: Cli) -> None:
    done = cli(quick, "try", AUTORESEARCH_TRAINING_SECONDS="inf")
    assert done.returncode == 2
    assert "error: AUTORESEARCH_TRAINING_SECONDS must be a finite number, got inf" in done.stderr


@pytest.mark.parametrize("flag", [(), ("--detach",), ("--dry-run",), ("--at-login",)])
def test_date_that_is_over_is_refused_before_anything_is_made(quick: Path, cli: Cli, flag: Sequence[str]) -> None:
    for text in ("2020-01-01T07:00", "2020-01-01 07:00:00+01:00"):
        done = cli(quick, "run", "--tag", "t", "--until", text, *flag)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"error: --until {text} is in the past\nhint: " in done.stderr
    assert not (quick / ".autoresearch").exists()
    assert git(quick, "branch", "--list", "autoresearch/*") == ""


def test_end_says_its_date_unless_the_time_of_day_is_clear() -> None:
    now = datetime.now()
    for distance in (timedelta(hours=1), timedelta(hours=23), timedelta(0)):
        then = now + distance
        assert Limits(until=then.timestamp()).words() == f"at {then:%H:%M}"
    for distance in (timedelta(days=3), timedelta(days=-3)):
        then = now + distance
        assert Limits(until=then.timestamp()).words() == f"at {then:%Y-%m-%d %H:%M}"


def test_infinite_hours_are_no_limit(quick: Path, cli: Cli) -> None:
    said = cli(quick, "run", "--tag", "t", "--max-hours", "inf", "--max-experiments", "1")
    assert said.returncode == 0
    assert "inf" not in said.stderr


def test_limits_belong_to_each_start(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--max-experiments", "1", "--patience", "50")
    assert "max_experiments" not in flags(quick)
    session(quick, cli, "--max-experiments", "3")
    assert len(fold(journal_path(quick, "t")).experiments) == 4


def test_changed_flag_is_announced_and_kept(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--seed", "1", "--verdict", "greedy", "--max-experiments", "1")
    said = session(quick, cli, "--seed", "2", "--max-experiments", "2")
    assert "--seed is now 2; it was 1" in said
    assert "is now" not in session(quick, cli, "--max-experiments", "3")
    assert flags(quick) == {"seed": 2, "verdict": "greedy"}


def test_new_proposer_replaces_old_one(quick: Path, cli: Cli) -> None:
    agent = "sed -i 's/^RATE = 0.1 /RATE = 0.2 /' train.py # {prompt_file}"
    session(quick, cli, "--proposer", "command", "--agent-cmd", agent, "--max-experiments", "1")
    said = session(quick, cli, "--proposer", "search", "--max-experiments", "2")
    assert "--proposer is now search" in said
    assert "no longer applies" in said
    assert flags(quick) == {"proposer": "search"}
    assert [e.proposer for e in fold(journal_path(quick, "t")).experiments] == ["baseline", "command", "search"]


def test_cap_on_cost_goes_with_its_model(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--max-experiments", "1")
    path = journal_path(quick, "t")
    lines = path.read_text().splitlines()
    kept = {"model": "openai:any", "max_cost": 5.0, "max_cost_per_experiment": 1.0}
    first = {**json.loads(lines[0]), "flags": kept}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    said = session(quick, cli, "--proposer", "search", "--max-cost", "4", code=2)
    assert "--max-cost needs --model" in said
    said = session(quick, cli, "--proposer", "search", "--max-experiments", "2")
    assert "--max-cost 5.0 no longer applies" in said
    assert flags(quick) == {"proposer": "search"}


def test_changed_budget_is_refused(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--training-seconds", "20", "--max-experiments", "1")
    said = session(quick, cli, "--training-seconds", "30", code=3)
    assert "training_seconds was 20" in said
    session(quick, cli, "--max-experiments", "2")


def test_variables_count_as_flags(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--max-experiments", "1", AUTORESEARCH_TRAINING_SECONDS="20")
    session(quick, cli, "--max-experiments", "2")
    assert flags(quick) == {"training_seconds": 20}


def test_older_session_keeps_budget_and_seed(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--training-seconds", "20", "--seed", "5", "--max-experiments", "1")
    path = journal_path(quick, "t")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        event.pop("flags", None)
        event.pop("left", None)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    session(quick, cli, "--max-experiments", "2")
    assert flags(quick) == {"training_seconds": 20, "seed": 5}


def test_budget_is_that_of_the_measurements(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--training-seconds", "20", "--max-experiments", "1")
    path = journal_path(quick, "t")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({**line, **({"flags": {}} if "flags" in line else {})}) + "\n" for line in lines)
    )
    session(quick, cli, "--max-experiments", "2")
    assert "training_seconds was 20" in session(quick, cli, "--training-seconds", "30", code=3)
    assert cli(quick, "confirm").returncode == 0
    assert cli(quick, "ablate").returncode == 0


def test_confirm_confines_runs_as_the_session_does(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--sandbox", "off", "--verdict", "greedy", "--max-experiments", "4", "--no-confirm")
    assert cli(quick, "confirm").returncode == 0
    compared = [line for line in journal_events(quick) if line["event"] == "compared"]
    assert compared
    assert all(line["unconfined"] for line in compared)


def test_nonsensical_journal_flags_are_ignored(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--seed", "1", "--max-experiments", "1")
    path = journal_path(quick, "t")
    strange = {"seed": "many", "verdict": "coin", "share": -1, "unheard": 1, "max_cost": True}
    lines = path.read_text().splitlines()
    first = {**json.loads(lines[0]), "flags": strange}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    session(quick, cli, "--max-experiments", "2")
    assert flags(quick) == {}


def test_inf_takes_a_limit_back(quick: Path, cli: Cli) -> None:
    session(quick, cli, "--max-memory-gb", "8", "--max-experiments", "1")
    assert flags(quick) == {"max_memory_gb": 8}
    said = session(quick, cli, "--max-memory-gb", "inf", "--max-experiments", "2")
    assert "--max-memory-gb is now inf" in said
    assert flags(quick) == {}


@pytest.mark.parametrize("flag", ["--share=0.5", "--fallback-after=10", "--model-timeout=5", "--agent-timeout=5"])
def test_ineffective_flag_is_refused(quick: Path, cli: Cli, flag: str) -> None:
    done = cli(quick, "run", "--tag", "t", flag, "--dry-run")
    assert done.returncode == 2
    assert "needs --model or --agent" in done.stderr
    agent = ("--agent-cmd", "true # {prompt_file}")
    assert cli(quick, "run", "--tag", "t", flag, *agent, "--dry-run").returncode == 0


def test_certificates_are_found_by_a_start_elsewhere(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start at login does not happen in the folder where the command was typed."""
    monkeypatch.chdir(tmp_path)
    measure = MeasureFlags(scheduler="studio.local", tls="fleet")
    given = RunFlags(SessionFlags("t"), EndFlags(), ProposerFlags(), measure, TellFlags())
    found = config_of(quick, given, {*KEPT} - {"scheduler", "tls"})
    assert found.kept == {"scheduler": "studio.local", "tls": str(tmp_path / "fleet")}
    assert found.stations is not None
    assert found.stations.tls == tmp_path / "fleet"
