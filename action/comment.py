"""Print the comment on a pull request for the output of `autoresearch verify --json`, whose path is the argument."""

import json
import sys
from pathlib import Path
from typing import Any

MARK = "<!-- autoresearch verify -->"
LONGEST = 1000


def comment(text: str) -> str:
    """Return the comment.

    Args:
        text: the output of the command; empty if it printed none.
    """
    try:
        said = json.loads(text)
    except ValueError:
        return f"{MARK}\n**The claim could not be verified**, see the log of the job."
    if said.get("status") != "ok":
        return f"{MARK}\n**The claim could not be verified:**\n\n{quoted(' '.join(said.get('errors', [])))}"
    return f"{MARK}\n{result(said['data'])}"


def result(data: dict[str, Any]) -> str:
    # The reason is the last line of a stranger's program. All else are figures.
    says = f"**{data['verdict']}:**\n\n{quoted(data['why'])}" if data["why"] else f"**{data['says']}**"
    machine = data["machine"]
    budget = "" if data["training_seconds"] is None else f" of {data['training_seconds']:g} s"
    where = f"{machine['chip']}, {machine['os']}" + (f", MLX {machine['mlx']}" if machine["mlx"] else "")
    count = f"{len(data['pairs'])} pairs of runs{budget}"
    return f"{says}\n\n{count}, on {quoted_in_line(where)}. Claim `{data['claim'][:12]}`."


def quoted(text: str) -> str:
    """Return a text as a code block that nothing in it can close."""
    return f"```\n{' '.join(text.split())[:LONGEST].replace('`', chr(39))}\n```"


def quoted_in_line(text: str) -> str:
    return f"`{' '.join(text.split())[:LONGEST].replace('`', chr(39))}`"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(comment(path.read_text() if path.exists() else ""))
