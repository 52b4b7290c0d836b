"""Code for train.py that finds out which run of its session it is."""

from __future__ import annotations

from pathlib import Path

from agent.journal.paths import journal_path

# A run gets no information from the loop, but without a sandbox it can find itself in the journal.
# The loop journals a run once its process exists, which may be after the run's first line.
# A dry check only imports the code and is not a run.
WHICH = """import json, os, pathlib, time
log = None if __name__ == "__main__" else ""
deadline = time.monotonic() + 30
while log is None and time.monotonic() < deadline:
    journal = pathlib.Path(JOURNAL)
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    begun = [json.loads(line) for line in lines if '"log"' in line and line.endswith(chr(10))]
    log = next((each["log"] for each in reversed(begun) if each.get("pid") == os.getsid(0)), None)
    time.sleep(0.005)
assert log is not None
"""
SLOW = (
    WHICH
    + """
slow = os.path.basename(log) in os.environ.get("SLOW", "").split()
loss += 0.5 * slow
"""
)


def knowing(code: str, workspace: Path) -> str:
    """Return `code`, which begins with WHICH, for session `t` of a workspace."""
    return code.replace("JOURNAL", repr(str(journal_path(workspace, "t"))))
