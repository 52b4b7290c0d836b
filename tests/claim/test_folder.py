"""The folder of a claim is a stranger's: nothing in it is followed, waited for, or read without a bound."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.claim.folder import read_claim
from agent.errors import UsageError
from tests.common import claims


def huge(claim: Path) -> None:
    (claim / "claim.json").unlink()
    with (claim / "claim.json").open("wb") as file:
        file.truncate(2**30)


def linked(claim: Path) -> None:
    shutil.move(claim / "claim.json", claim / "other.json")
    (claim / "claim.json").symlink_to("other.json")


def linked_logs(claim: Path) -> None:
    shutil.move(claim / "logs", claim.parent / "elsewhere")
    (claim / "logs").symlink_to(claim.parent / "elsewhere")


def piped(claim: Path) -> None:
    (claim / "logs" / "a-1.log").unlink()
    os.mkfifo(claim / "logs" / "a-1.log")


def large_log(claim: Path) -> None:
    (claim / "logs" / "a-1.log").write_bytes(b"x" * (2**20 + 1))


def large_bundle(claim: Path) -> None:
    with (claim / "commits.bundle").open("r+b") as file:
        file.truncate(2**28 + 1)


def write(text: str) -> Callable[[Path], object]:
    return lambda claim: (claim / "claim.json").write_text(text)


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    return lambda claim: claims.edit(claim, change)


def in_runs(name: str, value: float) -> Callable[[Path], object]:
    def change(content: dict[str, Any]) -> None:
        for run in content["runs"]["a"]:
            run[name] = value

    return edited(change)


def doubled(claim: Path) -> None:
    text = (claim / "claim.json").read_text()
    (claim / "claim.json").write_text(text.replace('"version": 1,', '"version": 1, "version": 1,', 1))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a gigabyte": (huge, "claim.json: it is larger than 4 MiB"),
    "a link": (linked, "claim.json: it is a link"),
    "a folder that is a link": (linked_logs, "logs: it is a link"),
    "a pipe": (piped, "logs/a-1.log not found"),
    "a large log": (large_log, "logs/a-1.log: it is larger than 1 MiB"),
    "a large bundle": (large_bundle, "commits.bundle: it is larger than 256 MiB"),
    "nothing": (lambda claim: (claim / "claim.json").unlink(), "is not a claim: claim.json not found"),
    "no log": (lambda claim: (claim / "logs/b-1.log").unlink(), "logs/b-1.log not found"),
    "nested JSON": (write("[" * 100_000), "claim.json is not valid: "),
    "deep JSON": (write('{"a":' * 900 + "1" + "}" * 900), "claim.json is not valid: "),
    "not JSON": (write("no"), "claim.json is not valid: "),
    "a list": (write("[]"), "claim.json is not valid: "),
    "a field twice": (doubled, "claim.json is not valid: a field occurs twice"),
    "an unknown field": (edited(lambda content: content.update(more=1)), "claim.json is not valid: more: unknown"),
    "not a number": (
        edited(lambda content: content["confirmation"].update(gain=float("nan"))),  # type: ignore[attr-defined]
        "claim.json is not valid: confirmation.gain",
    ),
    "a path": (
        edited(lambda content: content["runs"]["a"][0].update(log="logs/../../../etc/passwd")),  # type: ignore[index]
        "claim.json is not valid: runs.a.0.log",
    ),
    "a log twice": (
        edited(lambda content: content["runs"]["a"][0].update(log="logs/b-1.log")),  # type: ignore[index]
        "claim.json names a log twice",
    ),
    "a commit that is an option": (
        edited(lambda content: content["commits"].update(best="--upload-pack=touch x")),  # type: ignore[attr-defined]
        "claim.json is not valid: commits.best",
    ),
    "text for a number": (
        edited(lambda content: content.update(training_seconds="300")),
        "claim.json is not valid: training_seconds",
    ),
    "a metric without squares": (in_runs("metric", 1.7e308), "claim.json is not valid: runs.a.0.metric"),
    "scores without squares": (in_runs("holdout", -1.7e308), "runs.a.0.holdout: must be at least -1e+100"),
    "no protocol": (lambda claim: (claim / "protocol.json").write_text("{}"), "protocol.json is not valid: "),
}


@pytest.mark.parametrize("what", BROKEN)
def test_folder_that_is_no_claim_is_refused_in_one_sentence(claim: Path, what: str) -> None:
    change, words = BROKEN[what]
    change(claim)
    with pytest.raises(UsageError) as caught:
        read_claim(claim)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert "\n" not in str(caught.value)


def test_whole_claim_is_read(claim: Path) -> None:
    evidence = read_claim(claim)
    assert evidence.claim.tag == "t"
    assert {*evidence.logs} == {f"logs/{side}-{number}.log" for side in "ab" for number in (1, 2, 3)}


def test_name_that_is_too_long_is_no_claim(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read .*: File name too long$"):
        read_claim(tmp_path / ("x" * 300))
