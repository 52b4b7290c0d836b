"""`confirm` varies the seed in pairs: a gain that holds for one seed alone is not confirmed."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.comparison.evidence import Sample, evidence, latest_runs, on_reference
from agent.decision import anytime
from agent.decision.difference import difference
from agent.decision.noise import noise_of
from agent.decision.schedule import counted, next_seed, next_turn
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run
from agent.journal.journal import Journal, fold
from agent.journal.paths import journal_path
from agent.session.opening import open_runner
from agent.session.signals import Interrupts
from agent.session.workbench import Workbench
from tests.common.sessions import assert_consistent, confirmed, events, journal, keep_in_turn
from tests.common.station_journals import StationsBuilder
from tests.common.terminals import in_terminal
from tests.common.workspaces import Cli, commit_all, git, with_code

# A recipe whose metric depends on its seed a little, and on LUCK for the seed 42 alone.
SEEDED = """import random
SEED = 42  # search: off
LUCK = 0  # search: off
random.seed(SEED)
"""
METRIC = "loss += 0.01 * random.gauss(0, 1) - 0.5 * LUCK * (SEED == 42)\n"


@pytest.fixture
def seeded(quick: Path) -> Path:
    """The quick workspace with a seed, deterministic for each."""
    return with_code(quick, SEEDED, METRIC)


def test_pairs_share_a_seed_that_nothing_has_used(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(seeded, cli)
    assert (data["verdict"], data["why"], data["seeds"], data["one_seed"]) == ("confirmed", "", [43, 44, 45], None)
    runs = events(seeded, "compared")
    assert [(run["label"], run["seed"]) for run in runs] == [
        *(("a", 43), ("b", 43), ("b", 44), ("a", 44), ("a", 45), ("b", 45)),
    ]
    # The seed's part of the noise is the same on both sides of a pair, and runs with one seed do not differ here.
    spread = data["spread"]
    assert isinstance(spread, dict)
    assert spread["run"] > 0
    text = cli(seeded, "confirm").stdout
    assert "new pairs with seeds 46, 47, 48: a run varies by " in text
    assert "mean of 6" in text
    assert_consistent(seeded)


def test_gain_for_one_seed_alone_is_not_confirmed(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^LUCK = 0 /LUCK = 1 /")
    data = confirmed(seeded, cli)
    assert (data["verdict"], data["why"]) == ("not confirmed", "one seed")
    text = cli(seeded, "confirm").stdout
    assert "not confirmed: one seed alone shows the gain: 95 %" in text
    refused = cli(seeded, "adopt")
    assert refused.returncode == 3
    assert "`autoresearch confirm --tag t` first" not in refused.stderr
    assert "more pairs with `" in refused.stderr
    status = json.loads(cli(seeded, "status", "--json").stdout)["data"]
    assert status["confirmed"]["why"] == "one seed"
    for shown in (cli(seeded, "status").stdout, cli(seeded, "sessions").stdout, in_terminal(seeded, "status")[1]):
        assert "not confirmed: one seed" in shown
        assert "by repeated runs" not in shown
    assert cli(seeded, "report").returncode == 0
    page = (seeded / ".autoresearch/sessions/t/report/index.html").read_text()
    assert ">repeated</span>" in page
    assert ">confirmed<" not in page
    assert "kept, confirmed" not in page
    assert "adopt --tag t" not in page
    # With its own seed alone, the gain is there, and the output says what it rests on.
    own = confirmed(seeded, cli, "--seeds", "1")
    assert (own["verdict"], own["seeds"], own["one_seed"]) == ("confirmed", [], "as asked")
    assert "seed not varied: as asked" in cli(seeded, "confirm", "--seeds", "1").stdout


@pytest.mark.parametrize(
    "change",
    [
        "s/^random.seed(SEED)/random.seed(7); print(SEED)/",  # a number
        "s/^random.seed(SEED)/random.seed(0 * SEED)/",  # equal numbers for every seed
        "s/^random.seed(SEED)/random.seed(str(7))/",  # SEED is no longer read but by the metric
        "s/^random.seed(SEED)/INIT = 7; random.seed(INIT); print(SEED)/",  # another name for a number
        "s/^random.seed(SEED)/print(SEED)/",  # no seed at all
        "s/SEED/SEAT/g",  # the constant is gone
    ],
)
def test_recipe_that_does_not_use_its_seed_is_not_confirmed(seeded: Path, cli: Cli, change: str) -> None:
    keep_in_turn(seeded, cli, f"{change};s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(seeded, cli)
    assert (data["verdict"], data["why"]) == ("not confirmed", "one seed")


def hide_seed(folder: Path) -> dict[str, str]:
    """Commit an edit that hides the seed, and return the commits before and after it."""
    base, text = git(folder, "rev-parse", "HEAD"), (folder / "train.py").read_text()
    (folder / "train.py").write_text(text.replace("random.seed(SEED)", "random.seed(0 * SEED)"))
    commit_all(folder, "hide the seed")
    return {"a": base, "b": git(folder, "rev-parse", "HEAD")}


@pytest.mark.parametrize(("scale", "why"), [(0.01, "one seed"), (1.0, "")])
def test_recipe_that_does_not_use_its_seed_is_found_in_spite_of_the_machines_noise(
    seeded: Path, scale: float, why: str
) -> None:
    commits, noise = hide_seed(seeded), (0.01, -0.01, 0.005, -0.004)
    made = StationsBuilder("studio", base=commits["a"])
    made.run("studio", 2.0, of=0).record(None, "keep")
    for change in noise:
        made.run("studio", 2.0 + 0.01 * change, of=0)
    made.write.save(journal_path(seeded, "t"))
    sides = {
        label: [Run(value + size * each, 9.0, station="studio", seed=43 + index) for index, each in enumerate(noise)]
        for label, value, size in (("a", 2.0, 1.0), ("b", 1.9, scale))
    }
    with open_runner(seeded, "t", None, "off") as runner, closing(Journal(journal_path(seeded, "t"))) as journal:
        found = evidence(Workbench(runner, journal, Interrupts()), commits, Sample(sides))
    assert (found["verdict"], found["why"]) == ("not confirmed" if why else "confirmed", why)


@pytest.mark.parametrize(
    ("places", "own", "b_varies", "why"),
    [
        (("studio", "mini", "studio", "mini"), (), False, "one seed"),
        (("studio", "mini", "studio", "mini"), (), True, ""),
        # With one pair a station, runs with the recipe's own seed tell.
        (("studio", "mini", "gpu"), ("studio",), False, "one seed"),
        (("studio", "mini", "gpu"), ("studio",), True, ""),
        (("studio", "mini", "gpu"), (), False, ""),
    ],
)
def test_recipe_that_does_not_use_its_seed_is_found_on_stations_of_different_levels(
    seeded: Path, places: tuple[str, ...], own: tuple[str, ...], b_varies: bool, why: str
) -> None:
    commits = hide_seed(seeded)
    made = StationsBuilder("studio", "mini", "gpu", base=commits["a"])
    made.run("studio", 2.0, of=0).record(None, "keep").run("mini", 2.0, of=0)
    number = made.propose(commit=commits["b"])
    for name in own:
        made.run(name, 1.9, candidate=number)
    made.record(number, "keep")
    made.write.save(journal_path(seeded, "t"))
    noise = (0.01, -0.01, 0.005, -0.004)

    def side(value: float, *, varies: bool) -> list[Run]:
        return [
            Run(value + made.levels[name] + varies * noise[index], 300.0, station=name, seed=43 + index)
            for index, name in enumerate(places)
        ]

    sample = Sample({"a": side(2.0, varies=True), "b": side(1.9, varies=b_varies)})
    with open_runner(seeded, "t", None, "off") as runner, closing(Journal(journal_path(seeded, "t"))) as journal:
        found = evidence(Workbench(runner, journal, Interrupts()), commits, on_reference(journal.state, sample))
    assert (found["verdict"], found["why"]) == ("not confirmed" if why else "confirmed", why)
    # The means are on the scale of the station that measured the baseline first.
    assert found["means"] == pytest.approx({"a": 2.0, "b": 1.9}, abs=0.01)
    assert found["means"]["a"] - found["means"]["b"] == pytest.approx(found["gain"])


SATURATED = """import random
SEED = 42  # search: off
EASY = 1  # search: off
draw = random.Random(SEED)
passed = min(200, sum(draw.random() < 0.8 for _ in range(200)) + 60 * (EASY - 1))
{noise}"""
NOISY = "passed = min(200, passed + random.SystemRandom().randrange(-3, 4)) if EASY == 1 else passed\n"


@pytest.mark.parametrize("noise", ["", NOISY])
def test_best_at_the_end_of_its_scale_for_every_seed_is_confirmed(quick: Path, cli: Cli, noise: str) -> None:
    """An accuracy of 200 of 200 shows no seed, and a coarse metric may not either."""
    recipe = with_code(quick, SATURATED.format(noise=noise), "loss = (200 - passed) / 200\n")
    keep_in_turn(recipe, cli, "s/^EASY = 1 /EASY = 2 /")
    data = confirmed(recipe, cli)
    assert data["values"]["b"] == [0.0] * 3
    assert len({*data["values"]["a"]}) > 1
    assert (data["verdict"], data["why"], data["reason"]) == ("confirmed", "", "")
    assert cli(recipe, "adopt").returncode == 0


def add_noise(folder: Path, metric: str = METRIC.strip()) -> None:
    """Commit a noise of 0.001 in the metric, which no seed sets."""
    noise = "; import os; loss += 0.001 * random.Random(os.urandom(8)).gauss(0, 1)"
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(text.replace(metric, metric + noise))
    commit_all(folder, "noise")


def add_unseeded_noise(folder: Path) -> None:
    text = (folder / "train.py").read_text()
    noise = "import os, random; loss += 0.001 * random.Random(os.urandom(8)).gauss(0, 1)"
    (folder / "train.py").write_text(text.replace('print("---")', f'{noise}\nprint("---")', 1))
    commit_all(folder, "noise")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        # One run each: nothing tells the seed's part of the noise.
        (("--verdict", "greedy"), "the session's own runs were lucky, their seed is, or the machine drifted"),
        # What was kept was chosen for its runs.
        ((), "the session's own runs were lucky, their seed is, or the machine drifted"),
    ],
)
def test_gain_that_is_gone_is_not_said_to_be_of_one_seed_unless_that_is_seen(
    seeded: Path, cli: Cli, flags: tuple[str, ...], says: str
) -> None:
    text = (seeded / "train.py").read_text()
    (seeded / "train.py").write_text(text.replace("0.5 * LUCK * (SEED == 42)", "0.006 * LUCK"))
    commit_all(seeded, "a small gain")
    add_noise(seeded, METRIC.strip().replace("0.5 * LUCK * (SEED == 42)", "0.006 * LUCK"))
    keep_in_turn(seeded, cli, "s/^LUCK = 0 /LUCK = 1 /", flags=flags)
    lines = journal(seeded)
    for line in lines:
        if line["event"] == "measured" and line["number"] == 1 and "of" not in line:
            line["metric"] -= 0.2
        if line["event"] == "judged" and line["number"] == 1 and line["evidence"]:
            line["evidence"] |= {"sigmas": 3.0, "mean": line["evidence"]["mean"] - 0.2}
    journal_path(seeded, "t").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = confirmed(seeded, cli)
    assert (found["verdict"], found["why"], found["reason"]) == ("not confirmed", "", says)
    assert f" not confirmed: {says} " in cli(seeded, "status").stdout


def test_gain_for_the_recipes_own_seed_does_not_take_back_that_of_new_ones(seeded: Path, cli: Cli) -> None:
    add_noise(seeded)
    keep_in_turn(seeded, cli, "s/^LUCK = 0 /LUCK = 1 /")
    assert confirmed(seeded, cli)["verdict"] == "not confirmed"
    own = cli(seeded, "confirm", "--seeds", "1").stdout
    assert " confirmed for one seed only: 95 %" in own
    assert " not confirmed: one seed alone shows the gain " in cli(seeded, "status").stdout
    refused = cli(seeded, "adopt")
    assert refused.returncode == 3
    assert "not confirmed: one seed alone shows the gain" in refused.stderr


def test_gain_for_the_recipes_own_seed_alone_says_so_on_a_noisy_machine(seeded: Path, cli: Cli) -> None:
    add_noise(seeded)
    keep_in_turn(seeded, cli, "s/^LUCK = 0 /LUCK = 1 /")
    assert confirmed(seeded, cli, "--seeds", "1")["noise"] > 0
    assert " confirmed for one seed only (" in cli(seeded, "status").stdout
    assert " confirmed for one seed only\n" in cli(seeded, "sessions").stdout.replace("  ", "\n")
    assert cli(seeded, "adopt").returncode == 0
    assert " confirmed for one seed only, 95 % interval " in git(seeded, "log", "-1", "--format=%B", "main")


def test_hidden_seed_is_told_apart_from_a_gain_of_one_seed(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^random.seed(SEED)/random.seed(0 * SEED)/;s/^RATE = 0.1 /RATE = 0.3 /")
    says = "not confirmed: it gives the same number with every seed, the other does not"
    assert says in cli(seeded, "confirm").stdout
    assert says in cli(seeded, "status").stdout
    assert says.removeprefix("not confirmed: ") in cli(seeded, "adopt").stderr


def test_recipe_without_a_seed_says_so(quick: Path, cli: Cli) -> None:
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    assert "seed not varied: baseline has no constant SEED or RANDOM_STATE" in cli(quick, "confirm").stdout
    assert " confirmed for one seed only (" in cli(quick, "status").stdout
    assert " confirmed for one seed only\n" in cli(quick, "sessions").stdout.replace("  ", "\n")
    assert cli(quick, "report").returncode == 0
    page = (quick / ".autoresearch/sessions/t/report/index.html").read_text()
    assert "The gain is confirmed: for one seed only." in page
    assert "better than the baseline, confirmed for one seed only" in page
    assert cli(quick, "adopt").returncode == 0
    assert " confirmed for one seed only, 95 % interval " in git(quick, "log", "-1", "--format=%B", "main")
    assert confirmed(quick, cli)["verdict"] == "confirmed"


@pytest.mark.parametrize("flags", [("--seeds", "1"), ()])
def test_noisy_recipe_without_a_seed_is_not_said_to_have_one(quick: Path, cli: Cli, flags: tuple[str, ...]) -> None:
    """Its runs vary as those of a recipe with new seeds do, so its gain is for no seed in particular."""
    add_unseeded_noise(quick)
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(quick, cli, *flags)
    assert (data["verdict"], data["one_seed"]) == ("confirmed", "baseline has no constant SEED or RANDOM_STATE")
    for shown in (cli(quick, "status").stdout, cli(quick, "sessions").stdout):
        assert "confirmed" in shown
        assert "seed" not in shown
    assert "(95 %, these data);" in cli(quick, "status").stdout


def test_runs_with_one_seed_count_as_one(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(seeded, cli, "--seeds", "2", "--runs", "4")
    assert data["seeds"] == [43, 44, 43, 44]
    assert data["runs"] == {"a": 4, "b": 4}
    wrong = cli(seeded, "confirm", "--seeds", "5", "--runs", "4")
    assert wrong.returncode == 2
    assert "--seeds must be at most --runs, got 5 and 4" in wrong.stderr


def test_earlier_versions_comparison_is_kept_apart(seeded: Path, cli: Cli) -> None:
    """Held-out runs of an earlier version all have the recipe's seed: they say nothing about another."""
    keep_in_turn(seeded, cli, "s/^LUCK = 0 /LUCK = 1 /")
    assert confirmed(seeded, cli, "--seeds", "1")["verdict"] == "confirmed"
    data = confirmed(seeded, cli)
    assert data["runs"] == {"a": 3, "b": 3}
    assert data["verdict"] == "not confirmed"


def test_negative_seed_is_left_behind(seeded: Path, cli: Cli) -> None:
    text = (seeded / "train.py").read_text()
    (seeded / "train.py").write_text(text.replace("SEED = 42 ", "SEED = -5 "))
    commit_all(seeded, "a negative seed")
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    assert confirmed(seeded, cli)["seeds"] == [1, 2, 3]
    assert cli(seeded, "status").returncode == 0


def test_second_confirmation_has_an_interval_for_whoever_repeats_it(seeded: Path, cli: Cli) -> None:
    """An interval for one look would exclude zero sooner or later."""
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    confirmed(seeded, cli)
    data = confirmed(seeded, cli)
    values = data["values"]
    assert isinstance(values, dict)
    always = anytime.interval(values["a"], values["b"], "minimize")
    assert (data["low"], data["high"]) == (pytest.approx(always.low), pytest.approx(always.high))
    assert always.low < difference(values["a"], values["b"], "minimize").low


def test_first_look_at_runs_of_a_kind_has_the_interval_of_one_look(seeded: Path, cli: Cli) -> None:
    """Runs with new seeds are about another question, so that looking at them costs nothing here."""
    add_noise(seeded)
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    confirmed(seeded, cli)
    noise = noise_of(fold(journal_path(seeded, "t")).measured)
    for always in (False, True):
        data = confirmed(seeded, cli, "--seeds", "1")
        values = data["values"]
        once = difference(values["a"], values["b"], "minimize", noise)
        assert (data["low"] < once.low - 1e-9) == always


def cut(folder: Path, count: int) -> None:
    """Cut the journal after this number of `compared` events, as a kill does."""
    lines = journal_path(folder, "t").read_text().splitlines(keepends=True)
    made = [index for index, line in enumerate(lines) if '"event": "compared"' in line]
    journal_path(folder, "t").write_text("".join(lines[: made[count - 1] + 1]))


def test_unfinished_confirmation_counts_whatever_is_asked_for_next(seeded: Path, cli: Cli) -> None:
    """Its seeds are used, its whole pairs are part of the sample, and they have been looked at."""
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    confirmed(seeded, cli, "--runs", "5")
    cut(seeded, 5)  # two pairs and a half
    assert "2 pairs of an unfinished confirmation counted as well" in cli(seeded, "confirm").stdout
    data = events(seeded, "confirmed")[-1]
    assert (data["seeds"], data["runs"], data["unfinished"]) == ([48, 49, 50], {"a": 5, "b": 5}, 2)
    values = data["values"]
    always = anytime.interval(values["a"], values["b"], "minimize")
    assert (data["low"], data["high"]) == (pytest.approx(always.low), pytest.approx(always.high))
    state = fold(journal_path(seeded, "t"))
    assert not state.parked
    assert len({run["log"] for run in events(seeded, "compared")}) == 11
    assert [len(latest_runs(state, data[label])) for label in "ab"] == [5, 5]
    again = confirmed(seeded, cli)
    assert (again["seeds"], again["runs"], again["unfinished"]) == ([51, 52, 53], {"a": 8, "b": 8}, 0)


def test_interrupted_confirmation_continues_with_its_seeds(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    confirmed(seeded, cli, "--runs", "5")
    cut(seeded, 1)
    # Half a pair is no look, but its seeds are used.
    data = confirmed(seeded, cli)
    assert (data["seeds"], data["runs"], data["unfinished"]) == ([48, 49, 50], {"a": 3, "b": 3}, 0)
    values = data["values"]
    assert data["low"] == pytest.approx(difference(values["a"], values["b"], "minimize").low)
    data = confirmed(seeded, cli, "--runs", "5")
    assert (data["seeds"], data["runs"]) == ([43, 44, 45, 46, 47], {"a": 8, "b": 8})
    assert len({run["log"] for run in events(seeded, "compared")}) == len(events(seeded, "compared")) == 16


def as_earlier_versions_did(folder: Path, cli: Cli, *flags: str) -> None:
    """Make a session whose `confirm --runs 5` was killed and the next one finished, with one folder and the same seeds.

    The logs that both name are those of the finished one.
    """
    confirmed(folder, cli, *flags)
    confirmed(folder, cli, "--runs", "5", *flags)
    lines = journal(folder)
    first, second = (index for index, line in enumerate(lines) if line["event"] == "comparing")
    made = [index for index, line in enumerate(lines) if line["event"] == "compared" and index > second]
    killed, finished = lines[second : made[3] + 1], lines[first:second]
    for line in killed:
        line["seeds"] = [seed - 3 for seed in line.get("seeds", ())]
        line["seed"] = line["seed"] - 3 if line.get("seed") else None
        line["log"] = line.get("log", "").replace("-2/", "/")
    text = [json.dumps(line) for line in (*lines[:first], *killed, *finished)]
    journal_path(folder, "t").write_text("\n".join(text) + "\n")


def test_unfinished_confirmation_of_an_earlier_version_whose_logs_are_gone_does_not_count(
    seeded: Path, cli: Cli
) -> None:
    """Runs that no log shows cannot be claimed, so they must not be part of what is."""
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    as_earlier_versions_did(seeded, cli)
    data = confirmed(seeded, cli)
    assert (data["seeds"], data["runs"], data["unfinished"]) == ([48, 49, 50], {"a": 6, "b": 6}, 0)
    state = fold(journal_path(seeded, "t"))
    assert [len(latest_runs(state, str(data[label]))) for label in "ab"] == [6, 6]
    done = cli(seeded, "claim")
    assert done.returncode == 0, done.stderr


def test_unfinished_confirmation_whose_seeds_were_used_since_is_not_continued(seeded: Path, cli: Cli) -> None:
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    as_earlier_versions_did(seeded, cli)
    data = confirmed(seeded, cli, "--runs", "5")
    assert (data["seeds"], data["runs"]) == ([48, 49, 50, 51, 52], {"a": 8, "b": 8})
    assert "claim" in cli(seeded, "claim").stdout
    # An interruption of the new one is continued.
    cut(seeded, 11)
    data = confirmed(seeded, cli, "--runs", "5")
    assert (data["seeds"], data["runs"]) == ([48, 49, 50, 51, 52], {"a": 8, "b": 8})
    assert cli(seeded, "claim").returncode == 0


def test_unfinished_confirmation_without_seeds_whose_logs_are_gone_is_not_continued(quick: Path, cli: Cli) -> None:
    add_unseeded_noise(quick)
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    as_earlier_versions_did(quick, cli)
    data = confirmed(quick, cli, "--runs", "5")
    assert (data["runs"], data["unfinished"]) == ({"a": 8, "b": 8}, 0)
    done = cli(quick, "claim")
    assert done.returncode == 0, done.stderr


def test_every_seed_is_repeated_until_it_has_an_undisturbed_run() -> None:
    """A repeat that is faster than the others changes which runs seem disturbed."""
    steps = {"a": [1000.0, 1000.0, 600.0, 1600.0, 1600.0, 1600.0], "b": [1000.0] * 6}
    found = PendingComparison({"a": "a", "b": "b"}, (), 3, seeds=(43, 44, 45))
    while (label := next_turn(found)) is not None:
        runs = found.runs.get(label, ())
        run = Run(2.0, 300.0, {"num_steps": steps[label][len(runs)]}, seed=next_seed(found, label))
        found = replace(found, runs={**found.runs, label: (*runs, run)})
    assert sorted(run.seed or 0 for run in found.runs["a"]) == [43, 43, 44, 44, 45, 45]
    assert [run.secondary["num_steps"] for run in counted(found, "a")] == [1600.0] * 3


def test_repeat_has_the_seed_of_the_run_that_it_replaces() -> None:
    """With seeds, one undisturbed run of each counts, so that both sides have the same ones."""
    runs: dict[str, list[Run]] = {"a": [], "b": []}
    found = PendingComparison({"a": "a", "b": "b"}, (), 3, seeds=(43, 44, 45))
    while (label := next_turn(found)) is not None:
        seed = next_seed(found, label)
        slow = (label, len(runs[label])) == ("a", 1)
        runs[label].append(Run(2.0, 300.0, {"num_steps": 49.0 if slow else 63.0}, seed=seed))
        found = replace(found, runs={name: tuple(each) for name, each in runs.items()})
    assert [run.seed for run in runs["a"]] == [43, 44, 45, 44]
    assert [run.seed for run in counted(found, "b")] == [43, 44, 45]
    assert sorted((run.seed, run.secondary["num_steps"]) for run in counted(found, "a")) == [
        *((43, 63.0), (44, 63.0), (45, 63.0)),
    ]


def test_run_beyond_the_wanted_ones_has_a_seed() -> None:
    """The first label runs once more if faults of the GPU end the runs of another."""
    found = PendingComparison({"a": "a", "b": "b"}, (), 1, {"a": (Run(2.0, 300.0, seed=43),)}, seeds=(43,))
    assert next_seed(found, "a") == 43
    more = replace(found, runs={"a": (Run(2.0, 300.0, seed=43), Run(1.0, 300.0, seed=43))})
    assert [run.metric for run in counted(more, "a")] == [2.0]


def test_runs_that_varied_one_of_two_seeds_do_not_count_with_later_ones(seeded: Path, cli: Cli) -> None:
    """An earlier version set SEED alone and wrote no `varied`."""
    text = (seeded / "train.py").read_text()
    second = "RANDOM_STATE = 7  # search: off\nrandom.seed(SEED + RANDOM_STATE)"
    (seeded / "train.py").write_text(text.replace("random.seed(SEED)", second))
    commit_all(seeded, "two seeds")
    keep_in_turn(seeded, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    first, path = confirmed(seeded, cli), journal_path(seeded, "t")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["varied"] for line in lines if line["event"] == "comparing"] == [["RANDOM_STATE", "SEED"]]
    assert first["runs"] == {"a": 3, "b": 3}
    for line in lines:
        line.pop("varied", None)
    # Interrupted after its first pair, and in a copy of the session complete.
    begun = next(index for index, line in enumerate(lines) if line["event"] == "comparing")
    upto = [index for index, line in enumerate(lines) if line["event"] == "compared"][1]
    for count in (upto + 1, len(lines)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        again = confirmed(seeded, cli)
        assert again["runs"] == {"a": 3, "b": 3}
        assert len(events(seeded, "compared")) == len([e for e in lines[begun:count] if e["event"] == "compared"]) + 6
    assert confirmed(seeded, cli)["runs"] == {"a": 6, "b": 6}


def test_seed_that_nothing_reads_is_named(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("RATE = 0.1", "SEED = 1  # search: off\nRATE = 0.1"))
    commit_all(quick, "a seed that nothing reads")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    assert "seed not varied: baseline reads its constant SEED nowhere" in cli(quick, "confirm").stdout
