"""What the name of a number says: which direction is better, and how likely the number is the metric."""

from __future__ import annotations

import functools
import re
from typing import Literal

Direction = Literal["minimize", "maximize"]
# Words of a name, the direction they imply, and how likely such a number is the metric.
QUALITY: tuple[tuple[str, Direction, int], ...] = (
    ("reward rewards rew return", "maximize", 105),
    ("bpb bpc loss logloss nll perplexity ppl", "minimize", 100),
    ("accuracy acc f1 auc auroc bleu rouge iou miou dice psnr ssim precision recall r2 map mrr ndcg", "maximize", 95),
    ("error err rmse rmsle mse mae mape smape wer cer fid regret cost", "minimize", 90),
    ("score elo speedup passed", "maximize", 85),
    ("failed failures errors", "minimize", 20),
)
# A reward comes before a loss only where the name is that of a result: `mean_reward`, but `reward_bonus` may be a part.
REWARD = set(QUALITY[0][0].split())
# Words whose direction is only a habit: a score may be a distance, and a return that of the opponent.
HABIT = {*REWARD, "score", "elo", "cost"}
OF_EPISODES = {"mean", "avg", "average", "ep", "episode", "episodic"}
LEAST_REWARD = 80
# Of these, no weight comes near that of a quality, even of one of the training data.
SPEED = "throughput ops qps rps tps fps flops gflops tflops bandwidth speed"
TIME = "latency time seconds second secs sec ms us ns elapsed duration runtime took"
COSTS: tuple[tuple[str, Direction, int], ...] = (
    (SPEED, "maximize", 30),
    (TIME, "minimize", 25),
    ("memory vram rss mb gb mib gib kb bytes", "minimize", 5),
)
WORDS = {word: (direction, weight) for words, direction, weight in (*QUALITY, *COSTS) for word in words.split()}
COST_WORDS = {word for words, _, _ in COSTS for word in words.split()}
A_SECOND = re.compile(r"(_per_|/)(s|secs?|seconds?|minutes?|hours?)$|(tok|it|samples|images|ops|req|mb|gb)_s$")
PER_BYTE = re.compile(r"bits_per_(byte|char|dim|token)")
VALIDATION = {
    "val",
    "valid",
    "validation",
    "validated",
    "cv",
    "crossval",
    "oof",
    "eval",
    "dev",
    "heldout",
    "held",
    "holdout",
}
HELD_OUT = {*VALIDATION, "test"}
# Penalties: among scores of the same thing, prefer the plain one to an extreme of its range.
ENDS = {
    "best": 10,
    "max": 15,
    "maximum": 15,
    "highest": 15,
    "worst": 25,
    "min": 25,
    "minimum": 25,
    "lowest": 25,
    "std": 60,
}
RESERVED = 5  # penalty of a test set, which is reserved for the end
MEAN = {"mean", "avg", "average", "overall"}
IS_MEAN = 3
SETTINGS = {
    "lr",
    "learning",
    "batch",
    "vocab",
    "block",
    "seed",
    "limit",
    "timeout",
    "budget",
    "params",
    "tolerance",
    "std",
    "var",
    "target",
    "threshold",
    "coef",
    "coeff",
}
# As the last word of a name, these make it a setting or a status: `reward_scale`, but `clip_score` is a score.
LAST_OF_SETTINGS = {"code", "scale", "scaling", "weight", "clip"}


@functools.lru_cache(maxsize=4096)
def meaning(name: str) -> tuple[Direction | None, int]:
    """Return the direction and weight of a name: `val_loss` is a likely metric, `training_seconds` an unlikely one."""
    words = words_of(name)
    if SETTINGS & {*words} or LAST_OF_SETTINGS & {*words[-1:]}:
        return None, 0
    extra = -sum(ENDS.get(word, 0) for word in words) - (30 if {"train", "training"} & set(words) else 0)
    extra += IS_MEAN if MEAN & set(words) else 0
    if not is_cost(name) and HELD_OUT & set(words):
        extra += 30 - (RESERVED if "test" in words else 0)
    if PER_BYTE.search(slug(name)):
        return "minimize", 100 + extra
    if A_SECOND.search(name.lower()) or A_SECOND.search(slug(name)):
        return "maximize", WORDS["throughput"][1] + extra
    known = [word for word in words if word in WORDS]
    if not known:
        return None, extra
    direction, weight = WORDS[known[-1]]
    part = known[-1] in REWARD and words[-1] not in REWARD and not OF_EPISODES & {*words}
    return direction, (LEAST_REWARD if part else weight) + extra


def is_cost(name: str) -> bool:
    """Return whether a name is that of a speed, a time or an amount of memory, and not of a quality."""
    if PER_BYTE.search(slug(name)):
        return False
    known = [word for word in words_of(name) if word in WORDS]
    a_second = A_SECOND.search(name.lower()) or A_SECOND.search(slug(name))
    return a_second is not None or (bool(known) and known[-1] in COST_WORDS)


def by_habit(name: str) -> bool:
    """Return whether the direction of a name is only a habit: that of a score, but not that of an F1 score."""
    known = {word for word in words_of(name) if word in WORDS}
    return bool(known) and known <= HABIT


def words_of(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", slug(name)) if word]


def is_named(name: str, wanted: str) -> bool:
    return f"_{slug(name)}".endswith(f"_{slug(wanted)}")


def slug(label: str) -> str:
    """Return a label as the name of a column: `Test accuracy (%)` becomes test_accuracy."""
    return re.sub(r"_*\W+_*", "_", re.sub(r"\([^)]*\)", "", label)).strip("_").lower()
