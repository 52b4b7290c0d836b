"""Test misspelled search comments, constants that cannot be searched, and files in encodings other than UTF-8."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.journal.experiment import Experiment, Verdict
from agent.proposers.base import Context
from agent.proposers.search.candidates import draw_candidates
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import remarks_on, space_of, tunable_parameters, why_nothing
from agent.source.constants import constants, literal
from agent.source.encoding import decoded, encoded
from tests.common.model_server import model_server
from tests.common.proposals import NOTES, edit
from tests.common.sessions import rows
from tests.common.workspaces import QUICK, Cli, commit_all, git

SLIPS = [
    "# Search: 0.01..0.05",
    "# SEARCH: 0.01..0.05",
    "# search 0.01..0.05",
    "# search= 0.01..0.05",
    "# search = 0.01..0.05",
    "# search : 0.01..0.05",
    "#Search:0.01..0.05 log",
    "# Search: off",
    "# search off",
    "# search 1 | 2",
    "# search range: 0.01..0.05",
    "# search over 0.01..0.05",
    "# search\uff1a 0.01..0.05",
    "## Search 0.01-0.05",
    "# serach: 0.01..0.05",
    "# seach: off",
    "# searchs: 0.01..0.05",
]


@pytest.mark.quick
@pytest.mark.parametrize("comment", SLIPS)
def test_a_slip_is_named_with_its_line(comment: str) -> None:
    with pytest.raises(UsageError, match=r"t\.py:2: .* is not a valid search comment") as caught:
        tunable_parameters({"t.py": f"import math\nRATE = 0.1  {comment}\n"}, {})
    assert caught.value.hint.startswith("write `# search: LOW..HIGH`")
    with pytest.raises(UsageError, match=r"t\.py:1: "):
        tunable_parameters({"t.py": f"{comment}\nRATE = 0.1\n"}, {})


@pytest.mark.quick
@pytest.mark.parametrize(
    "comment",
    [
        "# search for better values some day",
        "# searched by hand, 0.1 was best",
        "# research: see the paper, 3..5 pages",
        "# the search: starts here",
        "# range 0.01..0.05 was tried",
        "# the learning rate",
        "# switch off",
        "# each: 1..3",
    ],
)
def test_prose_is_none(comment: str) -> None:
    assert tunable_parameters({"t.py": f"RATE = 0.1  {comment}\n{comment}\ntext = '# Search: 1..2'\n"}, {}) == {
        "RATE": 0.1
    }


def test_slips_stop_a_session_before_its_baseline(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text(QUICK.replace("# search: 1..16", "# Search: 1..16"))
    commit_all(quick, "slip")
    for more in ([], ["--dry-run"]):
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *more)
        assert done.returncode == 2
        assert "train.py:6: `# Search: 1..16` is not a valid search comment" in done.stderr
    assert not (quick / "results.tsv").exists()
    assert git(quick, "branch", "--list", "autoresearch/*") == ""


@pytest.mark.quick
def test_comments_that_steer_nothing_are_remarked_on(quick: Path, cli: Cli) -> None:
    source = "BETAS = (0.9, 0.95)  # search: 0.8..0.99\nrate = 0.1  # search: 0.01..1.0\n# search: off\n"
    assert [remark.split("; ")[0] for remark in remarks_on({"t.py": source + QUICK})] == [
        "t.py:1: search comment ignored: it does not follow a searchable constant",
        "t.py:2: search comment ignored: it does not follow a searchable constant",
        "t.py:3: search comment ignored: it is on a line of its own",
    ]
    branches = "if PROFILE == 'x':\n    RATE = 0.1  # search: 0.01..1.0\nelse:\n    RATE = 0.2  # search: off\n"
    assert remarks_on({"t.py": branches}) == []
    (quick / "train.py").write_text(source + QUICK)
    commit_all(quick, "odd")
    dry = cli(quick, "run", "--tag", "t", "--dry-run")
    assert dry.returncode == 0
    assert "train.py:3: search comment ignored: it is on a line of its own" in dry.stdout
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0
    assert done.stderr.index("train.py:2: search comment ignored") < done.stderr.index("#0 keep")


@pytest.mark.parametrize(
    "line",
    [
        "RANDOM_STATE = 42",
        "SPLIT_RNG = 3",
        "TEST_SIZE = 0.2",
        "VAL_SIZE = 0.1",
        "VAL_RATIO = 0.1",
        "TRAIN_SPLIT = 0.8",
        "SPLIT_RATIO = 0.8",
        "N_SPLITS = 5",
        "N_FOLDS = 5",
        "N_JOBS = 4",
        "NUM_WORKERS = 2",
        "VERBOSE = 1",
        "EVALUATION_STEPS = 50",
        "EVALUATION_BATCHES = 8",
        "NUM_EVALS = 8",
        "VALIDATION_STEPS = 50",
        "VAL_BATCHES = 16",
        "VAL_TOKENS = 4096",
        "MAX_VAL_BATCHES = 16",
        "NUM_VAL = 100",
        "TEST_FRAC = 0.2",
        "TESTS = 3",
        "TRAIN_FRAC = 0.8",
        "HOLDOUT_FRAC = 0.2",
        "HELD_OUT = 100",
        "N_FOLD = 5",
        "KFOLDS = 5",
        "FOLD = 1",
        "CV = 5",
        "N_REPEATS = 3",
        "NUM_RUNS = 3",
        "NUM_THREADS = 4",
        "NTHREADS = 4",
        "MASTER_PORT = 29500",
    ],
)
def test_seeds_splits_and_output_are_not_searched_without_a_comment(line: str) -> None:
    name = line.partition(" ")[0]
    assert space_of({"t.py": f"{line}\n"}, {}).dimensions == ()
    assert f"{name} is excluded by its name" in str(why_nothing({"t.py": f"{line}\n"}, {}))
    if name not in ("RANDOM_STATE", "SPLIT_RNG"):
        assert [*space_of({"t.py": f"{line}  # search: 0..9\n"}, {}).values()] == [name]


@pytest.mark.parametrize("name", ["SEED", "RANDOM_STATE", "DATA_SEED", "MANUALSEED", "SEED2", "SPLIT_RNG"])
def test_seed_is_never_searched(name: str) -> None:
    assert space_of({"t.py": f"{name} = 42\n"}, {}).dimensions == ()
    assert space_of({"t.py": f"{name} = 42  # search: off\n"}, {}).dimensions == ()
    assert remarks_on({"t.py": f"{name} = 42  # search: off\n"}) == []
    for form in ("1..100", "1 | 2"):
        files = {"t.py": f"{name} = 42  # search: {form}\n"}
        assert space_of(files, {}).dimensions == ()
        assert remarks_on(files) == [f"t.py:1: {name} is not searched: another seed only has other luck"]
        assert why_nothing(files, {}) == f"nothing to search: {name} is a seed"


@pytest.mark.parametrize("name", ["SEEDS", "N_SEEDS", "NUM_SEED"])
def test_number_of_seeds_is_searched_with_a_comment_only(name: str) -> None:
    assert space_of({"t.py": f"{name} = 3\n"}, {}).dimensions == ()
    assert [*space_of({"t.py": f"{name} = 3  # search: 1..6\n"}, {}).values()] == [name]


@pytest.mark.parametrize(
    "name",
    "VAL_WEIGHT VAL_LOSS_WEIGHT CV_WEIGHT TEST_TEMP TEST_TIME_TEMPERATURE PORT_WIDTH MASK_VAL LR_VAL REPEATS".split(),
)
def test_weight_or_temperature_is_searched_whatever_it_is_of(name: str) -> None:
    assert [*space_of({"t.py": f"{name} = 0.5\n"}, {}).values()] == [name]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("SEED = 42; LR = 0.03  # search: 0.01..0.1\n", {"LR": (0.01, 0.1)}),
        ("A = 0.5; B = 2.0  # search: 1..3\n", {"A": (0.0625, 4.0), "B": (1.0, 3.0)}),
        ("A = 0.5; B = 2.0  # search: off\n", {"A": (0.0625, 4.0)}),
        ("A = (0.5) ;  # search: 0..1\n", {"A": (0.0, 1.0)}),
        ("A = (  # search: 1..2\n    0.5  # search: 0..1\n)\n", {"A": (0.0, 1.0)}),
        ("A = 0.5\rB = 2.0  # search: 1..3\r", {"A": (0.0625, 4.0), "B": (1.0, 3.0)}),
        ("A = 0.5  # search: 0..1\r\nB = 2.0\r\n", {"A": (0.0, 1.0), "B": (0.25, 16.0)}),
        ("A = 0.5; print(1)  # search: 0..1\n", {"A": (0.0625, 4.0)}),
    ],
)
def test_comment_is_about_the_last_statement_of_its_line(source: str, found: dict[str, tuple[float, float]]) -> None:
    assert {each.name: (each.low, each.high) for each in space_of({"t.py": source}, {}).dimensions} == found


def test_other_languages_are_told_that_only_python_is_read() -> None:
    files = {"conf.yaml": "rate: 0.1\n", "train.sh": "echo\nRATE=0.1  # search: 0.01..1 log\nX=1  # search: it\n"}
    assert why_nothing(files, {}) == "nothing to search: the search reads only Python files, not conf.yaml, train.sh"
    assert remarks_on(files) == ["train.sh:2: search comment ignored: the search reads only Python files"]
    # Of several languages, the file that could have constants is named.
    assert why_nothing({**files, "train.py": "print(1)\n"}, {}) == "nothing to search: train.py has no named constants"


def test_comment_after_another_statement_is_remarked_on() -> None:
    (remark,) = remarks_on({"t.py": "B = 2\rA = 0.5; print(1)  # search: 0..1\rC = 3  # search: 1..9\r"})
    assert remark.startswith("t.py:2: search comment ignored: it does not follow a searchable constant")


@pytest.mark.parametrize(
    "line",
    [
        "SPLIT_HEADS = 3",
        "LATEST_SIZE = 3",
        "UNFOLDS = 3",
        "TREE_STATE = 3",
        "INTERVAL = 3",
        "VALUE_DIM = 3",
        "GRAD_CLIP_VAL = 1.0",
        "CVAE_DIM = 3",
        "SCAFFOLD = 3",
        "LAYER_REPEATS = 3",
        "SUPPORT = 3",
        "LATENT_TESTED = 3",
        "TRAIN_BATCH = 3",
        "TRUNCATE = 3",
    ],
)
def test_names_that_merely_resemble_seeds_and_splits_are_searched(line: str) -> None:
    assert len(space_of({"t.py": f"{line}\n"}, {}).dimensions) == 1


def test_small_powers_of_two_are_integers() -> None:
    space = space_of({"t.py": "DEPTH = 4\nHEADS = 8\nBATCH = 16\nTIED = 4  # search: 1..16 log\n"}, {})
    found = {each.name: (each.kind, each.low, each.high) for each in space.dimensions}
    assert found == {
        "DEPTH": ("int", 2, 8),
        "HEADS": ("int", 4, 16),
        "BATCH": ("power", 4, 64),
        "TIED": ("power", 1, 16),
    }


FLAG = "p.add_argument('--lr', type=float, default=0.04)"
ARGPARSE = f"import argparse\np = argparse.ArgumentParser()\n{FLAG}\n"
NOTHING = [
    (ARGPARSE, "--lr is a command-line flag"),
    ("ADAM_BETAS = (0.9, 0.95)\n", "ADAM_BETAS is not a single number"),
    ("SHIFT = -0.5\n", "SHIFT is negative"),
    (
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n    lr: float = 0.1\n",
        "the fields of Config are in a class",
    ),
    ("rate = 0.1\n", "rate is not in capitals"),
    ("RATE = 0.1  # search: off\n", "RATE is excluded by its search comment"),
    ("SEED = 3\n", "SEED is excluded by its name"),
    ("TIME_BUDGET = 300\n", "TIME_BUDGET is excluded (its name is that of a training budget)"),
    ("NAME = 'adam'\n", "NAME is a string without a search comment"),
    ("import os\nRATE = float(os.environ.get('RATE', '0.1'))\n", "RATE is computed"),
    ("config = {'lr': 0.1}\n", "config is not a single number"),
    ("print(1)\n", "t.py has no named constants"),
]


@pytest.mark.parametrize(("source", "why"), NOTHING)
def test_nothing_to_search_is_said_truly(source: str, why: str) -> None:
    said = why_nothing({"t.py": source}, {})
    assert said is not None
    assert said.startswith("nothing to search: ")
    assert why in said
    assert why_nothing({"t.py": source + "DEPTH = 4\n"}, {}) is None


def test_proposer_that_was_given_is_not_advised(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text("print(1)\n")
    commit_all(quick, "nothing to search")
    done = cli(quick, "run", "--tag", "t", "--agent-cmd", "true", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing to search: train.py has no named constants" in done.stdout
    assert "`--agent`" not in done.stdout


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_nothing_to_search_is_said_before_the_baseline(quick: Path, cli: Cli, more: list[str]) -> None:
    (quick / "train.py").write_text(ARGPARSE + "lr = p.parse_args().lr\nprint(f'val_bpb: {lr:.6f}')\n")
    commit_all(quick, "flags")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3", *more)
    assert done.returncode == 3
    assert "nothing to search: --lr is a command-line flag" in done.stderr
    assert not (quick / "results.tsv").exists()
    with model_server(lambda _: NOTES.format("higher") + edit(FLAG, FLAG.replace("0.04", "0.03"))) as server:
        model = ["--proposer", "llm", "--model", f"{server.url} m", "--verdict", "greedy"]
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *model, *more)
    assert done.returncode == 0
    assert "nothing to search" in done.stderr + done.stdout
    if not more:
        assert done.stderr.index("nothing to search") < done.stderr.index("#0 keep")
        assert [row["status"] for row in rows(quick)] == ["keep", "keep"]


def asked(source: str, number: int) -> dict[str, float]:
    files = {"t.py": source}
    base = Experiment(0, "baseline", "", "c", "d", tunable_parameters(files, {}), (), Verdict("keep", ""))
    proposal = SearchProposer().ask(Context(1, number, files, base, (base,), "minimize", {}))
    return {key: float(value) for key, value in tunable_parameters({**files, **proposal.files}, {}).items()}


@pytest.mark.quick
def test_steps_of_large_integers_are_relative() -> None:
    source = "WARMUP_ITERS = 700\nLR_DECAY_ITERS = 600000\nVOCAB = 50304\nHIDDEN = 48\n"
    before = tunable_parameters({"t.py": source}, {})
    for seed in range(40):
        for key, value in asked(source, seed).items():
            assert value == before[key] or abs(value / float(before[key]) - 1) > 0.02, (key, value)
    space = space_of({"t.py": source}, {})
    for values in draw_candidates(space, random.Random(0), 400):
        for key, moved in values.items():
            assert abs(float(moved) / float(before[key]) - 1) >= 0.01, (key, moved)


@pytest.mark.quick
def test_small_integers_count_one_by_one() -> None:
    assert {asked("DEPTH = 6  # search: 1..12\n", seed)["DEPTH"] for seed in range(20)} == {5.0, 7.0}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("cookie", "codec"),
    [
        ("# -*- coding: latin-1 -*-", "latin-1"),
        ("# vim: set fileencoding=cp1252 :", "cp1252"),
        ("#!/usr/bin/env python\n# coding=iso-8859-15", "iso-8859-15"),
        ("# coding: shift_jis", "shift_jis"),
        ("# coding: utf-8", "utf-8"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_encoding_that_is_declared_is_kept(cookie: str, codec: str, end: str) -> None:
    word = {"shift_jis": "\u4e16\u754c"}.get(codec, "caf\u00e9")
    data = f"{cookie}\n# {word}\nRATE = 0.1\n".replace("\n", end).encode(codec)
    text = decoded("train.py", data)
    assert word in text
    assert encoded("train.py", text) == data
    assert constants(text, {})["RATE"].value == 0.1


@pytest.mark.quick
def test_what_is_no_text_is_none() -> None:
    for path, data in (
        ("t.py", b"caf\xe9\n"),
        ("notes.md", b"# coding: latin-1\ncaf\xe9"),
        ("t.py", b"# coding: ascii\n\xe9"),
    ):
        with pytest.raises(UnicodeDecodeError):
            decoded(path, data)
    assert decoded("t.py", b"# coding: no-such-codec\n") == "# coding: no-such-codec\n"
    assert encoded("t.py", decoded("t.py", b"\xef\xbb\xbfRATE = 1\n")) == b"\xef\xbb\xbfRATE = 1\n"


LATIN = b"# -*- coding: latin-1 -*-\n# caf\xe9 \xa7\n"


def test_a_session_on_a_latin_1_recipe_keeps_every_other_byte(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_bytes(LATIN + QUICK.encode())
    commit_all(quick, "latin")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "5", "--verdict", "greedy")
    assert done.returncode == 0, done.stderr
    assert_consistent_bytes(quick)
    assert "keep" in [row["status"] for row in rows(quick)[1:]]


def test_choice_that_the_encoding_lacks_is_escaped(quick: Path, cli: Cli) -> None:
    choices = 'MODE = "a"  # search: "a" | "\\u2014" | "\xe9"\n'
    source = f"# -*- coding: latin-1 -*-\n{choices}print(f'val_bpb: {{1 - (MODE == chr(8212)) / 9:f}}')\n"
    (quick / "train.py").write_bytes(source.encode("latin-1"))
    commit_all(quick, "latin")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "5", "--verdict", "greedy")
    assert done.returncode == 0, done.stderr
    assert (quick / "train.py").read_bytes() == source.replace('"a"', "'\\u2014'", 1).encode("latin-1")
    assert [row["status"] for row in rows(quick)].count("keep") == 2
    found = constants(source, {})["MODE"]
    assert [literal(value, found) for value in ("\xe9", "\u2014")] == ['"\xe9"', "'\\u2014'"]
    assert [literal(value, replace(found, encoding="utf-8")) for value in ("\u2014",)] == ['"\u2014"']


def assert_consistent_bytes(folder: Path) -> None:
    now = (folder / "train.py").read_bytes()
    assert now.startswith(LATIN)
    assert len(now.splitlines()) == len((LATIN + QUICK.encode()).splitlines())
    assert git(folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_a_model_edits_a_latin_1_recipe_and_is_told_what_it_cannot_hold(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_bytes(LATIN + QUICK.encode())
    commit_all(quick, "latin")
    line = "RATE = 0.1  # search: 0.001..10 log"
    answers = iter(
        [
            NOTES.format("no") + edit(line, line.replace("0.1 ", "0.2 ") + "; \u2192 up"),
            NOTES.format("yes") + edit(line, line.replace("0.1 ", "0.3 ") + "; caf\u00e9"),
        ]
    )
    with model_server(lambda _: next(answers)) as server:
        model = ["--proposer", "llm", "--model", f"{server.url} m", "--verdict", "greedy"]
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *model)
    assert done.returncode == 0, done.stderr
    assert "train.py is encoded in latin-1, which cannot represent" in server.requests[1][2]["messages"][-1]["content"]
    assert b"RATE = 0.3" in (quick / "train.py").read_bytes()
    assert b"caf\xe9\n" in (quick / "train.py").read_bytes()


def test_an_agent_finds_and_leaves_a_latin_1_recipe(quick: Path, cli: Cli, tmp_path: Path) -> None:
    (quick / "train.py").write_bytes(LATIN + QUICK.encode())
    commit_all(quick, "latin")
    script = tmp_path / "agent.sh"
    script.write_text("#!/bin/sh\nLC_ALL=C sed -i 's/RATE = 0.1/RATE = 0.3/' train.py\n")
    script.chmod(0o755)
    done = cli(
        quick, "run", "--tag", "t", "--max-experiments", "1", "--verdict", "greedy", "--proposer", "command",
        "--agent-cmd", str(script), "--sandbox", "off",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["status"] == "keep", done.stderr
    assert (quick / "train.py").read_bytes() == (LATIN + QUICK.encode()).replace(b"RATE = 0.1", b"RATE = 0.3")
