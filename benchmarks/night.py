"""Measure the honest gain per hour of real training, against the classic loop with random search and with TPE.

    uv run python -m benchmarks.night --out DIR [--experiments 40] [--seconds 10] [--sessions 2]
        [--against "own steps"]

DIR is an empty folder outside any repository. An interrupted benchmark continues with the same command. Run nothing
else meanwhile, because budgets are wall-clock time. Every session gets the machine time of `--experiments` runs of the
untouched recipe. Sessions alternate in slices, forward and backward, so that a slow hour affects all of them equally.
At the end the baseline and every session's best get five held-out runs each, alternating, and the gain is the
difference of those means. The classic loop keeps whatever looks better once. Its proposers draw from the whole space,
which is what Optuna's samplers do by default. "own steps" is our search without playbook and near misses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from agent.cli.launch import guarded
from agent.decision.decide import DecisionConfig
from agent.decision.limits import Limits
from agent.decision.sequential_test import Kind
from agent.journal.experiment import Experiment, Proposal, Value, digest
from agent.journal.journal import Journal, fold
from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.proposers.base import NO_WORKSPACE, Context, Exhausted, Proposer
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import space_of
from agent.session.opening import open_runner, prepared
from agent.session.session import Session, SessionConfig
from agent.views.plain import show_plain
from benchmarks.search import decoded, distribution, encoded

ROOT = Path(__file__).parents[1]
HELDOUT_RUNS = 5
SLICES = 3
HARD_LIMIT = 6  # times the training seconds; otherwise a draw of ten times the size would take a whole session
DRAWS = 300


@dataclass(frozen=True)
class Arm:
    name: str
    verdict: Kind
    sampler: Literal["search", "own steps", "random", "tpe"]


ARMS = {
    "ours": Arm("ours", "confirm", "search"),
    "own steps": Arm("own-steps", "confirm", "own steps"),
    "random": Arm("random", "greedy", "random"),
    "tpe": Arm("tpe", "greedy", "tpe"),
}


class OwnSteps(SearchProposer):
    """The search without what it knows from the playbook and from the files of near misses."""

    def ask(self, context: Context) -> Proposal:
        return super().ask(replace(context, playbook=(), workspace=NO_WORKSPACE))


class Sampled:
    """One of Optuna's samplers over the whole space. It is told every result, and every failure as a failure."""

    def __init__(self, sampler: str, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self._seed = sampler, seed
        self._told: list[Experiment] = []

    def tell(self, experiment: Experiment) -> None:
        self._told.append(experiment)

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:  # noqa: ARG002
        return None

    def ask(self, context: Context) -> Proposal:
        import optuna

        space = space_of(context.files, context.constants)
        distributions = {d.key: distribution(d) for d in space.dimensions}
        made = optuna.samplers.RandomSampler if self.name == "random" else optuna.samplers.TPESampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = made(seed=1000 * self._seed + context.number)
            study = optuna.create_study(direction=context.direction, sampler=sampler)
            for experiment in self._told:
                params = {d.key: encoded(d, experiment.parameters[d.key]) for d in space.dimensions}
                failed = optuna.trial.TrialState.FAIL if experiment.metric is None else optuna.trial.TrialState.COMPLETE
                study.add_trial(
                    optuna.create_trial(
                        params=params, distributions=distributions, value=experiment.metric, state=failed
                    )
                )
            seen = {experiment.digest for experiment in context.history}
            for _ in range(DRAWS):
                params = study.ask(distributions).params
                values: dict[str, Value] = {d.key: decoded(d, params[d.key]) for d in space.dimensions}
                texts = space.apply(values)
                if texts and not space.refuses(values) and digest({**context.files, **texts}) not in seen:
                    return Proposal(texts, f"{self.name} draw", "", {**space.values(), **values})
        raise Exhausted("the sampler drew nothing new")


def proposer(arm: Arm, seed: int) -> Proposer:
    if arm.sampler == "own steps":
        return OwnSteps()
    return SearchProposer() if arm.sampler == "search" else Sampled(arm.sampler, seed)


def clone(out: Path, name: str) -> Path:
    folder = out / name
    if not folder.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", "-B", "main"], check=True)
        for setup in (["uv", "sync", "--quiet"], ["uv", "run", "prepare.py"]):
            subprocess.run(setup, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def state_of(folder: Path) -> State:
    return fold(journal_path(folder, "t"))


def work(folder: Path, arm: Arm, seed: int, training: float, seconds: float) -> None:
    """Continue a session for about `seconds`; the experiment running at that time is finished."""
    with open_runner(folder, "t", training, "auto") as bare, prepared(bare, setup=False) as opened:
        runner = replace(opened, protocol=opened.protocol.with_limit(HARD_LIMIT * training))
        journal = Journal(journal_path(folder, "t"), [show_plain])
        config = SessionConfig(
            tag="t",
            seed=seed,
            limits=Limits(seconds=seconds),
            decision=DecisionConfig(arm.verdict, None, True),
            baseline_runs=2 if arm.verdict == "confirm" else 1,
            prune=arm.verdict == "confirm",
            confirm=False,
            flags={},
        )
        session = Session(runner, journal, proposer(arm, seed), config)
        code = guarded(session)
        journal.close()
    if code:
        raise SystemExit(code)


def train(folder: Path, text: str, training: float) -> tuple[float, int]:
    """Run a `train.py` once and return its val_bpb and steps."""
    (folder / "train.py").write_text(text)
    done = subprocess.run(
        ["uv", "run", "--no-sync", "train.py"],
        cwd=folder,
        env={**os.environ, "AUTORESEARCH_TRAINING_SECONDS": f"{training:g}"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {line.split(":")[0]: line.split(":")[1].strip() for line in done.stdout.splitlines() if ":" in line}
    return float(found["val_bpb"]), int(found["num_steps"])


def best_text(folder: Path, commit: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), "show", f"{commit}:train.py"], capture_output=True, text=True, check=True
    ).stdout


def held_out(out: Path, names: Sequence[str], training: float) -> dict[str, list[float]]:
    """Return the metrics of HELDOUT_RUNS of the baseline and of every session's best, alternating.

    They are recorded in DIR/fresh.jsonl.
    """
    record = out / "fresh.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    runner = clone(out, "fresh")
    texts = {"baseline": (ROOT / "train.py").read_text()}
    for name in names:
        incumbent = state_of(out / name).incumbent
        assert incumbent is not None
        texts[name] = best_text(out / name, incumbent.commit)
    for number in range(HELDOUT_RUNS):
        for name, text in texts.items():
            if not any(each["name"] == name and each["run"] == number for each in done):
                value, steps = train(runner, text, training)
                done.append({"name": name, "run": number, "val_bpb": value, "steps": steps})
                print(f"held-out {name} {number}: {value:.6f} ({steps} steps)", flush=True)
                with record.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    return {name: [each["val_bpb"] for each in done if each["name"] == name] for name in texts}


def machine_seconds(out: Path, experiments: int, training: float) -> float:
    """Return the seconds of `experiments` runs of the untouched recipe, without the loop's overhead. Measured once."""
    record = out / "budget.json"
    if not record.exists():
        folder, took = clone(out, "fresh"), []
        for _ in range(2):
            began = time.monotonic()
            train(folder, (ROOT / "train.py").read_text(), training)
            took.append(time.monotonic() - began)
        record.write_text(json.dumps({"seconds": experiments * statistics.mean(took)}))
    seconds: float = json.loads(record.read_text())["seconds"]
    return seconds


def table(out: Path, jobs: Sequence[tuple[str, Arm, int]], values: Mapping[str, Sequence[float]]) -> None:
    base = values["baseline"]
    print(f"\nbaseline, {len(base)} held-out runs: {statistics.mean(base):.4f} (sd {statistics.stdev(base):.4f})\n")
    print("| session | experiments | runs | kept | minutes | apparent gain | honest gain | standard error | per hour |")
    print("|---|---|---|---|---|---|---|---|---|")
    rates: dict[str, list[float]] = {}
    for name, arm, _ in jobs:
        state, own = state_of(out / name), values[name]
        assert state.baseline and state.incumbent and state.baseline.metric and state.incumbent.metric
        runs = sum(len(e.runs) + len(e.heldout_runs) for e in state.experiments)
        kept = sum(e.verdict.status == "keep" for e in state.experiments[1:])
        gained = statistics.mean(base) - statistics.mean(own)
        error = (statistics.variance(base) / len(base) + statistics.variance(own) / len(own)) ** 0.5
        rate = gained / (state.seconds / 3600)
        rates.setdefault(arm.name, []).append(rate)
        print(
            f"| {name} | {len(state.experiments) - 1} | {runs} | {kept} | {state.seconds / 60:.1f} | "
            f"{state.baseline.metric - state.incumbent.metric:.4f} | {gained:.4f} | {error:.4f} | {rate:.3f} |"
        )
    means = {name: statistics.mean(rate) for name, rate in rates.items()}
    print("\nhonest gain per hour: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
    others = max(mean for name, mean in means.items() if name != "ours")
    print(f"ours against the best other: {means['ours'] / others:.2f}" if others > 0 else "no other gained anything")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the honest gain per hour of real training.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--experiments", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--against", nargs="+", choices=[*ARMS][1:], default=["random", "tpe"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    arms = [ARMS[name] for name in ("ours", *options.against)]
    jobs = [(f"{arm.name}-{seed}", arm, seed) for seed in range(options.sessions) for arm in arms]
    for name, _, _ in jobs:
        clone(out, name)
    budget = machine_seconds(out, options.experiments, options.seconds)
    print(f"{budget / 60:.1f} minutes per session", flush=True)
    for part in range(1, SLICES + 1):
        for name, arm, seed in jobs if part % 2 else jobs[::-1]:
            left = budget * part / SLICES - state_of(out / name).seconds
            if left > 0:
                print(f"== {name}, slice {part}", flush=True)
                work(out / name, arm, seed, options.seconds, left)
    table(out, jobs, held_out(out, [name for name, _, _ in jobs], options.seconds))


if __name__ == "__main__":
    main()
