"""Which files belong to the harness in real repositories, so that no candidate may change, add or shadow them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from agent.errors import PreconditionError, Violation
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.repository.harness import HarnessFiles, Tree
from agent.repository.ready import require_clean
from agent.repository.workspace import Workspace
from tests.common.workspaces import Cli, git, quick_protocol

MODULES = {
    "prepare.py": "import json, train\nfrom harness import metric\n",
    "harness/__init__.py": "",
    "harness/metric.py": "import numpy\nfrom harness.text import read\n",
    "harness/text.py": "read = open\n",
    "other.py": "",
}


def workspace_of(folder: Path, *allowed: str, harness: tuple[str, ...] = ("prepare.py",)) -> Workspace:
    """Return the workspace in `folder` with MODULES committed and these globs allowed."""
    protocol = quick_protocol(
        mutableSurface={"allowedGlobs": [*allowed], "forbiddenGlobs": []}, immutableHarness={"paths": [*harness]}
    )
    (folder / "protocol.json").write_text(json.dumps(protocol))
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "a harness of several files")
    return Workspace(folder, load_protocol(folder))


HARNESS = {"prepare.py", "harness/__init__.py", "harness/metric.py", "harness/text.py"}


def test_harness_holds_what_it_imports_and_no_mutable_file(quick: Path) -> None:
    workspace = workspace_of(quick, "train.py")
    assert workspace.harness(workspace.head) == HARNESS


def test_wide_glob_allows_nothing_of_the_harness(quick: Path) -> None:
    workspace = workspace_of(quick, "train.py", "**/*.py")
    assert {*workspace.files(workspace.head)} == {"train.py", "other.py"}


@pytest.mark.parametrize("name", [".gitattributes", "data/.gitattributes"])
@pytest.mark.parametrize("is_there", [False, True])
def test_no_candidate_chooses_how_git_writes_the_files_that_measure_it(
    quick: Path, tmp_path: Path, name: str, is_there: bool
) -> None:
    (quick / "data").mkdir()
    (quick / "data" / "val.csv").write_text("1\n2\n")
    if is_there:
        (quick / name).write_text("*.png binary\n")
    workspace, text = workspace_of(quick, "**"), "*.csv text eol=crlf\n"
    base = workspace.head
    with pytest.raises(Violation, match=f"changes {name}, by which git would write other files differently"):
        workspace.commit_candidate("refs/t/1", base, {name: text}, "another end of lines")
    assert "data/val.csv" in workspace.files(base)
    # What an earlier version kept can still be adopted, and what the user allows by its name is allowed.
    assert workspace.commit_files(base, {name: text}, "of an earlier version")
    allowed = workspace_of(quick, "**", name)
    candidate = allowed.commit_candidate("refs/t/2", allowed.head, {name: text}, "allowed")
    place = allowed.export(tmp_path / "copy", candidate)
    assert (place / "data" / "val.csv").read_bytes() == (b"1\n2\n" if is_there else b"1\r\n2\r\n")


def test_file_named_in_allowed_globs_stays_mutable(quick: Path) -> None:
    workspace = workspace_of(quick, "train.py", "**/*.py", "harness/text.py")
    assert workspace.harness(workspace.head) == HARNESS - {"harness/text.py"}
    assert "harness/text.py" in workspace.files(workspace.head)


def test_glob_that_matches_no_harness_file_tells_what_may_change(quick: Path) -> None:
    workspace = workspace_of(quick, "train.py", "harness/*.py")
    assert workspace.harness(workspace.head) == {"prepare.py"}
    assert "harness/metric.py" in workspace.files(workspace.head)
    workspace = workspace_of(quick, "train.py", "harness/*.py", harness=("harness/metric.py",))
    assert workspace.harness(workspace.head) == HARNESS - {"prepare.py"}


def test_what_links_lead_to_belongs_to_the_harness(quick: Path) -> None:
    for name, text in {
        "lib/text.py": "import words\n",
        "lib/all/__init__.py": "import deep, json\n",
        "words.py": "",
    }.items():
        (quick / name).parent.mkdir(parents=True, exist_ok=True)
        (quick / name).write_text(text)
    (quick / "deep.py").write_text("")
    (quick / "first.py").symlink_to("second.py")
    (quick / "second.py").symlink_to("lib/text.py")
    (quick / "folder").symlink_to("lib/all", target_is_directory=True)
    (quick / "away.py").symlink_to("/nowhere.py")
    (quick / "start.py").write_text("import first, folder, away\n")
    workspace = workspace_of(quick, "train.py", "**/*.py", harness=("start.py",))
    found = workspace.harness(workspace.head)
    links = {"first.py", "second.py", "folder", "away.py"}
    assert found == {"start.py", *links, "lib/text.py", "words.py", "lib/all/__init__.py", "deep.py"}
    for path in ("lib/text.py", "words.py", "lib/all/__init__.py", "deep.py"):
        assert path not in workspace.files(workspace.head)
    with pytest.raises(Violation, match=r"adds lib/all/json.py, which the harness would import"):
        workspace.commit_candidate("refs/t/1", workspace.head, {"lib/all/json.py": ""}, "a try")


@pytest.mark.parametrize(
    ("links", "imported", "real"),
    [
        ({"pkg": "."}, "pkg.lib", "lib.py"),
        ({"pkg": "mid", "mid": "real"}, "pkg.lib", "real/lib.py"),
        ({"lib.py": "mid/deep.py", "mid": "real"}, "lib", "real/deep.py"),
        ({"way": "a/b", "lib.py": "way/../deep.py"}, "lib", "a/deep.py"),
        ({"pkg": "pkg"}, "pkg.lib", None),
        ({"pkg": "/"}, "pkg.lib", None),
        ({"pkg": "../.."}, "pkg.lib", None),
    ],
)
def test_links_are_followed_as_the_system_does(
    quick: Path, links: dict[str, str], imported: str, real: str | None
) -> None:
    for path in ("lib.py", "real/lib.py", "real/deep.py", "a/b/lib.py", "a/deep.py"):
        (quick / path).parent.mkdir(parents=True, exist_ok=True)
        (quick / path).write_text("")
    for path, aim in links.items():
        (quick / path).unlink(missing_ok=True)
        (quick / path).symlink_to(aim)
    (quick / "start.py").write_text(f"import {imported}\n")
    workspace = workspace_of(quick, "train.py", "**/*.py", harness=("start.py",))
    found = {path for path in workspace.harness(workspace.head) if path not in links} - {"start.py"}
    assert found == ({real} if real else set())


def test_harness_is_the_same_in_each_process(quick: Path) -> None:
    """Sets of paths are ordered differently for each hash seed."""
    names = {f"fast.cpython-3{number}-x86_64-linux-gnu.so" for number in range(11, 15)}
    for name in (*names, ".libs.so", ".so"):
        (quick / name).write_bytes(b"\x7fELF\0")
    (quick / "start.py").write_text("import fast\n")
    workspace = workspace_of(quick, "train.py", harness=("start.py",))
    assert workspace.harness(workspace.head) == {"start.py", *names}


def test_compiled_modules_and_names_given_as_keywords_belong_to_the_harness(quick: Path) -> None:
    compiled = "fast.cpython-311-x86_64-linux-gnu.so"
    (quick / compiled).write_bytes(b"\x7fELF\0")
    (quick / "start.py").write_text("import importlib, fast\nimportlib.import_module(name='other', package=None)\n")
    workspace = workspace_of(quick, "train.py", "**/*.py", harness=("start.py",))
    assert workspace.harness(workspace.head) == {"start.py", compiled, "other.py"}
    before = workspace.harness_digest(workspace.head)
    (quick / compiled).write_bytes(b"\x7fELF\1")
    git(quick, "commit", "--quiet", "--all", "-m", "built anew")
    assert workspace.harness_digest(workspace.head) != before


@pytest.mark.parametrize("path", sorted(HARNESS))
def test_candidate_that_changes_the_harness_is_refused(quick: Path, path: str) -> None:
    workspace = workspace_of(quick, "train.py", "**/*.py")
    with pytest.raises(Violation, match=f"changes {path}, which belongs to the harness"):
        workspace.commit_candidate("refs/t/1", workspace.head, {path: "x = 1\n"}, "a try")
    assert workspace.resolve("refs/t/1") is None


@pytest.mark.parametrize(
    "path", ["numpy.py", "json.py", "harness.py", "harness/numpy.py", "numpy/__init__.py", "src/harness/text.py"]
)
def test_candidate_that_adds_what_the_harness_would_import_is_refused(quick: Path, path: str) -> None:
    workspace = workspace_of(quick, "train.py", "**/*.py")
    with pytest.raises(Violation, match=f"adds {path}, which the harness would import"):
        workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "x = 1\n", path: "x = 1\n"}, "a try")


@pytest.mark.parametrize(
    "path",
    [
        *("selectors.py", "src/selectors/__init__.py", "pluggy.py", "pluggy.abi3.so", "sitecustomize/__init__.py"),
        *("mine.py", "bench/runpy.py", "bench/started.py", "theirs.pyc", "harness/selectors.py"),
    ],
)
def test_candidate_that_adds_what_an_import_of_the_harness_would_import_is_refused(quick: Path, path: str) -> None:
    """A module that Python, an installed package or the command itself imports, from wherever Python looks for it."""
    installed = quick / ".venv" / "lib" / "python3.12" / "site-packages"
    (installed / "mine").mkdir(parents=True)
    (installed / "theirs.cpython-312-x86_64-linux-gnu.so").touch()
    (quick / ".gitignore").write_text(".venv\n")
    workspace = workspace_of(quick, "train.py", "**", harness=("prepare.py", "harness/metric.py"))
    protocol = json.loads((quick / "protocol.json").read_text())
    protocol["execution"] |= {"command": "python3 -m started.main", "cwd": "bench"}
    (quick / "protocol.json").write_text(json.dumps(protocol))
    workspace = Workspace(quick, load_protocol(quick))
    with pytest.raises(Violation, match=f"adds {path}, which Python would import in place of"):
        workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "x = 1\n", path: "x = 1\n"}, "a try")
    for other in ("mine/more.py", "lib/selectors.py", "selectors.txt", "train_selectors.py"):
        assert workspace.refusal(workspace.head, [other]) is None


@pytest.mark.parametrize("path", ["model.py", "harness/model.py", "tools/numpy.py", "other.py"])
def test_candidate_may_add_what_the_harness_does_not_import(quick: Path, path: str) -> None:
    workspace = workspace_of(quick, "train.py", "**/*.py")
    commit = workspace.commit_candidate("refs/t/1", workspace.head, {path: "x = 1\n"}, "a try")
    assert workspace.files(commit)[path] == "x = 1\n"
    assert workspace.harness(commit) == HARNESS


def test_digest_depends_on_the_harness_alone(quick: Path) -> None:
    workspace = workspace_of(quick, "train.py")
    before = workspace.harness_digest(workspace.head)
    commit = workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "x = 1\n"}, "a try")
    assert workspace.harness_digest(commit) == before
    seen = {before}
    for path in ("prepare.py", "harness/text.py", "harness/__init__.py"):
        (quick / path).write_text(MODULES[path] + "# changed\n")
        git(quick, "commit", "--quiet", "--all", "-m", "change")
        seen.add(workspace.harness_digest(workspace.head))
    (quick / "harness" / "text.py").rename(quick / "harness" / "words.py")
    git(quick, "add", "-A")
    git(quick, "commit", "--quiet", "-m", "rename")
    seen.add(workspace.harness_digest(workspace.head))
    assert len(seen) == 5


def test_evaluator_beside_the_harness_belongs_to_it(quick: Path) -> None:
    for name in ("harness/evaluator.py", "evaluator.py"):
        (quick / name).parent.mkdir(exist_ok=True)
        (quick / name).write_text("import judge\nprint('handed_over')\n")
    (quick / "judge.py").write_text("")
    workspace = workspace_of(quick, "train.py", "*.py")
    assert workspace.harness(workspace.head) == {*HARNESS, "harness/evaluator.py", "evaluator.py", "judge.py"}


@pytest.mark.parametrize(("path", "refused"), [("harness/text.py", True), ("notes.txt", False)])
def test_uncommitted_changes_to_the_harness_are_refused(quick: Path, path: str, refused: bool) -> None:
    (quick / "notes.txt").write_text("")
    workspace = workspace_of(quick, "train.py")
    (quick / path).write_text("changed")
    with pytest.raises(PreconditionError, match=path) if refused else contextlib.nullcontext():
        require_clean(workspace, notes=False)


def test_harness_of_this_repository_holds_the_package() -> None:
    folder = Path(__file__).parents[2]
    workspace = Workspace(folder, load_protocol(folder))
    found = workspace.harness(workspace.head)
    # train.py alone imports these: they have no part in the metric.
    files = {path.as_posix() for path in Path("harness").glob("*.py")} - {"harness/workers.py", "harness/device.py"}
    assert files | {"prepare.py"} <= {*found} | {"harness"}
    assert {"harness/evaluator.py", "harness/scoring.py", "harness/snapshot.py", "harness/dataset.py"} <= found
    assert "train.py" not in found


def test_check_names_what_the_harness_imports(quick: Path, cli: Cli) -> None:
    workspace_of(quick, "train.py")
    done = cli(quick, "protocol", "check")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("immutableHarness.paths ")]
    assert line.endswith("they import harness/__init__.py, harness/metric.py, harness/text.py")


@pytest.mark.parametrize("named", ["harness", "harness/", "./harness/metric.py"])
def test_harness_may_be_named_by_folder_or_with_a_dot(quick: Path, named: str) -> None:
    workspace = workspace_of(quick, "**/*.py", harness=(named,))
    assert "harness/metric.py" in workspace.harness(workspace.head)
    assert "harness/metric.py" not in workspace.files(workspace.head)


def test_folder_in_allowed_globs_is_as_wide_as_a_wildcard(quick: Path) -> None:
    workspace = workspace_of(quick, "harness", harness=("harness/metric.py",))
    for path in ("harness/metric.py", "harness/text.py"):
        assert workspace.refusal(workspace.head, [path])


@pytest.mark.parametrize(
    ("path", "harness"),
    [
        ("tests/test_more.py", "tests/**"),
        ("conftest.py", "prepare.py"),
        ("evaluator.py", "prepare.py"),
        ("harness/evaluator.py", "prepare.py"),
    ],
)
def test_new_file_that_would_join_the_harness_is_refused(quick: Path, path: str, harness: str) -> None:
    workspace = workspace_of(quick, "**/*.py", harness=(harness, "prepare.py"))
    assert workspace.refusal(workspace.head, [path])
    assert workspace.refusal(workspace.head, ["fresh.py"]) is None


def test_modules_beside_the_script_belong_to_the_harness_from_any_depth(quick: Path) -> None:
    for name, text in {"eval/run.py": "from lib import a\n", "eval/lib/a.py": "import b\n", "eval/b.py": ""}.items():
        (quick / name).parent.mkdir(parents=True, exist_ok=True)
        (quick / name).write_text(text)
    workspace = workspace_of(quick, "**/*.py", harness=("eval/run.py",))
    assert "eval/b.py" in workspace.harness(workspace.head)


def test_globs_that_forbidden_ones_part_from_the_harness_leave_their_files_mutable(quick: Path) -> None:
    (quick / "tests").mkdir()
    (quick / "tests" / "test_it.py").write_text("import other\n")
    protocol = quick_protocol(
        mutableSurface={"allowedGlobs": ["**/*.py"], "forbiddenGlobs": ["tests/**"]},
        immutableHarness={"paths": ["tests/**"]},
    )
    (quick / "other.py").write_text("")
    (quick / "protocol.json").write_text(json.dumps(protocol))
    git(quick, "add", "-A")
    git(quick, "commit", "--quiet", "-m", "tests judge it")
    workspace = Workspace(quick, load_protocol(quick))
    assert "other.py" in workspace.files(workspace.head)
    assert "tests/test_it.py" in workspace.harness(workspace.head)


def test_files_of_a_commit_are_looked_at_once_however_many_are_asked_about() -> None:
    asked: list[str] = []
    files = {f"pkg/m{number}.py": ("100644", f"blob{number}") for number in range(100)}
    content = quick_protocol(
        mutableSurface={"allowedGlobs": ["**/*.py"], "forbiddenGlobs": []}, immutableHarness={"paths": ["tests/**"]}
    )

    def tree(commit: str) -> Tree:
        asked.append(commit)
        return files

    harness = HarnessFiles(Protocol.model_validate(content), tree, lambda blobs: dict.fromkeys(blobs, b""))
    assert not any(harness.holds("c", path) for path in files)
    assert asked == ["c"]


@pytest.mark.parametrize("allowed", ["harness/metric.py", "./harness/metric.py"])
def test_path_of_the_harness_is_protected_although_allowed_globs_name_it(quick: Path, cli: Cli, allowed: str) -> None:
    workspace = workspace_of(quick, "train.py", allowed, harness=("prepare.py", "harness/metric.py"))
    assert "harness/metric.py" in workspace.harness(workspace.head)
    with pytest.raises(Violation, match=r"changes harness/metric.py, which belongs to the harness"):
        workspace.commit_candidate("refs/t/1", workspace.head, {"harness/metric.py": "x = 1\n"}, "a try")
    done = cli(quick, "protocol", "check")
    assert "harness/metric.py is in allowedGlobs and in immutableHarness.paths, so no candidate" in done.stdout
    # It is not added either where it is not there.
    workspace = workspace_of(quick, "train.py", "fresh.py", harness=("prepare.py", "fresh.py"))
    assert workspace.refusal(workspace.head, ["fresh.py"]) == "adds fresh.py, which belongs to the harness"


@pytest.mark.parametrize("folder", ["harness", "harness/", "harness/*.py", "**/*.py"])
def test_file_that_allowed_globs_single_out_of_a_folder_of_the_harness_stays_mutable(quick: Path, folder: str) -> None:
    """Sessions of the version before have such protocols, and continue only with the same harness."""
    workspace = workspace_of(quick, "harness/text.py", harness=(folder,))
    assert {*workspace.files(workspace.head)} == {"harness/text.py"}
    assert "harness/metric.py" in workspace.harness(workspace.head)


def test_protocol_that_protects_all_that_it_allows_is_refused(quick: Path, cli: Cli) -> None:
    workspace_of(quick, "train.py", harness=("train.py",))
    for command, code in ((["protocol", "check"], 2), (["run", "--tag", "t", "--max-experiments", "1"], 3)):
        done = cli(quick, *command)
        assert done.returncode == code
        said = "allowedGlobs (train.py) leave nothing to change: immutableHarness.paths protects train.py"
        assert f"error: {said}" in done.stderr


def test_path_of_the_harness_that_matches_no_file_is_named(quick: Path, cli: Cli) -> None:
    workspace_of(quick, "train.py", harness=("prepare.py", "spilts.py", "data/"))
    (quick / "data").mkdir()
    (quick / "data" / "untracked.csv").touch()
    checked = cli(quick, "protocol", "check")
    assert checked.returncode == 0, checked.stderr
    for path in ("spilts.py", "data"):
        said = f"immutableHarness.paths: {path} matches no tracked file, so it protects none"
        assert f"note: {said}" in checked.stdout
        assert f"warning  harness   {said}" in cli(quick, "doctor").stdout
    ran = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert ran.returncode == 0, ran.stderr
    assert "spilts.py matches no tracked file" in f"{ran.stdout}{ran.stderr}"
