"""Logs of runs that faults of the GPU ended, and a training script that fails with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.common.workspaces import QUICK

FOLDER = Path(__file__).parents[1] / "execution" / "machine_faults"
LOGS = sorted(FOLDER.glob("*/*.log"))
KINDS = ("watchdog", "kernel", "leak", "machine")
FAULTS = [path for path in LOGS if path.parent.name in KINDS]

# Fails with the log of a folder that outlives the run: the one for this run by its number, or else, if the expression
# there holds, the first one. `stays.log` is kept.
FAILS = """if __name__ == "__main__":
    plan = pathlib.Path(PLAN)
    with (plan / "runs").open("a") as file:
        file.write("x")
    at = plan / "at" / f"{(plan / 'runs').stat().st_size}.log"
    logs = [at] if at.exists() else sorted(plan.glob("*.log"))
    if logs and eval((plan / "when").read_text()):
        text = logs[0].read_text()
        if logs[0].name != "stays.log":
            logs[0].unlink()
        sys.stderr.write(text)
        sys.exit(1)
loss ="""


def log_of(name: str) -> str:
    return (FOLDER / f"{name}.log").read_text()


class Plan:
    """What the runs of a workspace that `faulty` made fail with.

    Args:
        folder: is created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.fail()

    def fail(self, *texts: str, when: str = "True", always: str = "") -> None:
        """Let the next runs for which the expression `when` holds fail, one with each text.

        Args:
            texts: logs.
            when: an expression of the script's constants.
            always: the log of every such run after these.
        """
        for path in self.folder.rglob("*.*"):
            path.unlink()
        (self.folder / "when").write_text(when)
        for number, text in enumerate(texts):
            (self.folder / f"{number:03}.log").write_text(text)
        if always:
            (self.folder / "stays.log").write_text(always)

    @property
    def runs(self) -> int:
        """The number of runs so far."""
        return len((self.folder / "runs").read_text())

    def fail_at(self, logs: Mapping[int, str]) -> None:
        """Let runs fail with a log each, by their numbers from 1, counted from now on."""
        self.fail()
        (self.folder / "runs").write_text("")
        (self.folder / "at").mkdir(exist_ok=True)
        for number, text in logs.items():
            (self.folder / "at" / f"{number}.log").write_text(text)


def faulty(plan: Plan, script: str = QUICK) -> str:
    """Return a training script whose runs fail as planned. It needs `--sandbox off`."""
    return script.replace("import sys", "import pathlib, sys").replace(
        "loss =", FAILS.replace("PLAN", repr(str(plan.folder))), 1
    )
