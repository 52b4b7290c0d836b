"""Measure how much a model may gain by looking ahead and escape the evaluator.

    uv run python -m benchmarks.peeking [LOSSES LOSSES LOSSES]

LOSSES are files with the losses of three honest runs, token by token, as a session keeps them next to its logs
(`*.losses.npy`): the incumbent, the run that looks ahead, and a model that shows it how low a loss is plausible. If
none are given, three runs are trained here for 20 s each. Each way of looking ahead picks positions in some order and a
gain at each of them. The largest total gain that escapes with a probability of at least 5 % is printed, in bits per
byte, for one, two and five evaluations.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.port import ROOT
from harness import scoring

SEEDS, SECONDS = (42, 43, 44), 20
RUNS = (1, 2, 5)  # evaluations: one, the two of a keep, and these with the three of confirm
ESCAPE = 0.05
Way = tuple[str, Any, Any]  # name, positions in order, gain at each in nats


def train(folder: Path) -> list[Path]:
    """Train honest runs with several seeds and return the files of their losses."""
    files = []
    for seed in SEEDS:
        source = re.sub(r"(?m)^SEED = \d+", f"SEED = {seed}", (ROOT / "train.py").read_text())
        (folder / "train.py").write_text(source)
        files.append(folder / f"{seed}.npy")
        names = {"AUTORESEARCH_LOSSES": files[-1], "AUTORESEARCH_TRAINING_SECONDS": SECONDS, "PYTHONPATH": ROOT}
        env = {**os.environ, **{name: str(value) for name, value in names.items()}}
        subprocess.run([sys.executable, "train.py"], cwd=folder, env=env, check=True, capture_output=True)
    return files


def ways(honest: Any, own: Any, generator: np.random.Generator) -> Iterator[Way]:
    """Yield ways of looking ahead; `own` holds a model's losses, which show how low a loss is plausible."""
    flat = honest.reshape(-1)
    highest = np.argsort(-flat)
    yield "all of each highest loss", highest, np.maximum(flat - 0.05, 0)
    yield "half of each highest loss", highest, flat / 2
    for gain, least in ((0.5, 0.5), (1.0, 4.0), (2.0, 2.5), (3.0, 4.0)):
        order = generator.permutation(np.flatnonzero(flat > least))
        yield f"{gain} nats, losses above {least}", order, np.full(flat.size, gain)
    plausible = np.maximum(flat - own.reshape(-1), 0)
    yield "down to the own model's loss", np.argsort(-plausible), plausible
    yield "to 1 nat above that loss", np.argsort(-plausible), np.maximum(plausible - 1, 0)


def escape(expected: Any, looked: Any) -> float:
    """Return the probability that a systematic draw hits none of the positions `looked` (flat indices)."""
    ends = np.cumsum(expected)
    begins = np.maximum(ends[looked] - expected.reshape(-1)[looked], 0)
    arcs = []
    for begin, end in zip(begins % 1, begins % 1 + expected.reshape(-1)[looked], strict=True):
        arcs += [(begin, min(end, 1.0)), (0.0, max(end - 1, 0.0))]
    met, reached = 0.0, 0.0
    for begin, end in sorted(arcs):
        met += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1.0 - met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", type=Path, help="losses of three honest runs, or none")
    with tempfile.TemporaryDirectory() as folder:
        files = parser.parse_args().losses or train(Path(folder))
        incumbent, honest, own = (np.load(file).astype(np.float64) for file in files)
    task = scoring.load_task()
    counted, nats = task.lengths > 0, np.log(2) * task.lengths.sum()
    visible = counted.copy()
    visible[:, -1] = False  # what the last position predicts is not in the input
    generator = np.random.default_rng(0)
    trigrams = task.references[-1]
    for name, losses in {"incumbent": incumbent, "run": honest, "own": own, "trigrams": trigrams}.items():
        print(f"{name}: {scoring.bits_per_byte(losses, task.lengths):.4f} bits per byte")

    for title, references in {"an incumbent": [incumbent, trigrams], "no incumbent": [trigrams]}.items():
        print(f"\nwith {title}: bits per byte that escape with probability {ESCAPE:.0%} in {RUNS} evaluations")
        for name, order, gains in ways(np.where(visible, honest, 0), own, generator):
            best = dict.fromkeys(RUNS, 0.0)
            for number in np.unique(np.geomspace(1, min(len(order), 8192), 60).astype(int)):
                taken = order[:number]
                losses = honest.copy().reshape(-1)
                losses[taken] -= gains[taken]
                expected = scoring.expected_places(losses.reshape(honest.shape), references, counted, len(honest))
                missed, gain = escape(expected, taken), gains[taken].sum() / nats
                best = {runs: max(most, gain) if missed**runs > ESCAPE else most for runs, most in best.items()}
            print(f"{name:30} {'  '.join(f'{most:.5f}' for most in best.values())}")


if __name__ == "__main__":
    main()
