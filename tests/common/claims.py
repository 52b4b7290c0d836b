"""Claims of the quick workspace, and how a forger would change them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.claim import models
from agent.claim.figures import confirmation_of
from tests.common import schemas
from tests.common.workspaces import ROOT, commit_all, git, make_quick

SEEDED = "import random\n\nSEED = 42  # search: off\nloss += random.Random(SEED).gauss(0, 0.002)\n"
COMMAND = "uv run python -m tests.common.claims"
ENVELOPE = "confirm"  # a schema whose envelope that of `verify` copies


def make_claimed(folder: Path) -> None:
    """Make a workspace `author` with a confirmed session, and its claim in `claim`."""
    author = folder / "author"
    make_quick(author)
    text = (author / "train.py").read_text()
    (author / "train.py").write_text(text.replace('print("---")', f'{SEEDED}print("---")'))
    commit_all(author, "a seed")
    run(author, "run", "--tag", "t", "--max-experiments", "4")
    run(author, "confirm")
    run(author, "claim", "--out", str(folder / "claim"))


def run(folder: Path, *args: str) -> None:
    command = [sys.executable, "-m", "agent", "-C", str(folder), *args]
    env = {**os.environ, "AUTORESEARCH_CONFIRM": "0", "AUTORESEARCH_REPORT": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fresh_clone(author: Path, target: Path) -> Path:
    """Clone what the author published: the main branch alone."""
    git(author, "clone", "--quiet", "--no-local", "--single-branch", "--branch", "main", str(author), str(target))
    git(target, "config", "user.name", "Reader")
    git(target, "config", "user.email", "reader@example.invalid")
    return target


def edit(claim: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change claim.json."""
    content = json.loads((claim / "claim.json").read_bytes())
    change(content)
    (claim / "claim.json").write_text(json.dumps(content))


def forge_runs(claim: Path, a: Sequence[float], b: Sequence[float]) -> None:
    """Replace the metrics of all runs, with logs, hashes and figures that agree with them."""

    def change(content: dict[str, Any]) -> None:
        for label, values in (("a", a), ("b", b)):
            assert len(values) == len(content["runs"][label])
            for run, value in zip(content["runs"][label], values, strict=True):
                log = f"val_bpb:          {value:.6f}\n".encode()
                (claim / run["log"]).write_bytes(log)
                run.update(metric=value, sha256=hashlib.sha256(log).hexdigest())
        found = confirmation_of(models.Sides(**content["runs"]), content["direction"])
        assert found is not None
        content["confirmation"] = found.model_dump()

    edit(claim, change)


def forge_best(claim: Path, author: Path, files: dict[str, str | None], changes: dict[str, Any]) -> None:
    """Replace the best by a commit with other files: path -> text, None for a link to /etc/hosts."""
    content = json.loads((claim / "claim.json").read_bytes())
    work = claim.parent / f"forger-{claim.name}"
    git(author, "clone", "--quiet", "--no-local", str(author), str(work))
    git(work, "config", "user.name", "Forger")
    git(work, "config", "user.email", "forger@example.invalid")
    git(work, "checkout", "--quiet", "--detach", content["commits"]["baseline"])
    for name, text in files.items():
        path = work / name
        path.unlink(missing_ok=True)
        path.symlink_to("/etc/hosts") if text is None else path.write_text(text)
    git(work, "add", "-A")
    git(work, "commit", "--quiet", "-m", "forged")
    rebundle(claim, work, git(work, "rev-parse", "HEAD"))
    edit(claim, lambda found: found["changes"].update(changes))
    shutil.rmtree(work)


def with_baseline(claim: Path, author: Path, change: Callable[[str], str], **constant: tuple[int, int]) -> Path:
    """Make the claim one of another baseline, whose best has another value of one constant. Return `author`."""
    text = change((author / "train.py").read_text())
    (author / "train.py").write_text(text)
    commit_all(author, "another baseline")
    baseline = git(author, "rev-parse", "HEAD")
    edit(claim, lambda content: content["commits"].update(baseline=baseline))
    ((name, (before, after)),) = constant.items()
    forge_best(claim, author, {"train.py": text.replace(f"{name} = {before}", f"{name} = {after}")}, {})
    changed = {"file": "train.py", "name": name, "before": before, "after": after}
    edit(claim, lambda content: content["changes"].update(files=["train.py"], constants=[changed], code=False))
    return author


def rebundle(claim: Path, work: Path, best: str) -> None:
    content = json.loads((claim / "claim.json").read_bytes())
    git(work, "update-ref", "refs/claim/baseline", content["commits"]["baseline"])
    git(work, "update-ref", "refs/claim/best", best)
    git(work, "bundle", "create", "--quiet", str(claim / "commits.bundle"), "refs/claim/baseline", "refs/claim/best")
    edit(claim, lambda found: found["commits"].update(best=best))


def run_of(metric: float, seed: int | None = None, holdout: float | None = None, log: str = "a-1") -> models.ClaimedRun:
    return models.ClaimedRun(
        metric=metric,
        holdout=holdout,
        seed=seed,
        seconds=1.0,
        num_steps=None,
        source="",
        log=f"logs/{log}.log",
        sha256="0" * 64,
    )


def deciding(a: Sequence[float], b: Sequence[float], *, scored: bool = False) -> models.Claim:
    """Return what of a claim a verdict depends on.

    Args:
        a: metrics of the baseline, with seeds from 0; so is `b` of the best.
        scored: whether these are the metrics on the holdout as well.
    """
    one, other = (
        [run_of(value, seed, value if scored else None) for seed, value in enumerate(side)] for side in (a, b)
    )
    runs = models.Sides(a=one, b=other)
    parts: dict[str, Any] = {"runs": runs, "confirmation": confirmation_of(runs, "minimize"), "direction": "minimize"}
    return models.Claim.model_construct(**parts)


def documented() -> dict[str, dict[str, Any]]:
    """Return the schemas of docs/schemas/ that follow from the models: name -> content."""
    envelope = json.loads((schemas.FOLDER / f"{ENVELOPE}{schemas.ENDING}").read_bytes())
    envelope["title"] = "Output of `autoresearch verify --json`"
    envelope["description"] = "Result of a verification."
    properties = envelope["oneOf"][0]["properties"]
    properties["command"]["const"] = "verify"
    data = models.schema_of(models.Verification, "", "The attestation, with the result in one line.")
    properties["data"] = {key: value for key, value in data.items() if key not in ("$schema", "title")}
    return {"claim": models.claim_schema(), "attestation": models.attestation_schema(), "verify": envelope}


if __name__ == "__main__":
    for name, content in documented().items():
        (schemas.FOLDER / f"{name}{schemas.ENDING}").write_text(json.dumps(content, indent=2) + "\n")
