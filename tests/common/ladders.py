"""A recipe with two rungs that takes milliseconds, and an agent that makes the edits that a test names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# The metric depends on the constants and the training budget, and has a noise of 0.002. CRASH_LR and HANG_LR say what
# happens to a screen.
TRAIN = '''"""Trains for no time."""

import os
import random
import time

RATE = 0.4  # search: off
BATCH_SIZE = 8  # search: off
CRASH_LR = 0  # search: off
HANG_LR = 0  # search: off

seconds = float(os.environ.get("AUTORESEARCH_TRAINING_SECONDS", 300))
if __name__ == "__main__":
    if CRASH_LR and seconds < 300:
        raise SystemExit("no such rate")
    if HANG_LR and seconds < 300:
        time.sleep(HANG_LR)
    loss = 1.0 + 0.05 * (RATE - 3.0) ** 2 + 30 / seconds + 0.01 * BATCH_SIZE
    print(f"trained for {seconds:g} s")
    print(f"val_bpb:          {loss + random.gauss(0, 0.002):.6f}")
    print("num_steps:        40")
'''
# Makes the next of its arguments: RATE=20 sets RATE.
AGENT = """
import pathlib, re, sys
number = int(re.findall(r"experiments so far: (\\d+)", pathlib.Path(sys.argv[1]).read_text())[0])
train = pathlib.Path("train.py")
for change in sys.argv[2 + number].split(","):
    name, value = change.split("=")
    train.write_text(re.sub(rf"(?m)^{name} = \\S+", f"{name} = {value}", train.read_text()))
"""
LADDER = ("--ladder", "60,300")


def flags_of(folder: Path, edits: Sequence[str]) -> list[str]:
    agent = folder.parent / "agent.py"
    agent.write_text(AGENT)
    command = f"{sys.executable} {agent} {{prompt_file}} {' '.join(edits)}"
    limits = ["--max-experiments", str(len(edits))]
    return [*limits, "--proposer", "command", "--agent-cmd", command, "--sandbox", "off", "--no-keep-awake"]
