"""Synthetic journals of any length, with every kind of result that a session can have."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from agent.journal.experiment import Run

UNPRINTABLE = "\x00 \x1b[31m \u202e \ud800 \uffff"
HOSTILE = '</td></table><script>document.title="owned"</script><img src=x onerror=alert(1)> "quoted" & \'so\' {{ 7*7 }}'
NAMES = ("MATRIX_LR", "EMBEDDING_LR", "DEPTH", "WARMDOWN_RATIO", "WEIGHT_DECAY", "TOTAL_BATCH_SIZE")
REASONS = ("the command ended with exit code 1: ValueError: n_head must divide n_embd", "out of memory", "no val_bpb")
FINGERPRINT = {
    "chip": "Apple M4 Max",
    "cores": 16,
    "memory_gb": 64,
    "os": "Darwin 25.1",
    "mlx": "0.32.4",
    "backend": "metal",
    "snapshot": "climbmix-3f2a91c0",
    "protocol": "ab" * 32,
    "training_seconds": 300.0,
}
BASELINE, NOISE = 1.8123, 0.0012
Parameters = dict[str, float]


class Writer:
    """A writer of events with its own clock."""

    def __init__(self) -> None:
        self.at, self.lines = 1_790_000_000.0, list[str]()

    def __call__(self, kind: str, after: float = 0.0, **data: Any) -> None:
        self.at += after
        self.lines.append(json.dumps({"event": kind, "at": round(self.at, 3), **data}))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.lines) + "\n")


class JournalBuilder:
    """A builder of a session, experiment by experiment; `mixed` draws random results.

    Args:
        base: Commit of the baseline.
        best: Commit of every kept experiment.
        commits: Commits of the other experiments, by number - 1; made-up ones where it is too short.
        logs: Folder of the session; each experiment then has a log there. None for no logs.
    """

    def __init__(
        self,
        tag: str,
        base: str = "a" * 40,
        best: str = "b" * 40,
        direction: str = "minimize",
        seed: int = 7,
        commits: Sequence[str] = (),
        logs: Path | None = None,
    ) -> None:
        self.base, self.best, self.sign = base, best, 1 if direction == "minimize" else -1
        self.commits, self.logs = commits, logs
        self.chance, self.write = random.Random(seed), Writer()
        self.number, self.value, self.parameters = 0, BASELINE, dict.fromkeys(NAMES, 1.0)
        self.write(
            "session",
            tag=tag,
            branch=f"autoresearch/{tag}",
            base=base,
            metric="val_bpb",
            direction=direction,
            seed=0,
            proposer="hybrid",
            pid=1,
            fingerprint=FINGERPRINT,
        )

    def baseline(self) -> Self:
        self._begin("baseline", self.parameters, self.base, self.chance.choice(NAMES))
        self._worse()
        return self._end("keep", "worse", metric=self.value)

    def keep(self, candidate: Parameters | None = None) -> Self:
        """Add an experiment that is better, with one run as evidence, or three of each side."""
        number, candidate = self._propose(candidate, commit=self.best)
        self._worse()
        step = abs(self.chance.gauss(0, 0.06 / (1 + number / 6))) + NOISE
        before, self.value = self.value, self.value - self.sign * step
        self.parameters = candidate
        return self._end("keep", "worse", metric=self.value, evidence=_evidence(self.value, before, step, number))

    def discard(self, candidate: Parameters | None = None) -> Self:
        self._propose(candidate)
        return self._end("discard", "worse", metric=self._worse())

    def discard_far_off(self, candidate: Parameters | None = None) -> Self:
        """Add a discarded experiment with an extreme value."""
        self._propose(candidate)
        self._worse()
        return self._end("discard", "worse", metric=self.value + self.sign * self.chance.uniform(0.5, 9))

    def crash(self, candidate: Parameters | None = None) -> Self:
        number, _ = self._propose(candidate)
        self._worse()
        reason = REASONS[number % 3]
        return self._end("crash", reason, seconds=12.0, secondary={}, error=reason)

    def prune(self, candidate: Parameters | None = None) -> Self:
        self._propose(candidate)
        reason = "ended early: hopeless after 30 %"
        return self._end("discard", reason, seconds=90.0, pruned=0.3, estimate=self._worse())

    def unmeasured(self, candidate: Parameters | None = None) -> Self:
        """Add a discarded experiment that no station could measure."""
        self._propose(candidate)
        reason = "could not be measured: its station died or left in 10 runs"
        return self._end("discard", reason, seconds=0.0, secondary={}, error=reason)

    def mixed(self, count: int) -> Self:
        """Add `count` experiments: discards, pruned runs, crashes, extreme values, and ever rarer keeps."""
        kinds = [self.discard, self.crash, self.prune, self.discard_far_off]
        for _ in range(count):
            candidate = self._candidate()
            experiment = self.chance.choices(kinds, [78, 7, 12, 3])[0]
            (self.keep if self.chance.random() < 14 / (14 + self.number) else experiment)(candidate)
        return self

    def confirmed(self) -> Self:
        """Add a comparison of the best with the baseline."""
        ends, means = {"a": self.base, "b": self.best}, {"a": BASELINE, "b": self.value + self.sign * 0.0009}
        gain = self.sign * (means["a"] - means["b"])
        found = {"gain": gain, "low": gain - 0.003, "high": gain + 0.003, "noise": NOISE, "verdict": "confirmed"}
        self.write("comparing", 1.0, commits=ends, files=["train.py"], count=3)
        self.write("confirmed", 1900.0, **ends, means=means, runs={"a": 3, "b": 3}, **found)
        return self

    def save(self, path: Path) -> None:
        """End the session and write its journal."""
        self.write("ended", 1.0, reason=f"{self.number - 1} experiments")
        self.write.save(path)

    def _candidate(self) -> Parameters:
        name = self.chance.choice(NAMES)
        return {**self.parameters, name: round(self.chance.uniform(0.2, 3), 3)}

    def _worse(self) -> float:
        return self.value + self.sign * abs(self.chance.gauss(0.004, 0.012)) + self.sign * NOISE

    def _propose(self, candidate: Parameters | None, commit: str = "") -> tuple[int, Parameters]:
        candidate, number = self._candidate() if candidate is None else candidate, self.number
        name = next((name for name in NAMES if candidate[name] != self.parameters[name]), NAMES[0])
        description = f"{name} {self.parameters[name]:g} -> {candidate[name]:g}"
        description = {3: HOSTILE, 4: f"{description} {UNPRINTABLE}"}.get(number, description)
        known = self.commits[number - 1] if number <= len(self.commits) else f"{number:040x}"
        self._begin(description, candidate, commit or known, name)
        return number, candidate

    def _begin(self, description: str, candidate: Parameters, commit: str, name: str) -> None:
        """Write all events until the run has started; some experiments include a model call or an interruption."""
        number = self.number
        self.write(
            "proposed",
            8.0,
            number=number,
            proposer="llm" if number % 3 == 0 else "search",
            description=description,
            reasoning=f"A larger {name} lets the model move further early on. {HOSTILE if number == 3 else ''}",
            parameters=candidate,
            digest=f"{number:064x}",
            files=["train.py"] if number else [],
            expected=-0.001,
        )
        if number % 3 == 0:
            self.write("called", 0.5, number=number, model="m", input_tokens=21_000, output_tokens=900, dollars=0.011)
        self.write("committed", 0.2, number=number, commit=commit)
        started = {"number": number, "run": 1, "pid": 9, "born": 0.0, "log": "", "expected": 330.0}
        if number % 97 == 5:
            self.write("started", 0.2, **started)
            self.write("interrupted", 120.0, number=number, reason="the machine slept for 3600 s during the run")
        self.write("started", 0.3, **started)
        self.commit = commit

    def _end(
        self, status: str, reason: str, seconds: float = 327.0, evidence: dict[str, Any] | None = None, **run: Any
    ) -> Self:
        number, self.number = self.number, self.number + 1
        usual: dict[str, Any] = {
            "metric": None,
            "seconds": seconds,
            "secondary": {"training_seconds": 300.0, "peak_vram_mb": 5100.0},
            "error": None,
            "pruned": None,
            "estimate": None,
        }
        if self.logs is not None:
            usual["log"] = str(self._log(self.logs / "experiments" / f"{number:04d}" / "run-1.log"))
        self.write("measured", seconds, number=number, run=1, **{**usual, **run})
        self.write("judged", 0.1, number=number, status=status, reason=reason, evidence=evidence)
        self.write("recorded", 0.1, number=number, head=self.commit)
        return self

    def _log(self, path: Path) -> Path:
        """Write a log with a learning curve, and with text that tries to be markup at its end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ends, lines = 3 + self.number % 100 / 100, 60
        curve = (
            f"step {5 * i:05d} ({100 * i / lines:.1f}%) | loss: {ends + 6 / i:.6f} | lrm: 1.00 | dt: 500ms | tok/sec: 1"
            for i in range(1, lines + 1)
        )
        end = (HOSTILE, "---", "training_seconds: 300.0", "peak_vram_mb: 5100.0", f"num_steps: {5 * lines}")
        path.write_text("\n".join([*curve, *end, ""]))
        return path


def _evidence(mean: float, before: float, gain: float, number: int) -> dict[str, Any]:
    how, runs = ("confirmed", 3) if number % 2 else ("one run", 1)
    return {
        "how": how,
        "mean": mean,
        "runs": runs,
        "incumbent_mean": before,
        "incumbent_runs": 2,
        "gain": gain,
        "noise": NOISE,
        "sigmas": gain / NOISE / (1 / runs + 0.5) ** 0.5,
    }


def as_named(run: Run) -> Path | None:
    """Return the log of a run at the path that its journal names, wherever that is."""
    return Path(run.log) if run.log else None
