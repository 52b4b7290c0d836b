"""Run the MLX port of autoresearch, trevin-creator/autoresearch-mlx, on our snapshot, for comparison on equal terms.

None of its code is kept here: `--port DIR` names a checkout. Its train.py runs unchanged, or with constants replaced as
its README advises for small machines. A prepare.py of ours gives it our data, budget and evaluation.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Size, batch and context for a small machine; everything else is the author's.
SCALED: dict[str, Any] = {
    "WINDOW_PATTERN": "L",
    "TOTAL_BATCH_SIZE": 2**11,
    "DEPTH": 2,
    "DEVICE_BATCH_SIZE": 8,
    "FINAL_EVAL_BATCH_SIZE": 16,
}
# Our batch, and learning rates tuned for it on 2 cores, where its own are too high.
TUNED = {**SCALED, "TOTAL_BATCH_SIZE": 2**13, "DEVICE_BATCH_SIZE": 16, "MATRIX_LR": 0.01, "EMBEDDING_LR": 0.3}

PREPARE = """
import importlib.util, sys
sys.path.append({root!r})
spec = importlib.util.spec_from_file_location("ours", {harness!r})
ours = importlib.util.module_from_spec(spec)
sys.modules["ours"] = ours
spec.loader.exec_module(ours)
import mlx.core as mx
from ours import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb

def make_dataloader(*args):
    for inputs, targets, epoch in ours.make_dataloader(*args):
        yield mx.array(inputs), mx.array(targets), epoch
"""
NO_BLAS = "no-blas"  # a file next to train.py that makes MLX keep its own BLAS


def make_workspace(port: Path, folder: Path, constants: dict[str, Any], *, fast: bool) -> Path:
    """Put the port's train.py into `folder`, ready to run.

    Args:
        constants: values that replace the port's.
        fast: use our BLAS with all threads, and float32, which a BLAS needs.
    """
    source = (port / "train.py").read_text()
    for name, value in constants.items():
        source, found = re.subn(rf"(?m)^({name} = ).*$", rf"\g<1>{value!r}", source)
        if not found:
            raise SystemExit(f"{port / 'train.py'} has no constant {name}; update the checkout of the port")
    if fast:
        source = source.replace("mx.bfloat16", "mx.float32")
    else:
        (folder / NO_BLAS).touch()
    (folder / "train.py").write_text(source)
    (folder / "prepare.py").write_text(PREPARE.format(root=str(ROOT), harness=str(ROOT / "prepare.py")))
    return folder


def commit_of(port: Path) -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=port, capture_output=True, text=True, check=True).stdout.strip()
