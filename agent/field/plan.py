"""Divide the minutes of `field` among its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.format import counted
from agent.journal.experiment import Value

RUNS = 5
# Seconds of training of a run.
SHORTEST, LONGEST = 5.0, 60.0
SHARES = {"runs": 0.4, "sizes": 0.25, "session": 0.35}
# The first choice that fits counts: noise means more than sizes, and sizes more than a session of two experiments.
CHOICES = (("runs", "sizes", "session"), ("runs", "sizes"), ("runs", "session"), ("runs",))
# Start and evaluation of a larger model take longer than those of the recipe.
SLOWER_SIZES = 2.0
# Runs of an experiment and its incumbent, on average: close candidates are repeated.
RUNS_OF_EXPERIMENT = 1.5
FEWEST_EXPERIMENTS, MOST_EXPERIMENTS = 2, 20


@dataclass(frozen=True)
class Plan:
    """The parts that fit into the time.

    Attributes:
        runs: runs of the recipe.
        training: seconds of training of each, and of the session's runs.
        sizes: values of the constant that sets the size.
        size_training: seconds of training of each size.
        experiments: experiments of the session; 0 for no session.
        left_out: the parts that do not fit, as clauses.
    """

    runs: int
    training: float
    sizes: tuple[Value, ...] = ()
    size_training: float = 0.0
    experiments: int = 0
    left_out: tuple[str, ...] = ()


def divide(seconds: float, around: float, sizes: Sequence[Value], longest: float = LONGEST) -> Plan:
    """Return the plan that uses the time best.

    Args:
        seconds: the time left.
        around: seconds that a run takes besides its training.
        sizes: the values to measure; empty if the recipe has no such constant.
        longest: training of a run, at most.
    """
    for parts in CHOICES:
        if ("sizes" in parts) <= bool(sizes):
            plan = _plan(seconds, around, sizes if "sizes" in parts else (), "session" in parts, longest)
            if plan is not None:
                wanted = {"sizes": bool(sizes), "session": True}
                missing = [part for part in wanted if wanted[part] and part not in parts]
                return Plan(**{**vars(plan), "left_out": tuple(f"{part}: no time" for part in missing)})
    training = min(SHORTEST, longest)
    runs = int(min(RUNS, max(0.0, seconds) // (around + training)))
    missing = [*(["sizes"] if sizes else []), "session"]
    fewer = [f"{counted(RUNS - runs, 'run')} of the recipe"] if runs < RUNS else []
    return Plan(runs, training, left_out=tuple(f"{part}: no time" for part in (*fewer, *missing)))


def _plan(seconds: float, around: float, sizes: Sequence[Value], session: bool, longest: float) -> Plan | None:
    """Return a plan with these parts, or None if one of them is too short."""
    whole = SHARES["runs"] + (SHARES["sizes"] if sizes else 0.0) + (SHARES["session"] if session else 0.0)
    part = seconds / whole
    training = min(longest, float(int(SHARES["runs"] * part / RUNS - around)))
    cost = RUNS * (training + around)
    size_training = 0.0
    if sizes:
        size_training = min(longest, float(int(SHARES["sizes"] * part / len(sizes) - SLOWER_SIZES * around)))
        cost += len(sizes) * (size_training + SLOWER_SIZES * around)
    experiments = int((seconds - cost) // (RUNS_OF_EXPERIMENT * (training + around))) if session and training > 0 else 0
    shortest = min(SHORTEST, longest)
    if training < shortest or (sizes and size_training < shortest) or (session and experiments < FEWEST_EXPERIMENTS):
        return None
    return Plan(RUNS, training, tuple(sizes), size_training, min(experiments, MOST_EXPERIMENTS))


def plan_line(plan: Plan, constant: str | None) -> str:
    """Describe a plan in a clause."""
    said = [f"{counted(plan.runs, 'run')} of the recipe with {plan.training:g} s of training"]
    if plan.sizes:
        said.append(f"{constant} {', '.join(map(str, plan.sizes))} with {plan.size_training:g} s of training each")
    if plan.experiments:
        said.append(f"a session of at most {counted(plan.experiments, 'experiment')}")
    left = f"; left out: {'; '.join(plan.left_out)}" if plan.left_out else ""
    return f"{', then '.join(said)}{left}"
