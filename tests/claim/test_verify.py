"""`verify` in a clone that has never seen the session: what it replicates, and what it refuses with one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.claim import check
from agent.claim.folder import read_claim
from agent.claim.models import Pair
from agent.claim.replicate import Found, failed, references_of
from agent.errors import Violation
from agent.execution.allowance import Allowance
from agent.journal.experiment import Run
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from tests.common import claims, schemas
from tests.common.forked import Forked
from tests.common.processes import other_git
from tests.common.workspaces import Cli, commit_all, git

Change = Callable[[dict[str, Any]], object]


def test_claim_is_replicated_in_another_clone(reader: Path, claim: Path, cli: Cli) -> None:
    head, refs = git(reader, "rev-parse", "HEAD"), git(reader, "for-each-ref")
    done = cli(reader, "verify", str(claim), "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert re.fullmatch(r"replicated: [\d.]+ % better, 95 % interval [\d.]+ to [\d.]+ %, [2-8] seeds", data["says"])
    found = json.loads(Path(data["path"]).read_bytes())
    assert schemas.fault("attestation", found) is None
    assert schemas.fault("verify", json.loads(done.stdout)) is None
    assert Path(data["path"]).parent == claim / "attestations"
    claimed = json.loads((claim / "claim.json").read_bytes())
    used = {run["seed"] for side in claimed["runs"].values() for run in side} | {42}
    seeds = [pair["seed"] for pair in found["pairs"]]
    assert len({*seeds}) == len(seeds) >= 2
    assert not used & {*seeds}
    assert found["found"]["low"] > 0
    assert git(reader, "rev-parse", "HEAD") == head
    assert git(reader, "for-each-ref") == refs
    assert git(reader, "status", "--porcelain", "--untracked-files=no") == ""


def test_attestation_goes_where_it_is_wanted(reader: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(reader, "verify", str(claim), "--out", str(tmp_path / "mine" / "a.json"))
    assert done.returncode == 0, done.stderr
    assert schemas.fault("attestation", json.loads((tmp_path / "mine" / "a.json").read_bytes())) is None
    assert not (claim / "attestations").exists()


def test_shallow_clone_can_verify(author: Path, reader: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(author, "clone", "--quiet", "--depth", "1", "--branch", "main", author.as_uri(), str(shallow))
    assert git(shallow, "rev-parse", "--is-shallow-repository") == "true"
    done = cli(shallow, "verify", str(claim))
    assert done.returncode == 0, done.stderr
    assert reader.exists()


def test_commit_of_billions_of_files_is_refused(author: Path, reader: Path, claim: Path, cli: Cli) -> None:
    best = json.loads((claim / "claim.json").read_bytes())["commits"]["best"]
    work = claims.fresh_clone(author, claim.parent / "forger")
    git(work, "fetch", "--quiet", str(claim / "commits.bundle"), "refs/claim/*:refs/given/*")
    tree = git(work, "rev-parse", f"{best}^{{tree}}")
    for _ in range(9):
        names = "".join(f"040000 tree {tree}\t{number}\n" for number in range(10))
        tree = subprocess.run(
            ["git", "mktree"], cwd=work, input=names, capture_output=True, text=True, check=True
        ).stdout.strip()
    claims.rebundle(claim, work, git(work, "commit-tree", tree, "-p", best, "-m", "large"))
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    assert "false claim: its commits.bundle holds too many files in its best" in done.stderr


def in_run(content: dict[str, Any]) -> None:
    content["runs"]["b"][0]["metric"] -= 0.5


def in_steps(content: dict[str, Any]) -> None:
    content["runs"]["b"][0]["num_steps"] = 1


def in_digits(content: dict[str, Any]) -> None:
    content["runs"]["b"][0]["metric"] += 1e-8


def in_digits_of_the_gain(content: dict[str, Any]) -> None:
    content["confirmation"]["gain"] += 1e-8


def in_gain(content: dict[str, Any]) -> None:
    content["confirmation"]["gain"] = 0.9


FORGED: dict[str, tuple[Change, str]] = {
    "steps": (in_steps, r"claim\.json gives num_steps 1 for logs/b-1\.log, which shows 10"),
    "a run": (in_run, r"claim\.json gives [\d.]+ for logs/b-1\.log, which shows [\d.]+"),
    "the gain": (in_gain, r"its gain of 0\.900000 does not follow from its runs, which show [\d.]+"),
    "digits that are not shown": (in_digits, r"claim\.json gives [\d.]{9,} for logs/b-1\.log, which shows [\d.]+"),
    "digits of the gain": (in_digits_of_the_gain, r"its gain of 0\.[\d]{8,} does not follow from its runs, which .*"),
    "the interval": (
        lambda content: content["confirmation"].update(low=0.1),
        "its interval does not follow from its runs",
    ),
    "the noise": (lambda content: content["confirmation"].update(noise=0.0), "its interval does not follow.*"),
    "a hash": (
        lambda content: content["runs"]["a"][1].update(sha256="0" * 64),
        r"logs/a-2\.log was changed: its hash is not the one in claim\.json",
    ),
    "another commit": (
        lambda content: content["commits"].update(best=content["commits"]["baseline"]),
        r"its commits\.bundle holds other commits",
    ),
    "the protocol": (
        lambda content: content.update(protocol="0" * 64),
        r"its protocol\.json is not the one that its claim\.json names",
    ),
    "a budget that no session has": (
        lambda content: content.update(training_seconds=0.001),
        r"its runs train for 0\.001 s, and no session for less than 0\.1 s",
    ),
    "the direction": (
        lambda content: content.update(direction="maximize"),
        r"its metric is val_bpb \(maximize\), but its protocol\.json has another one",
    ),
    "the harness": (
        lambda content: content.update(harness="0" * 64),
        r"the harness of its baseline is not the one that its claim\.json names",
    ),
    "the changes": (
        lambda content: content["changes"]["constants"].clear(),
        "its description of what the best changes does not follow from its commits",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_claim_is_refused_in_one_sentence(reader: Path, claim: Path, cli: Cli, what: str) -> None:
    change, words = FORGED[what]
    claims.edit(claim, change)
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.fullmatch(f"error: false claim: {words}", errors[0]), errors
    assert not (claim / "attestations").exists()


def test_steps_that_no_log_shows_do_not_count(claim: Path) -> None:
    assert check.fewest_steps(read_claim(claim)) == 10
    claims.forge_runs(claim, (2.0, 2.01, 2.02), (1.0, 1.01, 1.02))
    claims.edit(claim, in_steps)
    evidence = read_claim(claim)
    check.require_consistent(evidence)
    assert check.fewest_steps(evidence) is None


def test_forged_log_is_refused(reader: Path, claim: Path, cli: Cli) -> None:
    (claim / "logs" / "b-1.log").write_text("val_bpb: 0.1\n")
    done = cli(reader, "verify", str(claim))
    assert (done.returncode, "logs/b-1.log was changed" in done.stderr) == (1, True)


def test_forged_protocol_is_refused(reader: Path, claim: Path, cli: Cli) -> None:
    text = (claim / "protocol.json").read_text()
    (claim / "protocol.json").write_text(text.replace('"hardTimeoutSeconds": 60', '"hardTimeoutSeconds": 61'))
    assert "false claim: its protocol.json is not the one" in cli(reader, "verify", str(claim)).stderr


def test_other_commits_in_the_bundle_are_refused(author: Path, reader: Path, claim: Path, cli: Cli) -> None:
    best = json.loads((claim / "claim.json").read_bytes())["commits"]["best"]
    claims.forge_best(claim, author, {"train.py": "print('val_bpb: 0.1')\n"}, {})
    claims.edit(claim, lambda content: content["commits"].update(best=best))
    done = cli(reader, "verify", str(claim))
    assert (done.returncode, "its commits.bundle holds other commits" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"prepare.py": "HARNESS = False\n"}, "the harness of its best is not the one that its claim.json names"),
        ({"notes.txt": "more\n"}, "its best changes notes.txt, which mutableSurface does not allow"),
        ({"train.py": None}, "its best makes train.py a link"),
        ({"results.tsv": None}, "its best makes results.tsv a link"),
    ],
)
def test_best_that_changes_what_it_may_not_is_refused(
    author: Path, reader: Path, claim: Path, cli: Cli, files: dict[str, str | None], words: str
) -> None:
    claims.forge_best(claim, author, files, {})
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    assert words in done.stderr


def with_link(author: Path, claim: Path, folder: Path, name: str, target: str) -> None:
    """Make the claim one of a baseline that links to a target, and prints what is there."""
    work = claims.fresh_clone(author, folder)
    (work / name).parent.mkdir(exist_ok=True)
    (work / name).symlink_to(target)
    git(work, "add", name)
    spy = f"import pathlib\nprint([each.read_text() for each in pathlib.Path({name!r}).glob('*')])\n"
    claims.with_baseline(claim, work, lambda text: spy + text, DEPTH=(4, 6))


@pytest.mark.parametrize(("name", "target"), [("data", "{private}"), ("lib/data", "../../private"), ("a", "data/..")])
def test_link_that_the_reader_lacks_shows_nothing_of_the_machine(
    author: Path, reader: Path, claim: Path, cli: Cli, tmp_path: Path, name: str, target: str
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "letter.txt").write_text("SECRET")
    (reader / "data").symlink_to(tmp_path / "private")  # untracked, and for its own runs
    with_link(author, claim, tmp_path / "stranger", name, target.format(private=tmp_path / "private"))
    done = cli(reader, "verify", str(claim), "--seeds", "2")
    assert done.returncode == 3, done.stderr
    assert "the baseline of the claim has a link that leads out of the repository, and HEAD has none" in done.stderr
    assert f": {name} -> " in done.stderr
    assert not [*reader.glob(".autoresearch/claims/*/*.log")]


def test_links_of_the_reader_and_within_the_repository_are_no_fault(
    author: Path, claim: Path, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    own = claims.fresh_clone(author, tmp_path / "own")
    (own / "data").symlink_to(tmp_path / "data")
    git(own, "add", "data")
    git(own, "commit", "--quiet", "-m", "data")
    with_link(own, claim, tmp_path / "stranger", "lib/recipe.py", "../train.py")
    done = cli(claims.fresh_clone(own, tmp_path / "clone"), "verify", str(claim), "--seeds", "3")
    assert "replicated: " in done.stdout, done.stderr


@pytest.mark.parametrize("name", [".gitattributes", "lib/.gitattributes", ".lfsconfig"])
def test_filters_of_the_reader_are_not_chosen_by_a_claim(
    author: Path, reader: Path, claim: Path, cli: Cli, tmp_path: Path, name: str
) -> None:
    work = claims.fresh_clone(author, tmp_path / "stranger")
    (work / name).parent.mkdir(exist_ok=True)
    (work / name).write_text("* filter=own\n")
    git(work, "add", name)
    claims.with_baseline(claim, work, lambda text: f"{text}\n", DEPTH=(4, 6))
    git(reader, "config", "--global", "filter.own.smudge", f"touch {tmp_path}/ran; cat")
    done = cli(reader, "verify", str(claim), "--seeds", "2")
    assert done.returncode == 3, done.stderr
    assert f"the baseline of the claim has another {name} than HEAD, which chooses the programs by which" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("lines", "copies"), [(2**18 + 1, 1), (2**18 - 2**12, 17)])
def test_code_that_is_too_large_to_parse_is_refused(
    author: Path, reader: Path, claim: Path, cli: Cli, tmp_path: Path, lines: int, copies: int
) -> None:
    work = claims.fresh_clone(author, tmp_path / "large")
    protocol = json.loads((work / "protocol.json").read_bytes())
    protocol["mutableSurface"]["allowedGlobs"] = ["train.py", "parts/*.py"]
    for place in (work, reader):
        (place / "protocol.json").write_text(json.dumps(protocol))
        commit_all(place, "parts")
    shutil.copy(work / "protocol.json", claim)
    claims.edit(claim, lambda content: content.update(protocol=load_protocol(work).digest))
    (work / "parts").mkdir()
    for number in range(copies):
        (work / "parts" / f"p{number}.py").write_text("A=1\n" * lines)
    git(work, "add", "parts")
    claims.with_baseline(claim, work, lambda text: f"{text}\n", DEPTH=(4, 6))
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1, done.stderr
    said = "parts/p0.py of its baseline has 1,048,580 bytes, of which 1,048,576 are read at most"
    assert f"false claim: {said if copies == 1 else 'its baseline has over 2 MiB of code'}" in done.stderr


def test_one_file_under_many_names_is_many(author: Path, reader: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    work = claims.fresh_clone(author, tmp_path / "many")
    (work / "data").mkdir()
    for number in range(17):
        (work / "data" / f"{number}.bin").write_bytes(bytes(2**24))
    git(work, "add", "data")
    claims.with_baseline(claim, work, lambda text: f"{text}\n", DEPTH=(4, 6))
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1, done.stderr
    assert "false claim: its baseline adds 18 files of 272 MiB, which is too much to run" in done.stderr


def test_training_budget_of_the_claim_is_said(reader: Path, claim: Path, cli: Cli) -> None:
    claims.edit(claim, lambda content: content.update(training_seconds=0.5))
    done = cli(reader, "verify", str(claim), "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "runs train for 0.5 s (budget of the protocol: 300 s), up to 2 pairs\n" in done.stderr
    assert re.search(r"^replicated: .* 2 seeds; runs trained for 0\.5 s, not the 300 s of the protocol\n", done.stdout)


def test_bundle_that_is_none_is_refused(reader: Path, claim: Path, cli: Cli) -> None:
    (claim / "commits.bundle").write_bytes(b"# v2 git bundle\nnonsense")
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    assert "false claim: its commits.bundle " in done.stderr
    assert "Traceback" not in done.stderr


def test_another_harness_is_named(reader: Path, claim: Path, cli: Cli) -> None:
    (reader / "prepare.py").write_text("HARNESS = 'newer'\n")
    commit_all(reader, "a newer harness")
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 3
    assert "the claim has another harness than HEAD: prepare.py differs" in done.stderr


def test_another_protocol_is_refused(reader: Path, claim: Path, cli: Cli) -> None:
    text = (reader / "protocol.json").read_text()
    (reader / "protocol.json").write_text(text.replace('"hardTimeoutSeconds": 60', '"hardTimeoutSeconds": 61'))
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 3
    assert "the claim was measured under another protocol.json" in done.stderr
    assert ": execution.hardTimeoutSeconds: 60.0 -> 61.0\n" in done.stderr


def test_pattern_of_another_protocol_reads_no_log(reader: Path, claim: Path, cli: Cli) -> None:
    content = json.loads((claim / "protocol.json").read_bytes())
    rule = content["measurement"]["primaryMetric"]["extract"]
    rule.update(pattern="^score: ([0-9.]+)$", exampleStdout="score: 1.5")
    (claim / "protocol.json").write_text(json.dumps(content))
    digest = Protocol.model_validate(content).digest
    claims.edit(claim, lambda found: found.update(protocol=digest))
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 3, done.stderr
    assert "the claim was measured under another protocol.json" in done.stderr


def test_gain_that_is_not_there_is_not_replicated(author: Path, reader: Path, claim: Path, cli: Cli) -> None:
    """A consistent forgery: its best is the baseline with a rate that makes no difference."""
    text = git(author, "show", "main:train.py") + "\n"
    claims.forge_best(claim, author, {"train.py": text.replace("RATE = 0.1 ", "RATE = 0.1000001 ")}, {})
    change = {"file": "train.py", "name": "RATE", "before": 0.1, "after": 0.1000001}
    claims.edit(claim, lambda content: content["changes"].update(files=["train.py"], constants=[change], code=False))
    claims.forge_runs(claim, (2.0, 2.01, 2.02), (1.0, 1.01, 1.02))
    done = cli(reader, "verify", str(claim), "--json")
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["verdict"] == "not replicated"
    assert "; claimed was " in data["says"]
    assert data["found"]["high"] < 0.9


def test_best_that_fails_here_is_not_replicated(author: Path, reader: Path, claim: Path, cli: Cli) -> None:
    text = git(author, "show", "main:train.py") + "\n"
    broken = text.replace("loss = ", "raise RuntimeError('no such kernel')\nloss = ")
    claims.forge_best(claim, author, {"train.py": broken}, {"files": ["train.py"], "constants": [], "code": True})
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    assert "not replicated: its run failed: " in done.stdout
    assert "no such kernel" in done.stdout


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("raise MemoryError", "out of memory: "),
        ("import time\ntime.sleep(60)", "timed out: killed after the hard limit of "),
    ],
)
def test_best_that_this_machine_fails_is_not_told(
    author: Path, claim: Path, cli: Cli, tmp_path: Path, fails: str, why: str
) -> None:
    author = claims.fresh_clone(author, tmp_path / "limited")
    protocol = (author / "protocol.json").read_text()
    (author / "protocol.json").write_text(protocol.replace('"hardTimeoutSeconds": 60', '"hardTimeoutSeconds": 3'))
    commit_all(author, "a shorter limit")
    baseline, text = git(author, "rev-parse", "HEAD"), git(author, "show", "main:train.py") + "\n"
    digest = load_protocol(author).digest
    shutil.copy(author / "protocol.json", claim)
    claims.edit(claim, lambda content: content.update(protocol=digest))
    claims.edit(claim, lambda content: content["commits"].update(baseline=baseline))
    broken = text.replace("loss = ", f"{fails}\nloss = ", 1)
    claims.forge_best(claim, author, {"train.py": broken}, {"files": ["train.py"], "constants": [], "code": True})
    done = cli(claims.fresh_clone(author, tmp_path / "clone"), "verify", str(claim))
    assert done.returncode == 1, done.stderr
    assert f"cannot tell: its run failed on this machine: {why}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (Run(None, 1.0, error="voided: it handed over its model after 400.0 s"), "cannot tell"),
        (Run(None, 1.0, error="voided: it trained for 400.0 s after its first text"), "cannot tell"),
        (Run(None, 1.0, error="voided: its evaluation took more than 74.0 s"), "cannot tell"),
        (Run(None, 1.0, error="the GPU failed in 6 runs in a row", fault="machine"), "cannot tell"),
        (Run(None, 1.0, error="voided: its predictions depend on later tokens"), "not replicated"),
        (Run(None, 1.0, error="killed: it filled the disk"), "cannot tell"),
    ],
)
def test_failures_that_may_be_those_of_the_machine(run: Run, verdict: str) -> None:
    crash = Run(None, 1.0, error="crashed: exit code 1")
    assert failed([crash, run])[0] == failed([run, crash])[0] == verdict
    assert failed([crash, crash])[0] == "not replicated"


def test_late_run_is_compared_with_the_baseline_by_name() -> None:
    runs = [Run(2.0, 300.0, {"num_steps": 100.0}, untimed=40.0, overrun=1.0)]
    for label in ("a", "b"):
        with pytest.raises(Violation, match=r"; the baseline took 1\.0 s more"):
            Allowance.of(300.0, references_of(label, runs, 90.0)).require_trained(320.0)


@pytest.mark.parametrize(
    "instead", ["random.Random(7)", "(SEED, __import__('functools').partial(random.Random, 7)())[1]"]
)
def test_best_that_ignores_the_seed_is_refused(author: Path, reader: Path, claim: Path, cli: Cli, instead: str) -> None:
    text = git(author, "show", "main:train.py") + "\n"
    own = text.replace("random.Random(SEED)", instead)
    claims.forge_best(claim, author, {"train.py": own}, {"files": ["train.py"], "constants": [], "code": True})
    done = cli(reader, "verify", str(claim))
    assert done.returncode == 1
    assert "its best does not use SEED where the baseline does" in done.stderr


def test_best_with_one_number_for_every_seed_is_not_replicated(
    author: Path, reader: Path, claim: Path, cli: Cli
) -> None:
    text = git(author, "show", "main:train.py") + "\n"
    own = text.replace("random.Random(SEED)", "random.Random(7 + 0 * SEED)").replace("RATE = 0.1 ", "RATE = 0.3 ")
    claims.forge_best(claim, author, {"train.py": own}, {"files": ["train.py"], "code": True})
    change = {"file": "train.py", "name": "RATE", "before": 0.1, "after": 0.3}
    claims.edit(claim, lambda content: content["changes"].update(constants=[change]))
    done = cli(reader, "verify", str(claim), "--seeds", "3")
    assert done.returncode == 1, done.stderr
    assert "cannot tell: the best gives the same number with every seed, unlike the baseline" in done.stdout


def test_equal_numbers_of_a_best_that_draws_as_the_baseline_does_are_those_of_its_metric() -> None:
    values = ((0.8, 1.0), (0.83, 1.0), (0.79, 1.0))
    pairs = [Pair(seed=seed, first="a", a=a, b=b, holdout_a=None, holdout_b=None) for seed, (a, b) in enumerate(values)]
    assert Found(pairs=pairs).of_one_seed
    assert not Found(pairs=pairs, alters_randomness=False).of_one_seed
    fine = [pair.model_copy(update={"a": pair.a + 0.000123 * seed}) for seed, pair in enumerate(pairs)]
    assert Found(pairs=fine, alters_randomness=False).of_one_seed


def test_result_of_a_recipe_that_renames_its_seed_is_said_to_be_for_that_seed(
    author: Path, claim: Path, cli: Cli, tmp_path: Path
) -> None:
    reader = claims.fresh_clone(author, tmp_path / "clone")

    def renamed(text: str) -> str:
        return text.replace("SEED", "LUCK")

    claims.with_baseline(claim, claims.fresh_clone(author, tmp_path / "renamed"), renamed, DEPTH=(4, 6))
    done = cli(reader, "verify", str(claim), "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "2 pairs with the recipe's own seed only" in done.stdout
    assert "the recipe of HEAD has a seed, and a commit of the claim has none" in done.stderr


def test_too_much_noise_cannot_tell(author: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    def noisy(text: str) -> str:
        text = text.replace("gauss(0, 0.002)", "gauss(0, 0.3)")
        return text.replace("Random(SEED)", "Random(SEED * 1000 + WIDTH)")

    author = claims.with_baseline(claim, claims.fresh_clone(author, tmp_path / "noisy"), noisy, WIDTH=(64, 65))
    reader = claims.fresh_clone(author, tmp_path / "clone")
    # Each has new seeds, and an interval at 95 % is wrong once in twenty times: hardly ever three times in a row.
    for _ in range(3):
        done = cli(reader, "verify", str(claim), "--seeds", "2")
        if "cannot tell: " in done.stdout:
            break
    assert done.returncode == 1, done.stderr
    assert "cannot tell: " in done.stdout


def test_baseline_that_fails_here_is_a_precondition(author: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    def broken(text: str) -> str:
        return text.replace("loss = ", "assert DEPTH > 4, 'not here'\nloss = ")

    author = claims.with_baseline(claim, claims.fresh_clone(author, tmp_path / "broken"), broken, DEPTH=(4, 5))
    done = cli(claims.fresh_clone(author, tmp_path / "clone"), "verify", str(claim))
    assert done.returncode == 3
    assert "the baseline fails here: " in done.stderr
    assert "not here" in done.stderr
    assert not (claim / "attestations").exists()


def test_ctrl_c_leaves_nothing_half_done(author: Path, claim: Path, tmp_path: Path) -> None:
    def slow(text: str) -> str:
        return text.replace("loss = ", "import time\ntime.sleep(30)\nloss = ")

    author = claims.with_baseline(claim, claims.fresh_clone(author, tmp_path / "slow"), slow, DEPTH=(4, 5))
    reader = claims.fresh_clone(author, tmp_path / "clone")
    work = Forked(reader, ("verify", str(claim)), os.environ)
    deadline = time.monotonic() + 60
    while not [*reader.glob(".autoresearch/claims/*/a-1.log")]:
        assert time.monotonic() < deadline
        assert work.poll() is None
        time.sleep(0.02)
    work.send_signal(signal.SIGINT)
    _, errors = work.communicate()
    assert work.returncode == 130
    assert "stopped; 0 finished pairs of runs are dropped, and the claim is as before" in errors
    assert not (claim / "attestations").exists()
    assert not [*reader.glob(".autoresearch/claims/*/*")]


def test_ctrl_c_ends_a_filter_that_hangs(author: Path, reader: Path, claim: Path, tmp_path: Path) -> None:
    work = claims.fresh_clone(author, tmp_path / "filtered")
    (work / ".gitattributes").write_text("weights.bin filter=own\n")
    git(work, "add", ".gitattributes")
    git(work, "commit", "--quiet", "-m", "a filter")
    clone = claims.fresh_clone(work, tmp_path / "clone")
    (work / "weights.bin").write_text("a pointer")
    git(work, "add", "weights.bin")
    claims.with_baseline(claim, work, lambda text: f"{text}\n", DEPTH=(4, 6))
    git(reader, "config", "--global", "filter.own.smudge", f"touch {tmp_path}/hangs; exec sleep 10000")
    verify = Forked(clone, ("verify", str(claim)), os.environ)
    deadline = time.monotonic() + 60
    while not (tmp_path / "hangs").exists():
        assert time.monotonic() < deadline
        assert verify.poll() is None
        time.sleep(0.02)
    verify.send_signal(signal.SIGINT)
    try:
        _, errors = verify.communicate(timeout=60)
    finally:
        verify.kill()
    assert verify.returncode == 130
    assert "stopped; 0 finished pairs of runs are dropped" in errors


def test_ctrl_c_ends_the_git_that_reads_the_bundle(
    reader: Path, claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = f"touch {tmp_path}/fetches; sleep 10000;"
    path = other_git(tmp_path / "bin", f'*" fetch "*{claim}*', "", 1, stays)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    work = Forked(reader, ("verify", str(claim)), os.environ)
    deadline = time.monotonic() + 60
    while not (tmp_path / "fetches").exists():
        assert time.monotonic() < deadline
        assert work.poll() is None
        time.sleep(0.02)
    work.send_signal(signal.SIGINT)
    try:
        _, errors = work.communicate(timeout=60)
    finally:
        work.kill()
    assert work.returncode == 130
    assert "stopped; 0 finished pairs of runs are dropped" in errors
