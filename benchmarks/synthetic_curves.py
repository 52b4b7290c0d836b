"""Generate synthetic sessions: learning curves and final metrics with known noise, some of which cross.

The metric stands for bits per byte and the loss for nats per token, as train.py prints it. A candidate's true effect
shows in its loss from early on, with varying size. The curve also deviates by an amount that has vanished at the end:
small for plain edits, large and with heavy tails for kinds of edits whose curves cross.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from agent.pruning.curves import Curve, Point

NATS = 2.04  # per bit per byte, with 2.94 bytes a token
NOISE = 0.01  # of the metric between equal runs
PLAIN, CROSSING = ("MATRIX_LR", "ADAM_BETA1"), ("TOTAL_BATCH_SIZE", "WARMDOWN_RATIO", "DEPTH")


@dataclass(frozen=True)
class Made:
    """One run of a synthetic session; the first is the baseline.

    Attributes:
        won: whether its metric was better than the incumbent's.
    """

    curve: Curve
    metric: float
    changed: frozenset[str]
    won: bool


def session(seed: int, experiments: int = 60, lines: int = 10, heavy: bool = True, crossing: float = 0.4) -> list[Made]:
    """Generate one session.

    Args:
        lines: lines of each log after the first.
        heavy: use Student's t with 3 degrees of freedom for the noise instead of a Gaussian.
        crossing: fraction of the edits whose curves cross.
    """
    chance = random.Random(seed)
    true, best, made = 1.9, math.inf, list[Made]()
    for number in range(experiments + 1):
        crosses = number > 0 and chance.random() < crossing
        effect = _effect(chance) if number else 0.0
        luck = NOISE * _draw(chance, heavy)
        metric = true + effect + luck
        deviation = (0.08 if crosses else 0.01) * _draw(chance, heavy or crosses)
        curve = _curve(chance, lines, true, effect, luck * chance.random(), deviation)
        won = metric < best
        changed = frozenset({chance.choice(CROSSING if crosses else PLAIN)} if number else ())
        made.append(Made(curve, metric, changed, won and number > 0))
        if won:
            best, true = metric, true + effect
    return made


def _effect(chance: random.Random) -> float:
    """Draw the true change of the metric: 15 % of candidates are better, 40 % slightly worse, 45 % clearly worse."""
    kind = chance.random()
    if kind < 0.15:
        return -abs(chance.gauss(0, 3 * NOISE))
    return abs(chance.gauss(0, 3 * NOISE)) if kind < 0.55 else 8 * NOISE * math.exp(chance.gauss(0, 0.8))


def _curve(chance: random.Random, lines: int, true: float, effect: float, luck: float, deviation: float) -> Curve:
    early = max(0.0, chance.gauss(1.0, 0.7))
    points, wobble = [], 0.0
    for line in range(lines + 1):
        f = line / lines
        wobble = 0.7 * wobble + 0.003 * chance.gauss(0, 1)
        level = true + 1.5 * math.exp(-4 * f) - 1.5 * math.exp(-4)
        seen = (effect + luck) * (1 + early * (1 - f)) * min(1.0, 5 * f) + deviation * (1 - f) ** 1.5 * min(1.0, 5 * f)
        points.append(Point(f, NATS * (level + seen + wobble)))
    return tuple(points)


def _draw(chance: random.Random, heavy: bool) -> float:
    """Draw from a standard normal, or from Student's t with 3 degrees of freedom."""
    normal = chance.gauss(0, 1)
    return normal / math.sqrt(chance.gammavariate(1.5, 2) / 3) if heavy else normal
