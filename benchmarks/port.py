"""The MLX port of autoresearch, trevin-creator/autoresearch-mlx, on our snapshot: an opponent on equal terms.

Nothing of it lives here: `--port DIR` names a checkout. Its train.py runs as it is, or with constants replaced as its
README advises for small machines; a prepare.py that stands before it gives it our data, budget and evaluation.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Its size, batch and context for a small machine; the rest is as its author left it.
SCALED: dict[str, Any] = {
    "WINDOW_PATTERN": "L",
    "TOTAL_BATCH_SIZE": 2**11,
    "DEPTH": 2,
    "DEVICE_BATCH_SIZE": 8,
    "FINAL_EVAL_BATCH_SIZE": 16,
}
# Rates found for it on 2 cores, where its own are too high, and our batch.
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
NO_BLAS = "no-blas"  # a file beside train.py: MLX keeps its own


def make_workspace(port: Path, folder: Path, constants: dict[str, Any], *, fast: bool) -> Path:
    """Its train.py in `folder`, ready to run. fast: with our BLAS, all its threads, and float32, which a BLAS needs."""
    source = (port / "train.py").read_text()
    for name, value in constants.items():
        source, found = re.subn(rf"(?m)^({name} = ).*$", rf"\g<1>{value!r}", source)
        if not found:
            raise SystemExit(f"{port / 'train.py'} has no constant {name}: is it the port's newest commit?")
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
