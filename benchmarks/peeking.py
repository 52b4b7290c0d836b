"""The smallest gain by peeking at single later tokens that the evaluator misses once in twenty times.

    uv run python -m benchmarks.peeking INCUMBENT.npy CANDIDATE.npy

The two files are losses of honest runs, token by token, as a session keeps them beside its logs (`*.losses.npy`). An
adversary makes of the candidate one that reads the next token at the positions where that pays most, as few as give the
gain. It escapes an evaluation where none of the places that `scoring.choose_places` draws is one of these; between
gains, the rate is that of 400 evaluations. A keep takes two runs of the candidate.

By formula: of M, the mean of what the candidate gains on the incumbent, counted where it gains, a peek that gains g
nats a token is g / M; N drawn places miss it with (1 - g / M)^N.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

import prepare
import scoring

EVALUATIONS = 400
ESCAPE = 0.05
RUNS = {"one evaluation": 1, "a keep (2 runs)": 2}


def escapes(incumbent: Any, candidate: Any, peeks: int, order: Any) -> float:
    """Return the share of evaluations that show none of the `peeks` best positions of `order`."""
    length = candidate.shape[1]
    peeked = np.zeros(candidate.size, dtype=bool)
    peeked[order[:peeks]] = True
    losses = np.where(peeked.reshape(candidate.shape), 0.0, candidate)
    missed = 0
    for _ in range(EVALUATIONS):
        rows, places = scoring.choose_places(losses, incumbent)
        missed += not peeked[rows * length + places - 1].any()
    return missed / EVALUATIONS


def smallest(incumbent: Any, candidate: Any, runs: int) -> float:
    """Return the gain in nats a token that escapes all of `runs` evaluations with the chance ESCAPE."""
    inside = candidate.copy()
    inside[:, -1] = 0.0  # what the last position predicts is no part of the input
    order = np.argsort(inside, axis=None)[::-1]
    low, high = 1, candidate.size // 4
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if escapes(incumbent, candidate, middle, order) ** runs > ESCAPE else (low, middle)
    return float(np.sort(inside, axis=None)[::-1][:low].sum() / candidate.size)


def main() -> None:
    incumbent, candidate = (np.load(path).astype(np.float64) for path in sys.argv[1:3])
    snapshot = prepare.SNAPSHOT
    text = prepare.validation_rows(snapshot.directory, snapshot.max_seq_len, snapshot.eval_tokens)
    tokens_a_byte = candidate.size / prepare.Tokenizer.from_directory().token_bytes[text[:, 1:]].sum()
    mean = float(np.maximum(0.0, incumbent - candidate).mean())
    drawn = len(candidate) - math.ceil(scoring.UNIFORM * len(candidate))
    bits = tokens_a_byte / math.log(2)
    print(f"honest gains over the incumbent, where there are any: {mean:.4f} nats a token; {drawn} drawn places")
    for name, runs in RUNS.items():
        formula = mean * (1 - ESCAPE ** (1 / (drawn * runs)))
        found = smallest(incumbent, candidate, runs)
        print(f"{name}: {found * bits:.5f} bits per byte escape with {ESCAPE:.0%}; by formula {formula * bits:.5f}")


if __name__ == "__main__":
    main()
