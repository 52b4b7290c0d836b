"""The repository's own train.py with known constants: a session in this clone may have kept others."""

from __future__ import annotations

import re

from tests.common.workspaces import ROOT


def recipe(**constants: object) -> str:
    """Return the text of train.py with these constants: the first of each name, which is that of the CPU block."""
    source = (ROOT / "train.py").read_text()
    for name, value in constants.items():
        source, found = re.subn(rf"(?m)^( *{name} = )[^#\n]*?( *(?:#.*)?)$", rf"\g<1>{value!r}\g<2>", source, count=1)
        assert found, name
    return source
