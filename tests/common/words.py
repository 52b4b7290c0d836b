"""Check texts for the words that the glossary of docs/style.md replaces.

`uv run python -m tests.common.words` lists each place with the word to use instead.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.common.workspaces import ROOT

# Pattern of the words to replace, and what to say instead.
INSTEAD = {
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"(?:cannot|can't|could not) be had": "unavailable",
    r"(?:is|are|was) away": "unavailable",
    r"no idea|no ideas": "no usable proposal",
    r"ha(?:s|ve) to be there": "required, missing",
    r"there (?:is|are|was|were) no": "required, missing, not found",
    r"(?:run|runs|ran) again": "re-run, repeat",
    r"beside it|in turn": "re-run, repeat, alternating",
    r"fresh runs?|run afresh|chose nothing": "held-out runs",
    r"went well|goes well": "succeeded",
    r"restate[sd]?": "adjusted for steps, at equal steps",
    r"exclude each other": "mutually exclusive",
    r"of its kin|nobody (?:is )?left behind": "killed the process tree",
    r"(?:made|is|makes) no keep": "rejected",
    r"(?:is|are|was|were) void|void:": "voided: REASON",
    r"in doubt|doubtful": "noise, uncertain",
}
# A phrase may continue on the next line, after the marker of a comment or quotation.
WRONG = {
    re.compile(rf"\b(?:{pattern})(?![\w-])".replace(" ", r"[\s#>]+"), re.IGNORECASE): word
    for pattern, word in INSTEAD.items()
}
PAGES = ("*.md", "docs/*.md", ".github/**/*.md", ".github/**/*.yml", "examples/**/*.md", "agent/**/*.md")
SOURCES = ("agent/**/*.py", "harness/**/*.py", "benchmarks/**/*.py", "prepare.py", "train.py")
# The page that defines the glossary.
LEFT_OUT = {"docs/style.md"}
TEXT = {tokenize.STRING, tokenize.COMMENT} | {getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


@dataclass(frozen=True)
class Finding:
    """A word to replace, as found in `text`."""

    path: Path
    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {' '.join(self.text.split())!r}: say {self.instead}"


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file with their first lines: a whole page, or the strings and comments of a source."""
    content = path.read_text()
    if path.suffix != ".py":
        yield 1, content
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in TEXT:
            yield token.start[0], token.string


def findings(paths: list[Path]) -> Iterator[Finding]:
    """Yield every word to replace in these files."""
    for path in paths:
        for first, text in texts(path):
            for pattern, instead in WRONG.items():
                for found in pattern.finditer(text):
                    yield Finding(path, first + text.count("\n", 0, found.start()), found[0], instead)


def readable() -> list[Path]:
    """Return every page and source that users or contributors read."""
    found = {path for pattern in (*PAGES, *SOURCES) for path in ROOT.glob(pattern)}
    return sorted(path for path in found if str(path.relative_to(ROOT)) not in LEFT_OUT)


if __name__ == "__main__":
    listed = [str(each) for each in findings(readable())]
    print("\n".join(listed) if listed else "all texts follow the glossary")
    sys.exit(1 if listed else 0)
