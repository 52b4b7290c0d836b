"""train.py as a program, with a real snapshot in a separate cache and short budgets."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SUMMARY = r"""---
val_bpb:          \d+\.\d{6}
training_seconds: \d+\.\d
total_seconds:    \d+\.\d
peak_vram_mb:     \d+\.\d
mfu_percent:      \d+\.\d\d
total_tokens_M:   \d+\.\d
num_steps:        \d+
num_params_M:     \d+\.\d
depth:            \d+
$"""
PROGRESS = (
    r"step \d{5} \(\d+\.\d%\) \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+ \| epoch: \d+ \| "
    r"remaining: \d+s"
)


def variant(folder: Path, **constants: object) -> Path:
    """Write a copy of train.py with constants replaced: the first of each name, which is that of the CPU block."""
    source = (ROOT / "train.py").read_text()
    for name, value in constants.items():
        source, found = re.subn(rf"(?m)^( *{name} = )[^#\n]*", rf"\g<1>{value!r}", source, count=1)
        assert found, name
    copy = folder / "train.py"
    copy.write_text(source)
    return copy


def environment(cache: Path, seconds: int = 3) -> dict[str, str]:
    settings = {"AUTORESEARCH_CACHE": cache, "AUTORESEARCH_TRAINING_SECONDS": seconds, "PYTHONPATH": ROOT}
    return {**os.environ, **{name: str(value) for name, value in settings.items()}}


def train(script: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script)], cwd=script.parent, env=env, capture_output=True, text=True)


def probe(script: Path, cache: Path, code: str) -> Any:
    """Return what `code` assigns to `result`, run in a separate process after importing `script` as `train`."""
    code = f"import json, train\nimport mlx.core as mx\nimport mlx.nn as nn\n{code}\nprint(json.dumps(result))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=script.parent, env=environment(cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SCRIPTS = ("train.py", "prepare.py", "examples/sieve/bench.py")
MODULES = ("blas", "evaluation", "peeking", "products", "search", "verdict")


HELPFUL = [*([each] for each in SCRIPTS), *(["-m", f"benchmarks.{each}"] for each in MODULES)]


@pytest.mark.parametrize("command", HELPFUL, ids=lambda command: command[-1])
def test_help_explains_and_does_nothing(tmp_path: Path, embedded: Path, command: list[str]) -> None:
    # Benchmarks of the recipe load train.py, which requires data.
    cache = tmp_path / "no-data" if command[0] != "-m" else embedded
    run = [sys.executable, *command, "--help"]
    env = environment(cache)
    done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: "), done.stderr
    assert done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) > 4
    assert not (tmp_path / "no-data").exists()


def test_train_takes_no_arguments(embedded: Path) -> None:
    run = [sys.executable, "train.py", "--lr", "3"]
    done = subprocess.run(run, cwd=ROOT, env=environment(embedded), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unrecognized arguments: --lr 3" in done.stderr


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "as-on-a-gpu"])
def test_a_run_learns_and_reports(embedded: Path, tmp_path: Path, gpu: bool) -> None:
    # Small, as a CPU is slow with bfloat16; two micro-steps per step.
    small = {
        "WINDOW_PATTERN": "SL",
        "TOTAL_BATCH_SIZE": 1024,
        "DEVICE_BATCH_SIZE": 2,
        "ASPECT_RATIO": 32,
        "HEAD_DIM": 32,
    }
    script = variant(tmp_path, **small) if gpu else variant(tmp_path)
    env = environment(embedded)
    if gpu:
        # bfloat16, compiled, accumulating: on a CPU, and without a C++ compiler, which would run for 20 s.
        source = script.read_text().replace("ON_CPU = mx.default_device() == mx.cpu", "ON_CPU = False")
        script.write_text(source.replace("else 4096", "else 128"))
        env["PATH"] = str(tmp_path)
    done = train(script, env)
    assert done.returncode == 0, done.stderr
    assert re.search(SUMMARY, done.stdout)
    progress = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert 2 <= len(progress) <= 10
    assert all(re.fullmatch(PROGRESS, line) for line in progress)
    assert "\r" not in done.stdout

    extract = json.loads((ROOT / "protocol.json").read_text())["measurement"]["primaryMetric"]["extract"]
    metric = re.search(extract["pattern"], done.stdout, re.MULTILINE)
    assert metric is not None
    assert done.stdout[metric.end()] == "\n"
    # An untrained model needs log2(1024) bits for a token of 2 to 3 bytes.
    assert 1.0 < float(metric[1]) < 3.8


@pytest.mark.parametrize("rate", ["MATRIX_LR", "UNEMBEDDING_LR"])
def test_a_hopeless_learning_rate_fails_fast(embedded: Path, tmp_path: Path, rate: str) -> None:
    begun = time.monotonic()
    done = train(variant(tmp_path, **{rate: 1e9}), environment(embedded, seconds=20))
    assert done.returncode == 1
    assert re.fullmatch(r"error: training (failed|diverged): .*\n", done.stderr)
    assert "val_bpb" not in done.stdout
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"DEVICE_BATCH_SIZE": 3}, "TOTAL_BATCH_SIZE must be a multiple of a micro-step"),
        ({"TOTAL_BATCH_SIZE": 0}, "TOTAL_BATCH_SIZE must be at least one micro-step"),
        ({"HEAD_DIM": 96}, "DEPTH * ASPECT_RATIO (the width) must be a multiple of HEAD_DIM"),
        ({"WARMUP_RATIO": 0.9}, "WARMUP_RATIO + WARMDOWN_RATIO must be at most 1"),
    ],
)
def test_asserts_refuse_what_cannot_work(
    embedded: Path, tmp_path: Path, constants: dict[str, object], sentence: str
) -> None:
    done = train(variant(tmp_path, **constants), environment(embedded))
    assert done.returncode == 1
    assert sentence in done.stderr


REACH = """
mx.random.seed(0)
model = train.GPT()
# An untrained model passes no information between positions, as its output matrices are zero.
for block in model.blocks:
    block.attention.out.weight = mx.random.normal(block.attention.out.weight.shape)
model.head.weight = mx.random.normal(model.head.weight.shape)
tokens = mx.random.randint(0, train.VOCAB_SIZE, (1, train.MAX_SEQ_LEN))
changed = mx.array(tokens)
changed[0, 100] = (tokens[0, 100] + 1) % train.VOCAB_SIZE
moved = mx.abs(model(tokens) - model(changed)).max(axis=-1)[0] > 1e-4
result = [position for position in range(train.MAX_SEQ_LEN) if moved[position].item()]
"""


def test_logits_do_not_see_later_tokens(embedded: Path, tmp_path: Path) -> None:
    assert min(probe(variant(tmp_path), embedded, REACH)) == 100


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_short_window_is_half_the_context(embedded: Path, tmp_path: Path, on_cpu: bool) -> None:
    short = f"train.ON_CPU = {on_cpu}\ntrain.window_kinds = lambda: 'S' * train.DEPTH\n" + REACH
    reached = probe(variant(tmp_path, DEPTH=1, HEAD_DIM=64), embedded, short)
    assert reached == list(range(100, 100 + 128))


def test_the_last_layer_sees_everything(embedded: Path, tmp_path: Path) -> None:
    code = "result = train.GPT().windows"
    assert probe(variant(tmp_path, WINDOW_PATTERN="SSSL", DEPTH=6), embedded, code) == [128, 128, 128, 256, 128, 256]


def test_the_cpu_formulas_equal_those_of_mlx(embedded: Path, tmp_path: Path) -> None:
    code = """
def loss_and_gradients(on_cpu):
    train.ON_CPU = on_cpu
    loss, gradients = nn.value_and_grad(model, train.loss_fn)(model, tokens, targets)
    return loss, list(train.tree_flatten(gradients))
mx.random.seed(0)
model = train.GPT()
model.update(train.tree_map(lambda p: p + 0.05 * mx.random.normal(p.shape), model.parameters()))
tokens, targets = mx.random.randint(0, train.VOCAB_SIZE, (2, 2, train.MAX_SEQ_LEN))
loss, gradients = loss_and_gradients(True)
reference_loss, reference = loss_and_gradients(False)
worst = max((mx.abs(g - r).max() / mx.abs(r).max()).item() for (_, g), (_, r) in zip(gradients, reference))
result = [abs(loss - reference_loss).item(), worst]
"""
    loss_error, gradient_error = probe(variant(tmp_path, WINDOW_PATTERN="SL"), embedded, code)
    assert loss_error < 1e-4
    assert gradient_error < 1e-2


def test_a_gpu_keeps_float32_weights_and_bfloat16_activations(embedded: Path, tmp_path: Path) -> None:
    code = """
train.ON_CPU, train.DTYPE = False, mx.bfloat16
streams = []
block_call = train.Block.__call__
train.Block.__call__ = lambda *arguments: streams.append(block_call(*arguments)) or streams[-1]
mx.random.seed(0)
model = train.GPT()
tokens = mx.random.randint(0, train.VOCAB_SIZE, (1, 64))
logits = model(tokens)
loss, gradients = nn.value_and_grad(model, train.loss_fn)(model, tokens, tokens)
optimizer = train.make_optimizer()
optimizer.update(model, gradients)
kinds = lambda arrays: sorted({str(array.dtype) for array in arrays})
result = [kinds(streams), kinds([logits, loss]), kinds(train.flat_parameters(model).values()),
          train.loss_fn(model, tokens, tokens).item() < loss.item()]
"""
    assert probe(variant(tmp_path), embedded, code) == [
        ["mlx.core.bfloat16"],
        ["mlx.core.float32"],
        ["mlx.core.float32"],
        True,
    ]


def test_the_block_for_a_gpu_builds(embedded: Path, tmp_path: Path) -> None:
    script = variant(tmp_path)
    script.write_text(script.read_text().replace('if PROFILE == "cpu":', "if False:"))
    code = """
model = train.GPT()
logits = model(mx.zeros((1, train.MAX_SEQ_LEN), dtype=mx.int32))
result = [list(logits.shape) == [1, train.MAX_SEQ_LEN, train.VOCAB_SIZE], train.WIDTH, len(model.blocks)]
"""
    assert probe(script, embedded, code) == [True, 256, 4]


def test_every_parameter_has_one_optimizer(embedded: Path, tmp_path: Path) -> None:
    code = """
model = train.GPT()
optimizer = train.make_optimizer()
optimizer.init(model.trainable_parameters())
owned = [name for group in optimizer.optimizers for name, _ in train.tree_flatten(group.state)]
result = {name: sum(other.startswith(name + ".") for other in owned) for name in train.flat_parameters(model)}
muon = [name for name, _ in train.tree_flatten(optimizer.optimizers[-1].state)]
result["muon"] = sorted(name for name in muon if "." in name)
"""
    owned = probe(variant(tmp_path, DEPTH=1, HEAD_DIM=64), embedded, code)
    matrices = ["attention.gate", "attention.k", "attention.out", "attention.q", "attention.v", "mlp.down", "mlp.up"]
    assert owned.pop("muon") == [f"blocks.0.{matrix}.weight.v" for matrix in matrices]
    # Muon has one moment, AdamW two.
    assert owned == {
        name: 1 if name.removeprefix("blocks.0.").removesuffix(".weight") in matrices else 2 for name in owned
    }


def test_the_schedule(embedded: Path, tmp_path: Path) -> None:
    script = variant(tmp_path, WARMUP_RATIO=0.2, WARMDOWN_RATIO=0.5, FINAL_LR_FRACTION=0.1)
    code = "result = [train.lr_multiplier(progress) for progress in (0, 0.1, 0.2, 0.5, 0.75, 1)]"
    expected = [0, 0.5, 1, 1, 0.55, 0.1]
    assert all(map(math.isclose, probe(script, embedded, code), expected))
