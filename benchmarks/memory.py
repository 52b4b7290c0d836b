"""Measure the peak memory of a training step and of the evaluation at the `mac` profile: ours and the MLX port's.

    uv run python -m benchmarks.memory --port DIR [--rows 4]

Memory is what MLX counts (mx.get_peak_memory), in float32 on a CPU, with the same documents and the port's defaults;
ours takes the path of a GPU, whose attention is not fused here. One optimizer step and one evaluation batch reach the
peak. Both steps are cut to one micro-step, which saves the port one copy of the gradients; its evaluation batch of 256
rows goes through the model 32 rows at a time, so 32 rows are enough. Our evaluation runs the exported model, counted
once for each of the evaluator's processes. Takes ten minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.loader import PREPARE, write_shards
from benchmarks.port import ROOT, commit_of
from benchmarks.recipe import START

OURS = """
import tempfile
from pathlib import Path
import train
from prepare import EVAL_LOGITS_BYTES, MAX_SEQ_LEN, VOCAB_SIZE, _trace
from harness import evaluator, scoring
import mlx.core as mx
import numpy as np

# The GPU's path, in the type that a CPU is fast at.
train.ON_CPU, train.ROWS = False, ROWS_GIVEN
mx.random.seed(train.SEED)
model = train.GPT()
parameters = train.flat_parameters(model)
state = train.optimizer_state(parameters)
mx.eval(parameters, state)
step = train.step_on_a_gpu(model)

def rows(count):
    return np.random.default_rng(0).integers(VOCAB_SIZE, size=(count, MAX_SEQ_LEN + 1)).astype(np.int32)

block = rows(train.ROWS)[None]
mx.eval(step(parameters, state, mx.array(1.0), block[..., :-1].copy(), block[..., 1:].copy()))
print("training", mx.get_peak_memory())
train.load_parameters(model, parameters)
del step
mx.clear_cache()
mx.reset_peak_memory()
batch = max(1, min(train.EVAL_BATCH_SIZE, EVAL_LOGITS_BYTES // (4 * MAX_SEQ_LEN * VOCAB_SIZE)))
block = rows(batch)
with tempfile.TemporaryDirectory() as folder:
    graph = Path(folder) / "model.mlxfn"
    _trace(model, (batch, MAX_SEQ_LEN), VOCAB_SIZE, graph)
    # The run keeps its memory while the evaluator's processes use theirs.
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    scoring.Predictions().predict(graph, block[:, :-1])
    print("evaluation", held + evaluator.processes() * (mx.get_peak_memory() - held))
"""


def run(command: list[str], cwd: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)[:100]} failed: {done.stderr[-1000:]}")
    return done.stdout


def replaced(source: str, **constants: float) -> str:
    for name, value in constants.items():
        source, found = re.subn(rf"(?m)^({name} = ).*$", rf"\g<1>{value}", source)
        assert found, name
    return source


def ours(cache: str, rows: int) -> tuple[float, float]:
    """Return the megabytes of training and of evaluation."""
    out = run([sys.executable, "-c", OURS.replace("ROWS_GIVEN", str(rows))], ROOT, AUTORESEARCH_CACHE=cache)
    found = dict(line.split() for line in out.splitlines())
    return int(found["training"]) / 2**20, int(found["evaluation"]) / 2**20


def theirs(port: Path, scratch: Path) -> float:
    """Return the peak megabytes of the port's whole program."""
    run([sys.executable, "-c", PREPARE, str(port)], scratch, HOME=str(scratch))
    recipe = (port / "train.py").read_text().replace("mx.bfloat16", "mx.float32")
    (scratch / "train.py").write_text(
        replaced(recipe, TOTAL_BATCH_SIZE=2**15, FINAL_EVAL_BATCH_SIZE=32, STARTUP_EXCLUDE_STEPS=0)
    )
    (scratch / "prepare.py").write_text(
        replaced((port / "prepare.py").read_text(), TIME_BUDGET=0.1, EVAL_TOKENS=32 * 2048)
    )
    out = run([sys.executable, "-c", START], scratch, HOME=str(scratch), OPENBLAS_NUM_THREADS=str(os.cpu_count()))
    found = re.search(r"(?m)^peak_vram_mb:\s+([\d.]+)", out)
    assert found is not None
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure peak memory at the mac profile: ours and the MLX port's.")
    parser.add_argument("--port", type=Path, required=True, help="a checkout of trevin-creator/autoresearch-mlx")
    parser.add_argument("--rows", type=int, default=4, help="rows in a micro-step of ours (default: 4, the port's)")
    options = parser.parse_args()
    port = options.port.resolve()
    with tempfile.TemporaryDirectory() as name:
        cache, scratch = str(Path(name) / "cache"), Path(name) / "port"
        shards = scratch / ".cache" / "autoresearch" / "data"
        write_shards(shards, held_out=None)
        prepare = [sys.executable, "prepare.py", "--source", str(shards), "--profile", "mac"]
        run(prepare, ROOT, AUTORESEARCH_CACHE=cache)
        print(f"mac profile, float32, the port at {commit_of(port)}")
        training, evaluation = ours(cache, options.rows)
        print(f"ours {training:,.0f} MB in training, {evaluation:,.0f} MB in evaluation", flush=True)
        other = theirs(port, scratch)
        print(f"port {other:,.0f} MB in both\nours takes {max(training, evaluation) / other:.2f} times that")


if __name__ == "__main__":
    main()
