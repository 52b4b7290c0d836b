"""`init` on real repositories of several kinds, each tested and then researched for three experiments."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NoMetric
from agent.init.choose import choose_metric
from agent.init.names import meaning
from agent.init.numbers import in_json, in_lines, in_output, pytest_summary
from agent.protocol.extract import extract
from agent.protocol.load import load_protocol, require_runnable
from agent.protocol.models import Metric
from tests.common.in_process import call
from tests.common.sessions import rows
from tests.common.workspaces import ROOT, SIEVE, Cli, git, repository

SCORE = "def score(rate, depth):\n    return 1 + (rate - 0.4) ** 2 + 0.01 * (depth - 7) ** 2\n"
KARPATHY = {
    "prepare.py": f"TIME_BUDGET = 300\n{SCORE}\nif __name__ == '__main__':\n    print('prepared')\n",
    "train.py": (
        "from prepare import TIME_BUDGET, score\n\nRATE = 0.1\nDEPTH = 4\n\n"
        "for step in range(3):\n    print(f'step {step} loss {1 / (step + 1):.4f} lr {RATE}')\n"
        "print('---')\n"
        "print(f'val_bpb:          {score(RATE, DEPTH):.6f}')\n"
        "print('training_seconds: 300.1')\nprint('peak_vram_mb:     2048.0')\nprint('num_steps:        953')\n"
    ),
    "program.md": "The goal is simple: get the lowest val_bpb.\n",
    "README.md": "# nano\n\n    uv run prepare.py\n    uv run train.py\n",
    "pyproject.toml": '[project]\nname = "nano"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = []\n',
}
TRAINING = {
    "main.py": (
        "import argparse\n\nfrom data import load\nfrom nn.model import fit\n\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--epochs', type=int, default=9)\n"
        "for epoch in range(parser.parse_args().epochs):\n"
        "    print(f'epoch {epoch} train_loss={1 / (epoch + 1):.3f} val_loss={fit(load(), epoch):.4f} in 0.1s')\n"
    ),
    "nn/__init__.py": "",
    "nn/model.py": "RATE = 0.1\nSIZE = 32\n\n\ndef fit(text, epoch):\n"
    "    return len(text) / 10 + (RATE - 0.3) ** 2 + abs(SIZE - 64) / 1000 + 1 / (epoch + 2)\n",
    "data.py": "from pathlib import Path\n\n\ndef load():\n    return Path('data/corpus.txt').read_text()\n",
    "README.md": "# A net\n\n```sh\npip install -r requirements.txt\npython main.py --epochs 2  # quick\n```\n",
    "requirements.txt": "numpy\n",
    ".gitignore": "data/\n",
}
BENCHMARK = {
    "src/fast/__init__.py": "from .core import work as work\n",
    "src/fast/core.py": "CHUNK = 16\n\n\ndef work():\n    return abs(CHUNK - 50)\n",
    "benchmarks/bench_core.py": (
        "import json\nimport sys\n\nsys.path.insert(0, 'src')\nfrom fast import work\n\n"
        "with open('bench.json', 'w') as file:\n"
        "    json.dump({'repeats': 3, 'results': {'latency': {'p50': 1.5 + work()}}}, file, indent=2)\nprint('done')\n"
    ),
}
TESTS = {
    "calc/__init__.py": "from calc.core import total as total\n",
    "calc/core.py": "LIMIT = 8\nROUNDS = 1000\n\n\ndef total(n):\n    for _ in range(ROUNDS):\n        pass\n"
    "    return n if n < LIMIT else 0\n",
    "tests/test_core.py": "import pytest\nfrom calc import total\n\n\n"
    "@pytest.mark.parametrize('n', [1, 2, 9, 12, 15])\ndef test_total(n):\n    assert total(n) == n\n",
    "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
}


def researched(folder: Path, cli: Cli, tmp_path: Path, *flags: str) -> dict[str, Any]:
    """Run init, commit and three experiments, as a user would. Returns the protocol."""
    env = {"AUTORESEARCH_CACHE": str(tmp_path / "cache"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    if "uv" in "".join(flags):
        env.pop("PATH")
    before = git(folder, "status", "--porcelain", "--ignored")
    done = cli(folder, "init", *[flag for flag in flags if flag != "uv"], **env)
    assert done.returncode == 0, done.stderr
    wrote = git(folder, "status", "--porcelain", "--ignored").replace("?? protocol.json", "")
    assert wrote.split() == before.split()
    require_runnable(load_protocol(folder))
    assert cli(folder, "protocol", "check").returncode == 0
    assert "git add protocol.json && git commit" in done.stdout
    git(folder, "add", "protocol.json")
    git(folder, "commit", "--quiet", "-m", "protocol")
    ran = cli(folder, "run", "--tag", "first", "--max-experiments", "3", **env)
    assert ran.returncode == 0, ran.stderr
    table = rows(folder)
    assert len(table) == 4, table
    assert {row["status"] for row in table} <= {"keep", "discard"}, table
    assert git(folder, "status", "--porcelain", "--untracked-files=no") == ""
    content: dict[str, Any] = json.loads((folder / "protocol.json").read_bytes())
    return content


def test_init_reads_repository_of_same_family(tmp_path: Path, program: Cli) -> None:
    folder = repository(tmp_path / "nano", KARPATHY)
    protocol = researched(folder, program, tmp_path, "uv")
    assert protocol["execution"]["command"] == "uv run train.py"
    assert protocol["execution"]["stopCondition"]["trainingSecondsBudget"] == 300
    assert protocol["environment"]["setupCommands"] == ["uv sync", "uv run prepare.py"]
    assert protocol["mutableSurface"]["allowedGlobs"] == ["train.py"]
    assert protocol["immutableHarness"]["paths"] == ["prepare.py"]
    assert {"pyproject.toml", "uv.lock"} <= {*protocol["mutableSurface"]["forbiddenGlobs"]}
    primary = protocol["measurement"]["primaryMetric"]
    assert (primary["name"], primary["direction"], primary["extract"]["kind"]) == ("val_bpb", "minimize", "regex")
    assert "val_bpb:          1.18" in primary["extract"]["exampleStdout"]
    assert [m["name"] for m in protocol["measurement"]["secondaryMetrics"]] == ["peak_vram_mb", "num_steps"]
    assert protocol["provenance"]["resultsLog"]["columns"][:3] == ["commit", "val_bpb", "memory_gb"]
    assert rows(folder)[0]["memory_gb"] == "2.0"


def test_init_reads_metric_printed_each_epoch(tmp_path: Path, cli: Cli) -> None:
    folder = repository(tmp_path / "net", TRAINING)
    (folder / "data").mkdir()
    (folder / "data" / "corpus.txt").write_text("text\n")  # ignored by git, but needed by the run
    protocol = researched(folder, cli, tmp_path)
    assert protocol["execution"]["command"] == "python main.py --epochs 2"
    assert protocol["mutableSurface"]["allowedGlobs"] == ["main.py", "nn/__init__.py", "nn/model.py"]
    assert protocol["immutableHarness"]["paths"] == ["data.py"]
    assert "requirements.txt" in protocol["mutableSurface"]["forbiddenGlobs"]
    assert protocol["measurement"]["primaryMetric"]["name"] == "val_loss"
    assert protocol["environment"]["constraints"]["networkPolicy"] == "offline"
    assert "the same" in protocol["execution"]["determinism"]["notes"]


def test_init_reads_benchmark_writing_json(tmp_path: Path, cli: Cli) -> None:
    protocol = researched(repository(tmp_path / "fast", BENCHMARK), cli, tmp_path)
    assert protocol["measurement"]["primaryMetric"] == {
        "name": "latency_p50",
        "direction": "minimize",
        "extract": {"kind": "json_pointer", "pointer": "/results/latency/p50", "path": "bench.json"},
    }
    assert protocol["mutableSurface"]["allowedGlobs"] == ["src/fast/__init__.py", "src/fast/core.py"]
    assert protocol["immutableHarness"]["paths"] == ["benchmarks/bench_core.py"]


def test_init_reads_benchmark_printing_json(tmp_path: Path, cli: Cli) -> None:
    files = {name: (SIEVE / name).read_text() for name in ("bench.py", "sieve.py")}
    folder = repository(tmp_path / "sieve", files)
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    protocol = load_protocol(folder)
    assert protocol.metric.extract.pointer == "/numbers_per_second"
    assert protocol.metric.direction == "maximize"
    assert protocol.mutable_surface.allowed_globs == ["sieve.py"]
    assert protocol.immutable_harness.paths == ["bench.py"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_init_reads_repository_without_python(tmp_path: Path, cli: Cli) -> None:
    files = {
        "Makefile": "bench:\n\tsh bench.sh $(shell pwd)\n\tsh report.sh\n",
        "bench.sh": "wc -l < kernel.c > lines\n",
        "report.sh": "echo build ok; echo elapsed time: $(cat lines).5 s\n",
        "kernel.c": "int main() {\n}\n",
        "bench_kernel.c": "",
    }
    folder = repository(tmp_path / "c", files)
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    protocol = load_protocol(folder)
    assert protocol.execution.command == "make bench"
    assert protocol.metric.name == "elapsed_time"
    assert protocol.mutable_surface.allowed_globs == ["kernel.c"]
    assert protocol.immutable_harness.paths == ["bench_kernel.c"]
    assert "Makefile" in protocol.mutable_surface.forbidden_globs


def test_a_test_suite_with_failures_counts_what_passes(tmp_path: Path, cli: Cli) -> None:
    folder = repository(tmp_path / "calc", TESTS)
    protocol = researched(folder, cli, tmp_path)
    assert protocol["execution"]["command"] == "python -m pytest -q --color=no -p no:cacheprovider || [ $? -eq 1 ]"
    assert protocol["measurement"]["primaryMetric"]["extract"]["count"] == "passed"
    assert protocol["mutableSurface"] == {
        "allowedGlobs": ["calc/__init__.py", "calc/core.py"],
        "forbiddenGlobs": ["pyproject.toml", "tests/**/*.py"],
        "allowedKinds": ["code_edit"],
    }
    assert rows(folder)[0]["passed"] == "2.000000"


def test_a_test_suite_that_passes_is_to_be_faster_and_a_folder_may_lie_deep(tmp_path: Path, cli: Cli) -> None:
    passing = {name: text.replace("[1, 2, 9, 12, 15]", "[1, 2]") for name, text in TESTS.items()}
    repository(tmp_path / "all", {f"packages/calc/{name}": text for name, text in passing.items()})
    done = cli(tmp_path / "all" / "packages" / "calc", "init", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    primary = data["protocol"]["measurement"]["primaryMetric"]
    assert (primary["name"], primary["direction"], primary["extract"]["count"]) == ("seconds", "minimize", "seconds")
    assert "|| [" not in data["protocol"]["execution"]["command"]
    assert data["protocol"] == json.loads((tmp_path / "all" / "packages" / "calc" / "protocol.json").read_bytes())
    assert {"command", "metric", "rule", "may change"} <= {because["field"] for because in data["explanations"]}


def test_flags_win_over_what_is_found(tmp_path: Path, cli: Cli) -> None:
    files = {
        "job.py": "print('gain: 3')\nprint('loss: 0.5')\n",
        "other.py": "RATE = 1\n",
        "train.py": "print('loss: 1')",
    }
    folder = repository(tmp_path / "job", files)
    flags = ["--command", f"{sys.executable} job.py", "--metric", "gain", "--direction", "maximize"]
    done = cli(folder, "init", *flags, "--mutable", "other.py", "--training-seconds", "7")
    assert done.returncode == 0, done.stderr
    protocol = load_protocol(folder)
    assert protocol.metric.name == "gain"
    assert protocol.metric.direction == "maximize"
    assert protocol.mutable_surface.allowed_globs == ["other.py"]
    assert protocol.training_seconds == 7
    assert "does not read AUTORESEARCH_TRAINING_SECONDS" in done.stdout
    assert cli(folder, "init", *flags, "--force", "--no-run").returncode == 0
    assert load_protocol(folder).mutable_surface.allowed_globs == ["job.py"]


def test_no_run_writes_draft(tmp_path: Path, cli: Cli) -> None:
    folder = repository(tmp_path / "nano", {**KARPATHY, "train.py": KARPATHY["train.py"] + "raise SystemExit(1)\n"})
    done = cli(folder, "init", "--no-run")
    assert done.returncode == 0, done.stderr
    protocol = load_protocol(folder)
    assert protocol.schema_kind == "discoveryDraft"
    assert protocol.metric.name == "val_bpb"
    assert "init --force" in done.stdout
    assert "discoveryDraft" in cli(folder, "run", "--tag", "t").stderr


@pytest.mark.parametrize(
    ("files", "flags", "code", "words"),
    [
        ({"notes.txt": "nothing"}, [], 3, "name the command with --command"),
        ({"train.py": "print('loss: 1')", "protocol.json": "{}"}, [], 3, "--force"),
        (
            {"train.py": "print('loss: 1')\nraise ValueError('no data')"},
            [],
            1,
            "ValueError: no data\nhint: fix the command, or name another one",
        ),
        (
            {"train.py": "print('all is well: 1')"},
            [],
            1,
            "no number with a known direction (numbers found: well)",
        ),
        (
            {"train.py": "print('train_loss: 1\\nval_loss: 0.4\\nval_loss: nan')"},
            [],
            1,
            "val_loss is not a finite number at the end",
        ),
        (
            {"train.py": "print('epoch 1: val_loss: 0.4 train_loss: 0.5\\nepoch 2: val_loss: nan train_loss: 0.3')"},
            [],
            1,
            "val_loss is not a finite number at the end",
        ),
        (
            {"train.py": "print('val_loss: nan\\ntrain_loss: 0.3')"},
            ["--metric", "val_loss"],
            1,
            "val_loss is not a finite number at the end",
        ),
        (
            {"train.py": """print('epoch 1\\n{"val_loss": NaN, "seconds": 3}')"""},
            [],
            1,
            "val_loss is not a finite number at the end",
        ),
        (
            {"train.py": "print('loss: 1\\n| val acc | -inf |')"},
            ["--metric", "val_acc"],
            1,
            "val_acc is not a finite number",
        ),
        ({"train.py": "print('loss: 1')"}, ["--metric", "gain"], 1, "no number called gain (numbers found: loss)"),
        ({"train.py": "print('gain: 1')"}, ["--metric", "gain"], 1, "--direction minimize or --direction maximize"),
        ({"train.py": "print('loss: 1')"}, ["--mutable", "none/*.py"], 3, "no committed file matches --mutable"),
        ({"train.py": "x = 1"}, ["--no-run"], 3, "--metric NAME"),
        ({"train.py": "print('loss: 1')"}, ["--direction", "up"], 2, "--direction"),
        (
            {"train.py": "print('loss: 1')"},
            ["--training-seconds", "40000000"],
            2,
            "trainingSecondsBudget: must be at most",
        ),
        ({"train.py": "print('loss: 1')"}, ["--command", ""], 2, "execution.command: must not be empty"),
        ({"train.py": "print('loss: 1')"}, ["--mutable", "../x.py", "--mutable", "train.py"], 2, "allowedGlobs"),
        (
            {"train.py": "print('status: 1')"},
            ["--metric", "status", "--direction", "minimize"],
            2,
            "status is a column of the results",
        ),
    ],
)
def test_init_failure_is_one_sentence_and_writes_nothing(
    tmp_path: Path, cli: Cli, files: dict[str, str], flags: list[str], code: int, words: str
) -> None:
    folder = repository(tmp_path / "repo", files)
    done = cli(folder, "init", *flags)
    assert done.returncode == code, done.stderr
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr.split("error: ")[-1]
    assert git(folder, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("log", "metric", "without"),
    [
        ("epoch 1 train loss 0.3 val_f1: nan\nbest val loss: 0.31\naccuracy: 0.9", "best_val_loss", "val_f1"),
        ('{"epoch": 1, "val_loss": NaN}\n{"epoch": 2, "accuracy": 0.9}', "accuracy", "val_loss"),
        ("val_f1: nan val_auc: inf\n[info] done\ntrain loss: 0.4", "train_loss", "val_f1, val_auc"),
    ],
)
def test_nan_before_the_last_line_of_the_metric_is_only_noted(
    tmp_path: Path, cli: Cli, log: str, metric: str, without: str
) -> None:
    folder = repository(tmp_path / "repo", {"train.py": f"print({log!r})\n"})
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert load_protocol(folder).metric.name == metric
    assert f"note: without a finite number, so not considered as the metric: {without}\n" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_init_and_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = "import time\nfrom pathlib import Path\nPath('born').write_text('')\nprint('loss: 1')\ntime.sleep(600)\n"
    folder = repository(tmp_path / "repo", {"train.py": script})
    (tmp_path / "temporary").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-m", "agent", "init"]
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "temporary").glob("*/tree/born")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped: nothing was written" in stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    assert git(folder, "status", "--porcelain") == ""


def test_init_requires_repository_with_commit(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "train.py").write_text("print('loss: 1')")
    done = cli(folder, "init", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 3
    assert "git init && git add -A && git commit" in done.stderr
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    done = cli(folder, "init")
    assert done.returncode == 3
    assert "no commit yet" in done.stderr
    assert not (folder / "protocol.json").exists()


def test_init_warns_of_nothing_to_search(tmp_path: Path, cli: Cli) -> None:
    folder = repository(tmp_path / "repo", {"train.py": "rate = 1\nprint('loss: 1')\n"})
    shown = cli(folder, "init").stdout
    assert "the built-in search found nothing to tune in train.py" in shown
    assert "--agent" in shown


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("---\nval_bpb:          0.997900\ntraining_seconds: 300.1\npeak_vram_mb: 45060.2\n", "val_bpb", 0.9979),
        ("val_loss: 1.23\n", "val_loss", 1.23),
        ("epoch 3 acc=0.91\n", "acc", 0.91),
        ("epoch 1 loss=2.5, acc=0.5\nepoch 2 loss=1.5, acc=0.7\n", "loss", 1.5),
        ("iter 10: loss 2.3025, time 12.5ms\niter 20: loss 1.9e-1, time 12.5ms\n", "loss", 0.19),
        ("Train loss: 0.5 | Test accuracy: 91.25%\n", "test_accuracy", 91.25),
        ("2026-01-02 03:04:05 INFO Throughput (ops/s): 1234\n", "throughput", 1234),
        ("took 0.52s\n", "took", 0.52),
        ('{\n  "ops_per_second": 12.5,\n  "repeats": 3\n}\n', "ops_per_second", 12.5),
        ('warming up\n{"score": 7, "seed": 1}\n', "score", 7),
        ("lr: 0.1\nbatch_size: 12\nsteps: 3\n", None, 0),
        ("loss: nan\nacc: 1.2.3\n", None, 0),
    ],
)
def test_init_finds_metric_and_reads_it_back(text: str, name: str | None, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert (found.name if found else None) == name
    if found is not None:
        metric = Metric.model_validate(found.metric)
        assert found.value == value == extract(metric, text) == extract(metric, found.extract["exampleStdout"])


def test_what_a_command_writes_into_tracked_files_is_no_fault(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": "open('out.json', 'w').write('{\"loss\": 1}')\nprint('loss: 1')", "out.json": "{}"}
    folder = repository(tmp_path / "repo", files)
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert (folder / "out.json").read_text() == "{}"
    assert git(folder, "status", "--porcelain") == "?? protocol.json"


JUDGED = {
    "train.py": "import prepare\nRATE = 0.1\nprint(f'epoch 1 Val Loss: {sum(prepare.data()) * RATE}')\n",
    "prepare.py": '"""The data behind val_loss."""\ndef data():\n    return [1, 2]\n',
}


@pytest.mark.parametrize(
    ("files", "noted"),
    [
        (JUDGED, True),
        (JUDGED | {"train.py": "import json, prepare\nRATE = 0.1\nprint(json.dumps({'val_loss': RATE}))\n"}, True),
        (
            {
                "train.py": '"""Lowers val_loss."""\nimport evaluate\nRATE = 0.1\nevaluate.show(RATE)\n',
                "evaluate.py": "def show(rate):\n    print('val_loss:', rate)\n",
            },
            False,
        ),
    ],
)
def test_file_that_may_change_and_prints_the_metric_is_noted(
    tmp_path: Path, program: Cli, files: dict[str, str], noted: bool
) -> None:
    folder = repository(tmp_path / "repo", files)
    done = program(folder, "init", "--command", "python3 train.py", AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert ("train.py may change, and it prints val_loss itself" in done.stdout) == noted


RESUMES = (
    "import json, os\nRATE = 0.1\nstate = 1\n"
    "if os.path.exists('out/state.json'):\n    state = json.load(open('out/state.json'))\n"
    "os.makedirs('out', exist_ok=True)\njson.dump(state / 2, open('out/state.json', 'w'))\nprint('loss:', state / 2)\n"
)


@pytest.mark.parametrize(
    "script",
    [
        RESUMES,
        "import os, sys\nif os.path.exists('done.txt'):\n    sys.exit()\nopen('done.txt', 'w')\nprint('loss: 1')\n",
        "import os\nos.mkdir('out')\nprint('loss: 1')\n",
    ],
)
def test_second_run_sees_nothing_of_the_first(tmp_path: Path, cli: Cli, script: str) -> None:
    folder = repository(tmp_path / "repo", {"train.py": script, ".gitignore": "out/\ndone.txt\n"})
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert ", the same" in done.stdout
    assert "which was there before" not in done.stdout


def test_second_run_is_set_up_like_the_first(tmp_path: Path, program: Cli) -> None:
    files = {
        "prepare.py": "open('rows.txt', 'x').write('3')\n",
        "train.py": "RATE = 1\nprint('loss:', open('rows.txt').read())\n",
        ".gitignore": "rows.txt\n",
    }
    done = program(repository(tmp_path / "repo", files), "init", AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "two runs gave 3 and 3, the same" in done.stdout
    assert done.stderr.count("setting up: ") == 1


@pytest.mark.parametrize("place", ["state.json", "out/state.json"])
def test_own_checkpoint_that_a_run_continues_is_named(tmp_path: Path, cli: Cli, place: str) -> None:
    script = RESUMES.replace("out/state.json", place).replace("os.makedirs('out', exist_ok=True)\n", "")
    folder = repository(tmp_path / "repo", {"train.py": script, ".gitignore": "out/\nstate.json\n"})
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("0.5")
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert "two runs gave 0.25 and 0.25, the same" in done.stdout
    assert f"a run writes {place} anew" in done.stdout
    assert (folder / place).read_text() == "0.5"


@pytest.mark.parametrize(
    "name",
    [
        "time.strftime('%Y-%m-%d/%H-%M-%S')",
        "time.strftime('run_%Y%m%d')",
        "time.strftime('%b%d_%H-%M-%S_host')",
        "f'run-{time.time():.0f}'",
        "uuid.uuid4()",
        "os.urandom(4).hex()",
    ],
)
def test_file_with_another_path_in_each_run_is_no_metric(tmp_path: Path, cli: Cli, name: str) -> None:
    script = (
        f"import json, os, time, uuid\nRATE = 0.1\nplace = 'outputs/' + str({name})\nos.makedirs(place)\n"
        "json.dump({'val_loss': RATE}, open(f'{place}/metrics.json', 'w'))\n"
    )
    folder = repository(tmp_path / "repo", {"train.py": script})
    done = cli(folder, "init")
    assert done.returncode == 1
    assert "print it, such as `val_loss: 1.23`" in done.stderr or "print val_loss, or write it" in done.stderr
    assert "the same in each run" in done.stderr
    assert not (folder / "protocol.json").exists()


def test_fixed_path_with_numbers_and_a_printed_number_beside_a_dated_file_count(tmp_path: Path, cli: Cli) -> None:
    fixed = "import json, os\nRATE = 1\nos.makedirs('out_1024')\n"
    fixed += "json.dump({'loss': RATE}, open('out_1024/seed-42_10-20.json', 'w'))\n"
    first = repository(tmp_path / "first", {"train.py": fixed})
    assert cli(first, "init").returncode == 0
    how = json.loads((first / "protocol.json").read_text())["measurement"]["primaryMetric"]["extract"]
    assert how["path"] == "out_1024/seed-42_10-20.json"
    dated = "import json, time\nRATE = 1\njson.dump({'val_loss': 2}, open(time.strftime('%Y%m%d.json'), 'w'))\n"
    second = repository(tmp_path / "second", {"train.py": f"{dated}print('loss: 1')\n"})
    done = cli(second, "init")
    assert done.returncode == 0, done.stderr
    assert "note: val_loss is in" in done.stderr


def test_file_counts_though_the_clock_was_set_back_during_the_run(tmp_path: Path, cli: Cli) -> None:
    script = (
        "import os, time\nopen('out.json', 'w').write('{\"loss\": 1}')\n"
        "early = time.time() - 3600\nos.utime('out.json', (early, early))\n"
    )
    folder = repository(tmp_path / "repo", {"train.py": script})
    done = cli(folder, "init", "--json")
    assert done.returncode == 0, done.stderr
    protocol = json.loads((folder / "protocol.json").read_text())
    assert protocol["measurement"]["primaryMetric"]["extract"]["path"] == "out.json"


@pytest.mark.quick
def test_of_many_lines_the_last_counts_and_of_a_summary_two_are_none() -> None:
    epochs = choose_metric(in_lines("epoch 1 loss=3\nepoch 2 loss=2\n"), None, "")
    assert epochs is not None
    assert extract(Metric.model_validate(epochs.metric), "epoch 1 loss=5\nepoch 2 loss=4\nepoch 3 loss=3\n") == 3
    summary = choose_metric(in_lines("---\nloss: 2\n"), None, "")
    assert summary is not None
    with pytest.raises(NoMetric, match="2 different values"):
        extract(Metric.model_validate(summary.metric), "loss: 2\nloss: 1\n")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_bpb", "minimize"),
        ("perplexity", "minimize"),
        ("p99_latency_ms", "minimize"),
        ("error_rate", "minimize"),
        ("seconds_per_step", "minimize"),
        ("tokens_per_second", "maximize"),
        ("tok/s", "maximize"),
        ("f1", "maximize"),
        ("ops", "maximize"),
        ("learning_rate", None),
        ("batch_size", None),
        ("gain", None),
        ("val_mape", "minimize"),
        ("logloss", "minimize"),
        ("test_mIoU", "maximize"),
    ],
)
def test_direction_follows_from_metric_name(name: str, direction: str | None) -> None:
    assert meaning(name)[0] == direction


@pytest.mark.quick
def test_json_from_a_file_and_counts_of_pytest() -> None:
    (found,) = in_json('{"a/b": [{"time": 2.5}], "ok": true, "name": "x"}', "out.json")
    assert found.extract == {"kind": "json_pointer", "pointer": "/a~1b/0/time", "path": "out.json"}
    passing = pytest_summary("....\n4 passed in 0.12s\n", None, None)
    failing = pytest_summary("..F\n1 failed, 2 passed in 0.12s\n", None, None)
    assert passing is not None
    assert (passing.name, passing.value, passing.direction) == ("seconds", 0.12, "minimize")
    assert failing is not None
    assert (failing.name, failing.value, failing.direction) == ("passed", 2, "maximize")
    assert pytest_summary("no tests here", None, None) is None


def test_trial_run_sees_no_password_of_an_index_and_nothing_sees_other_keys(tmp_path: Path, program: Cli) -> None:
    login = "https://name:password@index.example/simple"
    env = {"UV_INDEX_URL": login, "AUTORESEARCH_MODEL_KEY": "key", "UV_PUBLISH_TOKEN": "key"}
    looks = f"import os\nseen = [name for name in {[*env]!r} if name in os.environ]\n"
    files = {
        "prepare.py": f"{looks}assert seen == ['UV_INDEX_URL'], seen\n",
        "train.py": f"{looks}assert seen == [], seen\nRATE = 1\nprint('loss: 1')\n",
    }
    folder = repository(tmp_path / "repo", files)
    done = program(folder, "init", AUTORESEARCH_CACHE=str(tmp_path / "cache"), **env)
    assert done.returncode == 0, done.stderr
    assert load_protocol(folder).environment.setup_commands == ["python prepare.py"]


def test_folder_below_the_root_of_its_repository_is_told_of_the_root(tmp_path: Path) -> None:
    root = repository(tmp_path / "with space", {"sub/deep/notes.md": "x\n"})
    below = call(root / "sub" / "deep", "init")
    assert below.returncode == 3
    assert f"-C '{root}' init` for the whole repository, or name the command with --command" in below.stderr
    top = call(root, "init")
    assert "-C" not in top.stderr
    assert "hint: name the command with --command" in top.stderr
