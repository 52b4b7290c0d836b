"""Run `autoresearch` as `python -m agent`."""

import sys
from pathlib import Path

# Python puts the current folder first, which is the workspace: what lies there is never imported by the program.
here = Path.cwd()
if here != Path(__file__).resolve().parents[1]:
    sys.path[:] = [place for place in sys.path if place and Path(place) != here]

from agent.cli import start  # noqa: E402

start()
