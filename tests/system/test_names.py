"""Paths, patterns and numbers of an untrusted protocol."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from agent.protocol.load import load_protocol
from agent.protocol.models import MutableSurface
from agent.system.names import fault_of_branch, may_be_committed
from agent.system.patterns import matches
from tests.common.workspaces import ROOT, Cli, git, quick_protocol

ESCAPES = [
    "/etc/passwd",
    "//etc/passwd",
    "../outside",
    "a/../../outside",
    "a/..",
    "~/.bashrc",
    "~root/x",
    "",
    "   ",
    "a\0b",
    "a\nb",
    "a\x1b[31mb",
    "a\u2028b",
    "C:/Windows/x",
    "..\\outside",
    "x" * 300,
    "a/" * 3000 + "b",
]
GITS = [".git/hooks/post-commit", "a/.git/config", ".GIT/config", "git~1/x", ".git /x", ".git./x", ".g\u200cit/config"]
GITS += [".git::$INDEX_ALLOCATION/config", "GIT~1/hooks/x", ".\ufeffgit/x", ".gi\u202et/x", "sub/.Git"]
FIELDS = [
    "provenance.baselineArtifactPath",
    "provenance.resultsLog.path",
    "measurement.primaryMetric.extract.path",
    "execution.cwd",
    "immutableHarness.paths.0",
    "mutableSurface.allowedGlobs.0",
]


def protocol_with(folder: Path, field: str, value: object) -> Path:
    content: Any = quick_protocol()
    node: Any = content
    *parents, last = field.split(".")
    for parent in parents:
        node = node[int(parent) if parent.isdigit() else parent]
    node[int(last) if last.isdigit() else last] = value
    (folder / "protocol.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("path", [*ESCAPES, *GITS])
@pytest.mark.parametrize("field", [*FIELDS, "mutableSurface.forbiddenGlobs.0"])
def test_no_path_leads_out_of_the_workspace(tmp_path: Path, field: str, path: str) -> None:
    if field.startswith("mutableSurface.forbidden") and path in GITS:
        return  # to forbid it is no harm
    with pytest.raises(UsageError) as refused:
        load_protocol(protocol_with(tmp_path, field, path))
    assert field.split(".")[0] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("path", ["train.py", "protocol.json", "prepare.py", "pyproject.toml", ".", "./train.py"])
def test_nothing_that_is_there_is_written_over(tmp_path: Path, path: str) -> None:
    for field in FIELDS[:2]:
        with pytest.raises(UsageError, match="would be overwritten"):
            load_protocol(protocol_with(tmp_path, field, path))


def test_baseline_log_is_no_file_of_the_person(tmp_path: Path) -> None:
    protocol_with(tmp_path, "provenance.baselineArtifactPath", ".bashrc")
    (tmp_path / ".bashrc").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a baseline"):
        load_protocol(tmp_path)
    (tmp_path / ".bashrc").unlink()
    (tmp_path / ".bashrc").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="is a symbolic link"):
        load_protocol(tmp_path)


def test_record_of_the_baseline_is_no_file_of_the_person(tmp_path: Path) -> None:
    protocol_with(tmp_path, "provenance.baselineArtifactPath", "logs/b.log")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/baseline.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"'logs/baseline\.json' next to the log exists"):
        load_protocol(tmp_path)
    (tmp_path / "logs/baseline.json").write_text('{"runs": []}')
    (tmp_path / "logs/b.log").write_text("ours")
    load_protocol(tmp_path)


def test_no_component_of_a_written_path_is_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "logs").symlink_to(elsewhere)
    for field in FIELDS[:2]:
        with pytest.raises(UsageError, match="is a symbolic link"):
            load_protocol(protocol_with(folder, field, "logs/file.log"))
    os.mkfifo(folder / "pipe.log")
    for field in FIELDS[:2]:
        with pytest.raises(UsageError, match="not a regular file"):
            load_protocol(protocol_with(folder, field, "pipe.log"))
    with pytest.raises(UsageError, match="is outside of the workspace"):
        load_protocol(protocol_with(folder, "execution.cwd", "logs"))
    with pytest.raises(UsageError, match="git ignores"):
        load_protocol(protocol_with(folder, "provenance.resultsLog.path", ".autoresearch/results.tsv"))
    (folder / ".autoresearch").symlink_to(elsewhere)
    load_protocol(protocol_with(folder, "execution.cwd", "."))  # a person may keep the state on another disk


def test_honest_paths_load(tmp_path: Path) -> None:
    for path in ("src/train.py", "a b/c.py", "größe.py", "**/*.py", "src", "x~", "a.git/b", ".github/x", "git~/x"):
        load_protocol(protocol_with(tmp_path, "mutableSurface.allowedGlobs.0", path))
    load_protocol(protocol_with(tmp_path, "mutableSurface.forbiddenGlobs.0", ".git/**"))
    load_protocol(protocol_with(tmp_path, "provenance.baselineArtifactPath", "logs/baseline.log"))
    (tmp_path / "src").mkdir()
    load_protocol(protocol_with(tmp_path, "execution.cwd", "src"))
    assert load_protocol(ROOT).provenance.baseline_artifact_path == ".autoresearch/create/baseline_run.log"


@pytest.mark.parametrize(
    "path", [*ESCAPES, *GITS, ".gitmodules", "a/.GITMODULES", "gitmod~1", ".autoresearch/x", "a//b"]
)
def test_names_that_git_refuses_are_never_allowed(path: str) -> None:
    assert not may_be_committed(path)
    assert not MutableSurface(allowedGlobs=["**"]).allows(path)


def test_other_names_are_allowed() -> None:
    surface = MutableSurface(allowedGlobs=["**"])
    for path in ("train.py", ".github/workflows/x.yml", ".gitignore", "a/git.py", "größe/ü.py", "git~", "a b.py"):
        assert surface.allows(path)
    assert not surface.allows("protocol.json")


def test_git_agrees_on_branches(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    names = ["autoresearch/t", "a..b", "a b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a\\b", "/a", "a/", "a//b"]
    names += [
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "a@{b",
        "-a",
        "HEAD",
        "a\x01b",
        "a\x7fb",
        "a@b",
        "ü/t",
        "a.b",
    ]
    for name in names:
        done = subprocess.run(
            ["git", "check-ref-format", "--branch", name], cwd=tmp_path, capture_output=True, check=False
        )
        assert (fault_of_branch(name) is None) is (done.returncode == 0), name


@pytest.mark.parametrize(
    "pattern", ["../<tag>", "a b<tag>", "<tag>.lock", "-<tag>", "a\x1b<tag>", "/<tag>", "x" * 300 + "<tag>"]
)
def test_branch_pattern_gives_a_branch(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="branchPattern"):
        load_protocol(protocol_with(tmp_path, "provenance.gitWorkflow.branchPattern", pattern))


@pytest.mark.parametrize(
    ("pattern", "example"),
    [
        (r"(a+)+$", "a" * 50_000 + "b"),
        (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 50_000),
        (r"(x+x+)+y", "x" * 50_000),
        (r"(.*)*=", "x" * 50_000),
        (r"((a|aa)*)*b", "a" * 5000),
    ],
)
def test_patterns_that_never_end_are_one_sentence(tmp_path: Path, cli: Cli, pattern: str, example: str) -> None:
    content: Any = quick_protocol()
    content["measurement"]["primaryMetric"]["extract"] |= {"pattern": pattern, "exampleStdout": example}
    (tmp_path / "protocol.json").write_text(json.dumps(content))
    began = time.monotonic()
    done = cli(tmp_path, "protocol", "check")
    assert time.monotonic() - began < 60
    assert done.returncode == 2
    failure, hint = done.stderr.splitlines()
    assert failure.startswith("error: ")
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    "pattern", ["(" * 2000 + ")" * 2000, "a" * 100_000, "(((a{1000}){1000}){1000})", "(a){99999999999}", "(?<=a*)(b)"]
)
def test_patterns_that_take_all_memory_are_one_sentence(tmp_path: Path, pattern: str) -> None:
    began = time.process_time()  # other load does not count
    with pytest.raises(UsageError, match="pattern"):
        load_protocol(protocol_with(tmp_path, "measurement.primaryMetric.extract.pattern", pattern))
    assert time.process_time() - began < 2


def test_globs_take_the_time_of_the_path() -> None:
    began = time.process_time()  # other load does not count
    assert not matches("a/" * 2000 + "c", "**/" * 100 + "b")
    assert not matches("a" * 4000, "*a" * 200 + "b")
    assert not matches("a/" * 2000, "**/*a" * 90 + "b")
    assert matches("a" * 4000 + "b", "*a" * 200 + "b")
    assert time.process_time() - began < 3


def test_globs_are_bounded(tmp_path: Path) -> None:
    for field in ("mutableSurface.allowedGlobs", "mutableSurface.forbiddenGlobs", "immutableHarness.paths"):
        for value in (["**/" * 1000 + "x"], ["x"] * 100_000):
            with pytest.raises(UsageError, match=field):
                load_protocol(protocol_with(tmp_path, field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("execution.hardTimeoutSeconds", 1e308),
        ("execution.hardTimeoutSeconds", float("inf")),
        ("execution.hardTimeoutSeconds", float("nan")),
        ("execution.hardTimeoutSeconds", 10**400),
        ("execution.hardTimeoutSeconds", True),
        ("execution.stopCondition.trainingSecondsBudget", 1e300),
        ("execution.stopCondition.trainingSecondsBudget", float("inf")),
        ("execution.stopCondition.maxSteps", 10**400),
        ("miningLoop", {"maxTrials": 10**400}),
        ("miningLoop", {"maxSessionWallSeconds": 1e308}),
        ("miningLoop", {"maxConsecutiveNonImprovements": 1e300}),
        ("measurement.primaryMetric.name", "a\tb"),
        ("measurement.primaryMetric.name", "\x1b[31mred"),
        ("measurement.primaryMetric.name", "x" * 5000),
        ("execution.command", "true\0"),
        ("execution.command", "\ud800"),
        ("measurement.primaryMetric.extract.exampleStdout", "x" * 500_000),
    ],
)
def test_numbers_and_texts_beyond_sense_are_one_sentence(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(UsageError) as refused:
        load_protocol(protocol_with(tmp_path, field, value))
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


def text_of(**changes: str) -> str:
    content = quick_protocol()
    return json.dumps(content)[:-1] + "".join(f', "{key}": {value}' for key, value in changes.items()) + "}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b" " * (2**20 + 1), "larger than 1 MiB"),
        (b"[" * 100_000, "not a valid protocol"),
        (text_of(archetypeExtensions='{"a":' * 20_000 + "1" + "}" * 20_000).encode(), "not a valid protocol"),
        (text_of(archetypeExtensions='{"a": {"b": ' + "1" * 5000 + "}}").encode(), "not a valid protocol"),
        (text_of(schemaKind='"protocol"').encode(), "duplicate field 'schemaKind'"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b"", "not a valid protocol"),
        (b"null", "not a valid protocol"),
        (b"{" + b",".join(b'"f%d": 1' % n for n in range(50_000)) + b"}", "more"),
    ],
)
def test_a_protocol_that_is_none(tmp_path: Path, cli: Cli, content: bytes, words: str) -> None:
    (tmp_path / "protocol.json").write_bytes(content)
    done = cli(tmp_path, "protocol", "check")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert len(done.stderr) < 3000


def test_a_protocol_that_is_no_plain_file(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "protocol.json"
    makes: list[Callable[[], object]] = [lambda: os.mkfifo(path), path.mkdir, lambda: path.symlink_to("/dev/zero")]
    for make in makes:
        make()
        done = cli(tmp_path, "protocol", "check")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        path.rmdir() if path.is_dir() else path.unlink()
