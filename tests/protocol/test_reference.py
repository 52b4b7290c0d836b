"""docs/protocol.md matches the models, and its examples are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.protocol.check import check
from agent.protocol.load import load_protocol, require_runnable
from agent.protocol.reference import page, reference
from tests.common.workspaces import ROOT, SIEVE

pytestmark = pytest.mark.quick

PAGE = ROOT / "docs" / "protocol.md"
EXAMPLE = json.loads((ROOT / "protocol.json").read_bytes())


def test_page_matches_models() -> None:
    again = "run `uv run python -m agent.protocol.reference docs/protocol.md`"
    assert page(PAGE.read_text(), EXAMPLE) == PAGE.read_text(), again


def test_page_names_every_field() -> None:
    text = reference(EXAMPLE)
    for folder in (ROOT, SIEVE):
        for field in check(load_protocol(folder)):
            section, _, name = field["field"].partition(".")
            name = re.sub(r"secondaryMetrics\.\d+", "primaryMetric", name or section)
            line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
            assert field["effect"].replace("<", "&lt;") in line
            assert ("**enforced**" in line) is field["enforced"]


@pytest.mark.parametrize("index", [0, -1])
def test_examples_of_page_load_without_error(tmp_path: Path, index: int) -> None:
    shown = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[index]
    (tmp_path / "protocol.json").write_text(shown)
    require_runnable(load_protocol(tmp_path))


def test_a_page_without_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="must contain the markers"):
        page("# protocol.json", EXAMPLE)
