"""Code for a workspace's train.py that knows which run of its session it is."""

from __future__ import annotations

from pathlib import Path

from agent.journal.paths import journal_path

# A run sees nothing of the loop: without a sandbox it can look up in the journal which one it is.
# The loop journals a run when its process is there, which may be later than the run's first line.
# A dry check imports it, which is no run.
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
    """`code` that begins with WHICH, for the session `t` of a workspace."""
    return code.replace("JOURNAL", repr(str(journal_path(workspace, "t"))))
