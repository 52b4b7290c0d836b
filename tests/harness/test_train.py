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

from tests.common.recipe import recipe

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
    """Write a copy of train.py with constants of the CPU block replaced."""
    copy = folder / "train.py"
    copy.write_text(recipe(**constants))
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
    return json.loads(done.stdout.splitlines()[-1])


SCRIPTS = ("train.py", "prepare.py", "examples/sieve/bench.py")
MODULES = ("blas", "evaluation", "kernels", "peeking", "products", "search", "torch_step", "verdict")


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


# Small, as a CPU is slow with bfloat16; two micro-steps per step.
SMALL = {"WINDOW_PATTERN": "SL", "TOTAL_BATCH_SIZE": 1024, "DEVICE_BATCH_SIZE": 2, "ASPECT_RATIO": 32, "HEAD_DIM": 32}


def as_on_a_gpu(folder: Path, env: dict[str, str], **constants: object) -> Path:
    """Write a copy that takes the GPU's path on a CPU, without a C++ compiler, which would run for 20 s."""
    script = variant(folder, **SMALL, **constants)
    source = script.read_text().replace("ON_CPU = mx.default_device() == mx.cpu", "ON_CPU = False")
    script.write_text(source.replace("else 4096", "else 128"))
    env["PATH"] = str(folder)
    return script


@pytest.mark.parametrize("kind", ["cpu", "as-on-a-gpu", "as-on-a-gpu-with-checkpoints"])
def test_a_run_learns_and_reports(embedded: Path, tmp_path: Path, kind: str) -> None:
    seconds = 14  # a step takes three of them on a busy machine
    env = environment(embedded, seconds=seconds)
    script = variant(tmp_path)
    if kind != "cpu":
        script = as_on_a_gpu(tmp_path, env, CHECKPOINT="checkpoints" in kind)
    done = train(script, env)
    assert done.returncode == 0, done.stderr
    assert re.search(SUMMARY, done.stdout)
    progress = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert 2 <= len(progress) <= seconds + 2
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
    begun, budget = time.monotonic(), 200
    done = train(variant(tmp_path, **{rate: 1e9}), environment(embedded, seconds=budget))
    assert done.returncode == 1
    assert re.fullmatch(r"error: training (failed|diverged): .*\n", done.stderr)
    assert "val_bpb" not in done.stdout
    assert time.monotonic() - begun < budget / 2


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"DEVICE_BATCH_SIZE": 3}, "TOTAL_BATCH_SIZE must be a multiple of a micro-step"),
        ({"TOTAL_BATCH_SIZE": 0}, "TOTAL_BATCH_SIZE must be at least one micro-step"),
        ({"HEAD_DIM": 96}, "DEPTH * ASPECT_RATIO (the width) must be a multiple of HEAD_DIM"),
        ({"WARMUP_RATIO": 0.9}, "WARMUP_RATIO + WARMDOWN_RATIO must be at most 1"),
        # Each of these would mean another value, or fail late and for another reason.
        ({"VALUE_EMBEDDINGS": "none"}, 'VALUE_EMBEDDINGS must be "all" or "alternate"'),
        ({"WINDOW_PATTERN": "X"}, "WINDOW_PATTERN must be one or more letters S and L"),
        ({"WINDOW_PATTERN": ""}, "WINDOW_PATTERN must be one or more letters S and L"),
        ({"MUON_STEPS": 6}, "MUON_STEPS must be between 0 and 5"),
        ({"MUON_STEPS": -1}, "MUON_STEPS must be between 0 and 5"),
        ({"WARMUP_RATIO": -0.1}, "WARMUP_RATIO and WARMDOWN_RATIO must be at least 0"),
        ({"HEAD_DIM": 0}, "DEPTH, ASPECT_RATIO and HEAD_DIM must be at least 1"),
        ({"DEPTH": 1.5}, "must be whole numbers"),
        ({"MLP_RATIO": 2.5}, "must be whole numbers"),
        ({"GATE_CHANNELS": 0}, "MLP_RATIO and GATE_CHANNELS must be at least 1"),
        ({"DEVICE_BATCH_SIZE": 0}, "DEVICE_BATCH_SIZE and EVAL_BATCH_SIZE must be at least 1"),
        ({"EVAL_BATCH_SIZE": 0}, "DEVICE_BATCH_SIZE and EVAL_BATCH_SIZE must be at least 1"),
        ({"ATTENTION_BLOCKS": 0}, "ATTENTION_BLOCKS must be between 1 and MAX_SEQ_LEN"),
        ({"BIGRAM_ROWS": -5}, "BIGRAM_ROWS must be 0, or at least 2"),
        ({"SHARPNESS": 30.0}, "SHARPNESS * HEAD_DIM**0.5 must be at most 80 on a CPU"),
        ({"ROPE_BASE": 0}, "ROPE_BASE must be above 0"),
        ({"NEGATIVE_SLOPE": 2.0}, "NEGATIVE_SLOPE must be between 0 and 1"),
        ({"ADAM_BETA2": 1.0}, "ADAM_BETA1 and ADAM_BETA2 must be at least 0 and below 1"),
        ({"MATRIX_LR": -0.1}, "MATRIX_LR and EMBEDDING_LR must be at least 0"),
        ({"SEED": -1}, "SEED must be between 0 and 2**63 - 1"),
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
    # The embedding of a token contains a part of the one before it.
    assert reached == list(range(100, 100 + 128 + 1))


def test_the_last_layer_sees_everything(embedded: Path, tmp_path: Path) -> None:
    code = "result = train.GPT().windows"
    assert probe(variant(tmp_path, WINDOW_PATTERN="SSSL", DEPTH=6), embedded, code) == [128, 128, 128, 256, 128, 256]


AGREE = """
def loss_and_gradients(on_cpu, dtype=mx.float32, checkpoint=False):
    train.ON_CPU, train.DTYPE, train.CHECKPOINT = on_cpu, dtype, checkpoint
    loss, gradients = nn.value_and_grad(model, train.loss_fn)(model, tokens, targets)
    return loss, dict(train.tree_flatten(gradients))

def worst(gradients, reference):
    norm = lambda x: mx.sqrt(mx.square(x.astype(mx.float32)).sum()).item()
    matrices = [name for name in reference if reference[name].ndim == 2]
    return max(norm(gradients[name] - reference[name]) / norm(reference[name]) for name in matrices)

mx.random.seed(0)
model = train.GPT()
noise = lambda p: p + 0.05 * mx.random.normal(p.shape)
train.load_parameters(model, {name: noise(p) for name, p in train.flat_parameters(model).items()})
tokens, targets = mx.random.randint(0, train.VOCAB_SIZE, (2, 2, train.MAX_SEQ_LEN))
reference_loss, reference = loss_and_gradients(False)
"""


def test_the_cpu_formulas_equal_those_of_mlx(embedded: Path, tmp_path: Path) -> None:
    code = AGREE + "loss, gradients = loss_and_gradients(True)\n"
    code += "result = [abs(loss - reference_loss).item(), worst(gradients, reference)]"
    loss_error, gradient_error = probe(variant(tmp_path, WINDOW_PATTERN="SL"), embedded, code)
    assert loss_error < 1e-4
    assert gradient_error < 1e-4


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_of_the_gpu_path_agree_to_the_precision_of_bfloat16(
    embedded: Path, tmp_path: Path, checkpoint: bool
) -> None:
    code = AGREE + f"loss, gradients = loss_and_gradients(False, mx.bfloat16, {checkpoint})\n"
    code += "result = [abs(loss - reference_loss).item(), worst(gradients, reference)]"
    loss_error, gradient_error = probe(variant(tmp_path, WINDOW_PATTERN="SL"), embedded, code)
    # bfloat16 has 8 bits: a relative error of 0.004 for each of the 30 or so operations behind a gradient.
    assert loss_error < 0.01
    assert gradient_error < 0.1


def test_checkpoints_change_nothing(embedded: Path, tmp_path: Path) -> None:
    code = AGREE + "result = worst(loss_and_gradients(False, checkpoint=True)[1], reference)"
    assert probe(variant(tmp_path), embedded, code) < 1e-6


STEP = """
mx.random.seed(0)
model = train.GPT()
parameters = train.flat_parameters(model)
state = train.optimizer_state(parameters)
tokens = mx.random.randint(0, train.VOCAB_SIZE, (4, 8, train.MAX_SEQ_LEN + 1))
inputs, targets = train.np.array(tokens[..., :-1]), train.np.array(tokens[..., 1:])

# How far two ends are apart, as a fraction of the way from the start.
def difference(new, other):
    distance = lambda a, b: sum(mx.abs(a[name] - b[name]).sum().item() for name in a)
    return distance(new, other) / distance(new, parameters)

def three_steps(step):
    found, moments = parameters, state
    for _ in range(3):
        found, moments, loss = step(found, moments, mx.array(1.0), inputs, targets)
    mx.eval(found)
    return found, loss.item()
"""


def test_micro_steps_and_workers_compute_the_same_step(embedded: Path, tmp_path: Path) -> None:
    # Before MLX computes anything in this process.
    code = "workers = train.Workers(train.WORKERS, train.gradients_of)\n" + STEP
    code += """
on_cpu, loss = three_steps(train.step_on_a_cpu(workers))
train.WORKERS = 1
one, loss_of_one = three_steps(train.step_on_a_cpu(train.Workers(1, train.gradients_of)))
train.ON_CPU = False
on_gpu, loss_on_gpu = three_steps(train.step_on_a_gpu(model))
result = [difference(on_cpu, one), difference(on_cpu, on_gpu), abs(loss - loss_of_one), abs(loss - loss_on_gpu)]
"""
    assert max(probe(variant(tmp_path, DEVICE_BATCH_SIZE=8, BIGRAM_ROWS=64), embedded, code)) < 0.01


def test_settings_are_inputs_of_the_compiled_update(embedded: Path, tmp_path: Path) -> None:
    # MLX compiles numbers into kernels, and on CUDA an edit of a rate compiled up to six of them again.
    code = (
        STEP
        + """
train.ON_CPU = False
gradients = {name: mx.random.normal(p.shape) for name, p in parameters.items()}
compiled = mx.compile(train.update)
first, _ = compiled(parameters, gradients, state, mx.array(1.0))
names = "MATRIX_LR EMBEDDING_LR UNEMBEDDING_LR SCALAR_LR WEIGHT_DECAY ADAM_BETA1 MUON_MOMENTUM MUON_BETA2".split()
for name in names:
    setattr(train, name, 0.5 * getattr(train, name))
other = train.optimizer_state(parameters)
again, _ = compiled(parameters, gradients, other, mx.array(1.0))
wanted, _ = train.update(parameters, gradients, other, mx.array(1.0))
result = [difference(again, wanted), min(mx.abs(first[name] - again[name]).max().item() for name in parameters)]
"""
    )
    error, least_change = probe(variant(tmp_path, BIGRAM_ROWS=64), embedded, code)
    assert error < 1e-5
    assert least_change > 1e-5


def test_a_warm_up_leaves_no_trace(embedded: Path, tmp_path: Path) -> None:
    code = "workers = train.Workers(train.WORKERS, train.gradients_of)\n" + STEP
    code += """
step = train.step_on_a_cpu(workers)
cold, _ = three_steps(step)
train.warm_up(step, parameters, state)
warm, _ = three_steps(step)
result = [difference(cold, warm), state["steps"].item()]
"""
    assert probe(variant(tmp_path, DEVICE_BATCH_SIZE=8), embedded, code) == [0, 0]


def test_an_update_of_large_bfloat16_matrices_is_finite_and_orthogonal(embedded: Path, tmp_path: Path) -> None:
    # On an H200, a sum of so many bfloat16 squares was too small, and the steps after it became infinite.
    code = """
train.ON_CPU, train.DTYPE = False, mx.bfloat16
x = mx.random.normal((2, 256, 2048)) * 1e-6
direction, variance = train.muon_direction(x, mx.zeros((2, 256, 1)), mx.array(0.9))
square = direction[0] @ direction[0].T
result = [mx.diag(square).mean().item(), mx.abs(square - mx.diag(mx.diag(square))).max().item()]
"""
    diagonal, other = probe(variant(tmp_path), embedded, code)
    assert 0.7 < diagonal < 1.3
    assert other < 0.2


def test_a_killed_worker_ends_the_run_by_its_signal(embedded: Path, tmp_path: Path) -> None:
    script = variant(tmp_path)
    killing = "def gradients_of(values, sums, inputs, targets):\n"
    killing += (
        "    if multiprocessing.parent_process():\n        os.kill(os.getpid(), 9)\n    return 0.0\n\n\ndef main("
    )
    source = script.read_text().replace("def main(", "import multiprocessing\nimport os\n\n" + killing)
    script.write_text(source)
    if (os.cpu_count() or 1) > 1:
        assert train(script, environment(embedded)).returncode == -9


def test_a_failing_worker_is_reported(embedded: Path, tmp_path: Path) -> None:
    script = variant(tmp_path)
    failing = "def gradients_of(values, sums, inputs, targets):\n"
    failing += (
        "    if multiprocessing.parent_process():\n        raise ValueError('no rows')\n    return 0.0\n\n\ndef main("
    )
    script.write_text(script.read_text().replace("def main(", "import multiprocessing\n\n" + failing))
    if (os.cpu_count() or 1) > 1:
        done = train(script, environment(embedded))
        assert done.returncode == 1
        assert "ValueError: no rows" in done.stderr


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
parameters = train.flat_parameters(model)
new, state = train.update(
    parameters, dict(train.tree_flatten(gradients)), train.optimizer_state(parameters), mx.array(1.0)
)
train.load_parameters(model, new)
kinds = lambda arrays: sorted({str(array.dtype) for array in arrays})
result = [kinds(streams), kinds([logits]), kinds([loss, *new.values(), *state.values()]),
          train.loss_fn(model, tokens, tokens).item() < loss.item()]
"""
    assert probe(variant(tmp_path), embedded, code) == [
        ["mlx.core.bfloat16"],
        ["mlx.core.bfloat16"],
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


@pytest.mark.parametrize(("gigabytes", "rows"), [(8, 4), (16, 8), (24, 16), (64, 32), (0, 32)])
def test_small_gpus_get_fewer_rows(embedded: Path, tmp_path: Path, gigabytes: int, rows: int) -> None:
    script = variant(tmp_path)
    script.write_text(script.read_text().replace('if PROFILE == "cpu":', "if False:"))
    code = "train.ROW_BYTES = 260 * 2048 * train.DEPTH * train.WIDTH\n"
    code += f"result = train.rows_of_a_micro_step({gigabytes} * 2**30)"
    assert probe(script, embedded, code) == rows
    # Halving the batch after an error halves it on every GPU.
    assert probe(script, embedded, f"train.DEVICE_BATCH_SIZE = 16\n{code}") == rows // 2


def test_muon_updates_the_matrices_of_the_blocks(embedded: Path, tmp_path: Path) -> None:
    code = """
parameters = train.flat_parameters(train.GPT())
result = sorted(name for names in train.muon_stacks(parameters).values() for name in names)
"""
    matrices = ["attention.gate", "attention.k", "attention.out", "attention.q", "attention.v", "mlp.down", "mlp.up"]
    expected = [f"blocks.0.{matrix}.weight" for matrix in matrices]
    assert probe(variant(tmp_path, DEPTH=1, HEAD_DIM=64), embedded, code) == expected


def test_one_stack_of_matrices_is_updated_like_each_alone(embedded: Path, tmp_path: Path) -> None:
    code = """
x = mx.random.normal((3, 32, 64))
beta2 = mx.array(0.9)
together, _ = train.muon_direction(x, mx.zeros((3, 32, 1)), beta2)
alone = mx.concatenate([train.muon_direction(x[i : i + 1], mx.zeros((1, 32, 1)), beta2)[0] for i in range(3)])
result = mx.abs(together - alone).max().item()
"""
    assert probe(variant(tmp_path), embedded, code) < 1e-5


def test_the_schedule(embedded: Path, tmp_path: Path) -> None:
    shape = {"WARMUP_RATIO": 0.2, "WARMDOWN_RATIO": 0.5, "WARMDOWN_POWER": 1.0, "FINAL_LR_FRACTION": 0.1}
    script = variant(tmp_path, **shape)
    code = "result = [train.lr_multiplier(progress) for progress in (0, 0.1, 0.2, 0.5, 0.75, 1)]"
    expected = [0, 0.5, 1, 1, 0.55, 0.1]
    assert all(map(math.isclose, probe(script, embedded, code), expected))
