from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from agent.protocol.check import check, check_lines
from agent.protocol.load import load_protocol, require_runnable
from agent.protocol.models import Protocol
from agent.system.patterns import matches
from tests.common.workspaces import ROOT, SIEVE, Cli

pytestmark = pytest.mark.quick


def users() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "protocol.json").read_bytes())
    return content


def write(folder: Path, content: object) -> Path:
    (folder / "protocol.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_user_protocol_loads_as_written() -> None:
    protocol = load_protocol(ROOT)
    assert protocol.metric.name == "val_bpb"
    assert protocol.training_seconds == 300
    assert protocol.execution.hard_timeout_seconds == 900
    assert protocol.columns == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert protocol.mutable_surface.allows("train.py")
    assert not protocol.mutable_surface.allows("prepare.py")
    assert not protocol.mutable_surface.allows("agent/loop.py")


def test_the_digest_ignores_layout_and_sees_content(tmp_path: Path) -> None:
    content = users()
    same = load_protocol(write(tmp_path, json.dumps(content, indent=7, sort_keys=True)))
    assert same.digest == load_protocol(ROOT).digest
    content["execution"]["hardTimeoutSeconds"] = 901
    assert load_protocol(write(tmp_path, content)).digest != load_protocol(ROOT).digest


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("execution.comand", "x", "execution.comand: unknown field"),
        ("execution.hardTimeoutSeconds", -1, "execution.hardTimeoutSeconds"),
        ("meta.archetype", "knitting", "meta.archetype"),
        ("measurement.primaryMetric.extract.pattern", "val_bpb: ([0-9", "is not a valid regular expression"),
        ("measurement.primaryMetric.extract.pattern", "val_bpb: [0-9]+", "needs a group"),
        ("measurement.primaryMetric.extract.pattern", "^loss: ([0-9.]+)", "not found in its own exampleStdout"),
        ("measurement.primaryMetric.extract.kind", "custom", "kind custom is not supported"),
        ("measurement.primaryMetric.extract.kind", "json_pointer", "requires the field pointer"),
        ("environment.sandbox", {"cpus": 2}, '"protocolVersion": "1.1"'),
        ("environment.setupCommands", [{"kind": "uv", "args": ["sync"]}], '"protocolVersion": "1.1"'),
        ("environment.constraints.networkAllowlist", ["localhost"], '"protocolVersion": "1.1"'),
        ("provenance.resultsLog.columns", ["commit", "speed"], "unknown column 'speed'"),
        ("provenance.gitWorkflow.branchPattern", "research", "must contain <tag>"),
        ("mutableSurface.allowedGlobs", [], "mutableSurface.allowedGlobs"),
        ("measurement.primaryMetric.name", "commit", "commit is a column of the results"),
        ("measurement.primaryMetric.name", "status", "status is a column of the results"),
        ("measurement.primaryMetric.name", "description", "description is a column of the results"),
    ],
)
def test_broken_protocol_is_reported_with_its_field(tmp_path: Path, path: str, value: object, words: str) -> None:
    content = users()
    *parents, last = path.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UsageError) as error:
        load_protocol(write(tmp_path, content))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_file_of_a_metric_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    content = users()
    content["execution"]["cwd"] = "sub"
    for name, log in (("results.tsv", "sub/results.tsv"), ("./b", "sub/./b")):
        content["measurement"]["primaryMetric"]["extract"] = {"kind": "json_pointer", "pointer": "/x", "path": name}
        content["provenance"]["resultsLog"]["path"] = name
        assert load_protocol(write(tmp_path, content)).provenance.results_log.path == name
        content["provenance"]["resultsLog"]["path"] = log
        with pytest.raises(UsageError, match="would be overwritten, but it is a file that the command writes"):
            load_protocol(write(tmp_path, content))


def test_a_file_that_is_no_json_and_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a valid protocol"):
        load_protocol(write(tmp_path, '{"schemaKind": "proto'))
    (tmp_path / "protocol.json").unlink()
    with pytest.raises(UsageError, match=r"protocol\.json not found"):
        load_protocol(tmp_path)


def test_version_1_1_takes_its_own_fields(tmp_path: Path) -> None:
    content = users() | {"protocolVersion": "1.1"}
    content["environment"]["sandbox"] = {"cpus": 2, "pids": 100}
    content["environment"]["setupCommands"] = [{"kind": "uv", "args": ["sync"]}, "uv run prepare.py"]
    assert load_protocol(write(tmp_path, content)).environment.sandbox is not None


@pytest.mark.parametrize("change", [{"schemaKind": "discoveryDraft"}, {"meta.eligibility": "needs_harness"}])
def test_a_protocol_that_is_not_ready_is_not_run(tmp_path: Path, change: dict[str, str]) -> None:
    content = copy.deepcopy(users())
    for key, value in change.items():
        node: Any = content
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
    with pytest.raises(UsageError):
        require_runnable(load_protocol(write(tmp_path, content)))


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        ("train.py", "train.py", True),
        ("src/train.py", "train.py", False),
        ("src/train.py", "**/train.py", True),
        ("train.py", "**/train.py", True),
        ("src/a/b.py", "src/**", True),
        ("src/a/b.py", "src", True),
        ("src/a/b.py", "src/*.py", False),
        ("a+b.py", "a+b.py", True),
        ("axb.py", "a?b.py", True),
    ],
)
def test_globs(path: str, glob: str, expected: bool) -> None:
    assert matches(path, glob) is expected


def test_check_says_something_about_every_field_of_both_protocols() -> None:
    for folder in (ROOT, SIEVE):
        fields = check(load_protocol(folder))
        assert all(field["effect"] and field["effect"] != "part of the field above" for field in fields)
        assert len(check_lines(fields)) == len(fields)
    names = {field["field"] for field in check(load_protocol(ROOT))}
    assert "execution.stopCondition.trainingSecondsBudget" in names
    assert "measurement.secondaryMetrics.1.extract.pattern" in names


def test_check_names_the_origin_of_a_value(cli: Cli, quick: Path) -> None:
    shown = cli(quick, "protocol", "check", AUTORESEARCH_TRAINING_SECONDS="12").stdout
    line = next(line for line in shown.splitlines() if "trainingSecondsBudget" in line)
    assert "'12'" in line
    assert "(AUTORESEARCH_TRAINING_SECONDS)" in line
    assert "(default)" in shown
    assert "(protocol.json)" in shown


def test_the_schema_is_closed_and_describes_every_field(cli: Cli, quick: Path) -> None:
    schema = json.loads(cli(quick, "protocol", "schema").stdout)
    assert schema == Protocol.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert "hardTimeoutSeconds" in schema["$defs"]["Execution"]["properties"]
