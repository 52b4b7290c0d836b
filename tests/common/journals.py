"""Journals of sessions that never ran: as long as wanted, with everything in them that a session can come to."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

UNPRINTABLE = "\x00 \x1b[31m \u202e \ud800 \uffff"
HOSTILE = '</td></table><script>document.title="owned"</script><img src=x onerror=alert(1)> "quoted" & \'so\' {{ 7*7 }}'
NAMES = ("MATRIX_LR", "EMBEDDING_LR", "DEPTH", "WARMDOWN_RATIO", "WEIGHT_DECAY", "TOTAL_BATCH_SIZE")
REASONS = ("the command ended with exit code 1: ValueError: n_head must divide n_embd", "out of memory", "no val_bpb")


class Writer:
    """Appends events with a clock of its own."""

    def __init__(self) -> None:
        self.at, self.lines = 1_790_000_000.0, list[str]()

    def __call__(self, kind: str, after: float = 0.0, **data: Any) -> None:
        self.at += after
        self.lines.append(json.dumps({"event": kind, "at": round(self.at, 3), **data}))


def write_long_journal(
    path: Path,
    tag: str,
    count: int,
    base: str,
    best: str,
    direction: str = "minimize",
    confirmed: bool = True,
    seed: int = 7,
) -> None:
    """`count` experiments after the baseline: keeps, crashes, pruned runs, values far off, interruptions, a comparison.

    base, best: commits, of the baseline and of every kept experiment.
    """
    chance, write, noise = random.Random(seed), Writer(), 0.0012
    sign = 1 if direction == "minimize" else -1
    write(
        "session",
        tag=tag,
        branch=f"autoresearch/{tag}",
        base=base,
        metric="val_bpb",
        direction=direction,
        seed=0,
        proposer="hybrid",
        pid=1,
        fingerprint={
            "chip": "Apple M4 Max",
            "cores": 16,
            "memory_gb": 64,
            "os": "Darwin 25.1",
            "mlx": "0.32.4",
            "backend": "metal",
            "snapshot": "climbmix-3f2a91c0",
            "protocol": "ab" * 32,
            "training_seconds": 300.0,
        },
    )
    best_value, parameters = 1.8123, dict.fromkeys(NAMES, 1.0)
    for number in range(count + 1):
        name = chance.choice(NAMES)
        candidate = parameters if number == 0 else {**parameters, name: round(chance.uniform(0.2, 3), 3)}
        description = f"{name} {parameters[name]:g} -> {candidate[name]:g}" if number else "baseline"
        description = {3: HOSTILE, 4: f"{description} {UNPRINTABLE}"}.get(number, description)
        commit = base if number == 0 else f"{number:040x}"
        kind = "keep" if number == 0 else chance.choices(["discard", "crash", "pruned", "far"], [78, 7, 12, 3])[0]
        if number and chance.random() < 14 / (14 + number):
            kind, commit = "keep", best
        write(
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
            write("called", 0.5, number=number, model="m", input_tokens=21_000, output_tokens=900, dollars=0.011)
        write("committed", 0.2, number=number, commit=commit)
        if number % 97 == 5:
            write("started", 0.2, number=number, run=1, pid=9, born=0.0, log="", expected=330.0)
            write("interrupted", 120.0, number=number, reason="the machine slept for 3600 s during the run")
        write("started", 0.3, number=number, run=1, pid=9, born=0.0, log="", expected=330.0)
        evidence = None
        value: float | None = best_value + sign * abs(chance.gauss(0.004, 0.012)) + sign * noise
        if kind == "keep":
            step = abs(chance.gauss(0, 0.06 / (1 + number / 6))) + noise if number else 0.0
            evidence = None if number == 0 else _evidence(best_value - sign * step, best_value, step, noise, number)
            best_value -= sign * step
            value, parameters = best_value, candidate
        elif kind == "far":
            value = best_value + sign * chance.uniform(0.5, 9)
        run = {
            "metric": None if kind in ("crash", "pruned") else value,
            "seconds": 12.0 if kind == "crash" else 90.0 if kind == "pruned" else 327.0,
            "secondary": {} if kind == "crash" else {"training_seconds": 300.0, "peak_vram_mb": 5100.0},
            "error": REASONS[number % 3] if kind == "crash" else None,
            "pruned": 0.3 if kind == "pruned" else None,
            "estimate": value if kind == "pruned" else None,
        }
        write("measured", run["seconds"], number=number, run=1, **run)  # type: ignore[arg-type]
        status = {"pruned": "discard", "far": "discard"}.get(kind, kind)
        reason = run["error"] or ("ended early: hopeless after 30 %" if kind == "pruned" else "worse")
        write("judged", 0.1, number=number, status=status, reason=reason, evidence=evidence)
        write("recorded", 0.1, number=number, head=commit)
    if confirmed:
        a, b = 1.8123, best_value + sign * 0.0009
        gain = sign * (a - b)
        write("comparing", 1.0, commits={"a": base, "b": best}, files=["train.py"], count=3)
        write(
            "confirmed",
            1900.0,
            a=base,
            b=best,
            means={"a": a, "b": b},
            runs={"a": 3, "b": 3},
            gain=gain,
            low=gain - 0.003,
            high=gain + 0.003,
            noise=noise,
            verdict="confirmed",
        )
    write("ended", 1.0, reason=f"{count} experiments")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(write.lines) + "\n")


def _evidence(mean: float, before: float, gain: float, noise: float, number: int) -> dict[str, Any]:
    how, runs = ("confirmed", 3) if number % 2 else ("one run", 1)
    return {
        "how": how,
        "mean": mean,
        "runs": runs,
        "incumbent_mean": before,
        "incumbent_runs": 2,
        "gain": gain,
        "noise": noise,
        "sigmas": gain / noise / (1 / runs + 0.5) ** 0.5,
    }
