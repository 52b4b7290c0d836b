"""Responses of a model in the requested format."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

FILE = "import math\n\nRATE = 0.1\nDEPTH = 4\n\n\ndef f(x):\n    if x:\n        return RATE\n    return 0\n"
NOTES = "DESCRIPTION: {}\nHYPOTHESIS: it is nearer\nEXPECTED: -0.01\n\n"


def edit(search: str, replace: str, path: str = "train.py") -> str:
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def rates() -> Iterator[str]:
    """Yield edits that move RATE towards its best value."""
    for number in itertools.count(1):
        yield f"RATE = {0.1 + 0.02 * number:.2f}"


def walk() -> Any:
    """Return a model that reads the incumbent from the prompt and proposes the next rate as an edit of its line."""
    steps = rates()

    def answer(body: dict[str, Any]) -> str:
        prompt = body["messages"][-1]["content"] if len(body["messages"]) < 3 else body["messages"][1]["content"]
        line = re.findall(r"(?m)^RATE = .*", prompt)[-1]
        new = next(steps)
        return NOTES.format(new) + edit(line, new)

    return answer
