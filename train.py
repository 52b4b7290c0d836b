"""Train a small GPT for a fixed time on one device and report its bits per byte. Usage: uv run train.py

This is the file that gets researched: everything in it may change, prepare.py may not. Read it top to bottom: model,
optimizers, hyperparameters, training. Every hyperparameter is an ALL_CAPS literal in one block; the comment behind it
is the range in which the built-in search looks (docs/recipe.md says what each one does).
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

if __name__ == "__main__":  # before the data is looked for, which --help does without
    argparse.ArgumentParser(
        description=__doc__,
        epilog="AUTORESEARCH_TRAINING_SECONDS is the time it trains, 300 without it. `uv run prepare.py` comes first.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()

# prepare goes before MLX: it puts the fast BLAS in front, which is too late once mlx.core is imported.
from harness import blas
from prepare import MAX_SEQ_LEN, PROFILE, TIME_BUDGET, VOCAB_SIZE, Tokenizer, evaluate_bpb, make_dataloader

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map

Batches = Iterator[tuple[np.ndarray, np.ndarray, int]]

# ----------------------------------------------------------------------------------------------------------------------
# Hyperparameters

# Those that depend on the size of the machine.
if PROFILE == "cpu":
    DEPTH = 2  # search: 1..8
    HEAD_DIM = 128  # search: 32 | 64 | 128
    WINDOW_PATTERN = "L"  # search: "L" | "SL"
    TOTAL_BATCH_SIZE = 2**13  # search: 1024..32768 log; tokens in an optimizer step
    DEVICE_BATCH_SIZE = 16  # search: 4..64 log; rows in a micro-step
    EVAL_BATCH_SIZE = 16  # search: off
    MATRIX_LR = 0.05  # search: 0.01..0.3 log
    EMBEDDING_LR = 0.3  # search: 0.03..3.0 log
    UNEMBEDDING_LR = 0.012  # search: 0.001..0.1 log
    SCALAR_LR = 0.1  # search: 0.01..1.0 log
else:
    DEPTH = 4  # search: 2..12
    HEAD_DIM = 128  # search: 64 | 128
    WINDOW_PATTERN = "SSSL"  # search: "L" | "SL" | "SSSL"
    TOTAL_BATCH_SIZE = 2**16  # search: 16384..262144 log; tokens in an optimizer step
    DEVICE_BATCH_SIZE = 4  # search: 2..32 log; rows in a micro-step
    EVAL_BATCH_SIZE = 8  # search: off
    MATRIX_LR = 0.04  # search: 0.004..0.2 log
    EMBEDDING_LR = 0.6  # search: 0.06..3.0 log
    UNEMBEDDING_LR = 0.004  # search: 0.0004..0.04 log
    SCALAR_LR = 0.5  # search: 0.05..1.0 log

# Those that do not.
ASPECT_RATIO = 64  # search: 32..128 log; width = DEPTH * ASPECT_RATIO
MLP_RATIO = 4  # search: 1..8
GATE_CHANNELS = 32  # search: 8..64 log; what the gates of the value embeddings read
ROPE_BASE = 10000  # search: 500..100000 log
WEIGHT_DECAY = 0.2  # search: 0.0..0.5
ADAM_BETA1 = 0.8  # search: 0.5..0.95
ADAM_BETA2 = 0.95  # search: 0.9..0.999
MUON_MOMENTUM = 0.95  # search: 0.8..0.98
MUON_STEPS = 5  # search: 2..6
WARMUP_RATIO = 0.0  # search: 0.0..0.2
WARMDOWN_RATIO = 0.5  # search: 0.0..1.0
FINAL_LR_FRACTION = 0.0  # search: 0.0..0.2
STARTUP_STEPS = 1  # search: off; not counted: they contain compilation as training time
SEED = 42  # search: off

WIDTH = DEPTH * ASPECT_RATIO
MICRO_STEPS = TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * MAX_SEQ_LEN)
assert WIDTH % HEAD_DIM == 0, "DEPTH * ASPECT_RATIO is the width: it must be a multiple of HEAD_DIM."
assert HEAD_DIM % 2 == 0, "HEAD_DIM must be even: rotary embeddings turn pairs."
assert WIDTH >= GATE_CHANNELS, "GATE_CHANNELS must be at most the width."
assert TOTAL_BATCH_SIZE % (DEVICE_BATCH_SIZE * MAX_SEQ_LEN) == 0, "TOTAL_BATCH_SIZE must be whole micro-steps."
assert MICRO_STEPS >= 1, "TOTAL_BATCH_SIZE must hold at least one micro-step."
assert WARMUP_RATIO + WARMDOWN_RATIO <= 1, "Warmup and warmdown together must fit into the budget."

# ----------------------------------------------------------------------------------------------------------------------
# Model

ON_CPU = mx.default_device() == mx.cpu
# Weights are kept in float32; products run in this type. A CPU's BLAS has no bfloat16.
DTYPE = mx.float32 if ON_CPU else mx.bfloat16
# On a CPU a thread of MLX runs one operation at a time, most of them on one core: each core takes a part of the rows.
WORKERS = max(n for n in range(1, blas.cores() + 1) if DEVICE_BATCH_SIZE % n == 0) if ON_CPU else 1
on_workers = ThreadPoolExecutor(WORKERS).map if WORKERS > 1 else map


def norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, 1e-5)


def uniform(shape: tuple[int, ...], std: float) -> mx.array:
    bound = math.sqrt(3) * std
    return mx.random.uniform(-bound, bound, shape)


class Linear(nn.Module):
    """A float32 matrix without bias, used in the type of its input: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.weight = uniform((outputs, inputs), std)

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.astype(x.dtype).T


class Embedding(nn.Module):
    """A float32 table: tokens (B, T) -> (B, T, dims) in DTYPE."""

    def __init__(self, count: int, dims: int, std: float) -> None:
        super().__init__()
        self.weight = uniform((count, dims), std)

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.weight[tokens].astype(DTYPE)


@mx.custom_function
def exp(x: mx.array) -> mx.array:
    """e**x for x below 88, infinity above, on a CPU: numpy takes a fifth of MLX's time there."""
    with np.errstate(over="ignore"):
        return mx.array(np.exp(np.asarray(x)))


@exp.vjp
def exp_vjp(_: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def attention_mask(length: int, window: int) -> mx.array | str:
    """What a position may look at: itself and the `window` - 1 positions before it. A (T, T) array, or "causal"."""
    if window >= length and not ON_CPU:
        return "causal"
    distance = mx.arange(length)[:, None] - mx.arange(length)
    return (distance >= 0) & (distance < window)


def attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str, training: bool) -> mx.array:
    """Softmax attention of normalised queries and keys; all (B, heads, T, HEAD_DIM).

    Outside training it is MLX alone, which the evaluation can trace.
    """
    if isinstance(mask, str) or not ON_CPU or not training:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=HEAD_DIM**-0.5, mask=mask)
    # Normalised, a score is at most HEAD_DIM**0.5, so the softmax needs no shift.
    shares: Any = exp((q * HEAD_DIM**-0.5) @ k.swapaxes(-1, -2))
    weights = mx.where(mask, shares, 0.0)
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)


class Attention(nn.Module):
    """Causal attention with rotary positions and normalised queries and keys.

    With `value_embedding`, every token adds a vector of its own to its values, through a gate for each head that reads
    the first channels of the stream and starts at 1.
    """

    def __init__(self, value_embedding: bool) -> None:
        super().__init__()
        self.heads = WIDTH // HEAD_DIM
        std = WIDTH**-0.5
        self.q = Linear(WIDTH, WIDTH, std)
        self.k = Linear(WIDTH, WIDTH, std)
        self.v = Linear(WIDTH, WIDTH, std)
        self.out = Linear(WIDTH, WIDTH, 0.0)
        self.rope = nn.RoPE(HEAD_DIM, base=ROPE_BASE)
        if value_embedding:
            self.value_embedding = Embedding(VOCAB_SIZE, WIDTH, std)
            self.gate = Linear(GATE_CHANNELS, self.heads, 0.0)

    def __call__(self, x: mx.array, tokens: mx.array, mask: mx.array | str) -> mx.array:
        batch, length, _ = x.shape
        q, k, v = (f(x).reshape(batch, length, self.heads, HEAD_DIM) for f in (self.q, self.k, self.v))
        if "value_embedding" in self:
            gate = 2 * mx.sigmoid(self.gate(x[..., :GATE_CHANNELS]))
            v = v + gate[..., None] * self.value_embedding(tokens).reshape(v.shape)
        q, k, v = (y.transpose(0, 2, 1, 3) for y in (q, k, v))
        q, k = norm(self.rope(q)), norm(self.rope(k))
        y = attend(q, k, v, mask, self.training)
        return self.out(y.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, MLP_RATIO * WIDTH, WIDTH**-0.5)
        self.down = Linear(MLP_RATIO * WIDTH, WIDTH, 0.0)

    def __call__(self, x: mx.array) -> mx.array:
        # nn.relu is compiled: on a CPU that would call g++ for two seconds.
        return self.down(mx.square(mx.maximum(self.up(x), 0)))


class Block(nn.Module):
    """Attention and MLP on a stream that is first mixed with the token embeddings `x0`; all (B, T, WIDTH)."""

    def __init__(self, value_embedding: bool) -> None:
        super().__init__()
        self.attention = Attention(value_embedding)
        self.mlp = MLP()
        self.residual_scale = mx.array(1.0)
        self.x0_scale = mx.array(0.1)

    def __call__(self, x: mx.array, x0: mx.array, tokens: mx.array, mask: mx.array | str) -> mx.array:
        # Without the casts the float32 scalars would make the whole stream float32.
        x = self.residual_scale.astype(x.dtype) * x + self.x0_scale.astype(x.dtype) * x0
        x = x + self.attention(norm(x), tokens, mask)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """tokens (B, T) -> logits (B, T, VOCAB_SIZE) in float32."""

    def __init__(self) -> None:
        super().__init__()
        # A short window is half the context. The last layer always sees all of it.
        self.windows = [MAX_SEQ_LEN // (2 if kind == "S" else 1) for kind in window_kinds()]
        self.embedding = Embedding(VOCAB_SIZE, WIDTH, 1.0)
        # Every other layer has value embeddings, counted so that the last one does.
        self.blocks = [Block(value_embedding=(DEPTH - layer) % 2 == 1) for layer in range(DEPTH)]
        self.head = Linear(WIDTH, VOCAB_SIZE, 0.001)

    def __call__(self, tokens: mx.array) -> mx.array:
        masks = {window: attention_mask(tokens.shape[1], window) for window in set(self.windows)}
        x0 = x = norm(self.embedding(tokens))
        for block, window in zip(self.blocks, self.windows, strict=True):
            x = block(x, x0, tokens, masks[window])
        return self.head(norm(x)).astype(mx.float32)


def window_kinds() -> str:
    return "".join(WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] for layer in range(DEPTH - 1)) + "L"


def flat_parameters(model: nn.Module) -> dict[str, mx.array]:
    """Name, such as `blocks.0.mlp.up.weight`, to parameter."""
    return dict(tree_flatten(model.parameters()))


def loss_fn(model: GPT, inputs: mx.array, targets: mx.array) -> mx.array:
    """Mean cross-entropy in nats; `inputs` and `targets` are (B, T)."""
    logits = model(inputs)
    if not ON_CPU:
        return mx.fast.cross_entropy(logits, targets).mean()
    # Without a shift: a logit above 88, where this overflows, is a training that has diverged, and check_loss says so.
    shares: Any = exp(logits)
    log_sum = mx.log(shares.sum(axis=-1))
    return (log_sum - mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)).mean()


def flops_per_token(model: GPT) -> int:
    """Forward and backward: 6 for each weight that multiplies, 12 * WIDTH * window for each layer's attention.

    The estimate of the PaLM paper (arXiv 2204.02311, appendix B), with the window in place of the sequence.
    """
    matrices = [
        p.size for name, p in flat_parameters(model).items() if p.ndim == 2 and not name.endswith("embedding.weight")
    ]
    return 6 * sum(matrices) + sum(12 * WIDTH * window for window in model.windows)


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers


class Muon(optim.Muon):
    """Muon with decoupled weight decay. MLX adds it to the gradient, where orthogonalising all but removes it."""

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        super().__init__(learning_rate, momentum=MUON_MOMENTUM, weight_decay=0.0, ns_steps=MUON_STEPS)
        self.decay = weight_decay

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        decayed = parameter * (1 - self.learning_rate * self.decay)
        updated: mx.array = super().apply_single(gradient, decayed, state)
        return updated


def make_optimizer() -> optim.MultiOptimizer:
    """Muon for the matrices of the blocks, AdamW for all else, each group with its own learning rate."""
    adamw = partial(optim.AdamW, eps=1e-10, weight_decay=0.0, bias_correction=True)
    betas = [ADAM_BETA1, ADAM_BETA2]
    # The rates of both embeddings are those for a width of 768; they go with the inverse root of the width.
    scale = (WIDTH / 768) ** -0.5
    groups = [
        (lambda name, _: name.endswith("embedding.weight"), adamw(EMBEDDING_LR * scale, betas=betas)),
        (lambda name, _: name.startswith("head."), adamw(UNEMBEDDING_LR * scale, betas=betas)),
        (lambda name, _: name.endswith("x0_scale"), adamw(SCALAR_LR, betas=[0.96, 0.95])),
        (lambda name, _: name.endswith("residual_scale"), adamw(SCALAR_LR * 0.01, betas=betas)),
    ]
    filters, optimizers = zip(*groups, strict=True)
    return optim.MultiOptimizer([*optimizers, Muon(MATRIX_LR, WEIGHT_DECAY)], list(filters))


def lr_multiplier(progress: float) -> float:
    """Linear warmup, then 1, then linear warmdown to FINAL_LR_FRACTION; `progress` is the spent part of the budget."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRACTION


# ----------------------------------------------------------------------------------------------------------------------
# Training


def train(model: GPT, batches: Batches) -> tuple[int, float]:
    """Train for TIME_BUDGET seconds. Returns the steps taken and the seconds they took, without the startup steps'."""
    optimizer = make_optimizer()
    optimizer.init(model.trainable_parameters())
    base_rates = [group.learning_rate.item() for group in optimizer.optimizers]
    zeros = tree_map(mx.zeros_like, model.trainable_parameters())

    micro_step = make_micro_step(model)

    step, seconds, smooth_loss, reported = 0, 0.0, 0.0, 0.0
    while seconds < TIME_BUDGET:
        begun = time.perf_counter()
        multiplier = lr_multiplier(seconds / TIME_BUDGET)
        for group, rate in zip(optimizer.optimizers, base_rates, strict=True):
            group.learning_rate = rate * multiplier
        gradients, loss = zeros, 0.0
        for _ in range(MICRO_STEPS):
            inputs, targets, epoch = next(batches)
            micro_loss, gradients = micro_step(inputs, targets, gradients)
            loss += micro_loss / MICRO_STEPS
        check_loss(loss, step)
        optimizer.update(model, gradients)
        mx.eval(model.state, optimizer.state)
        taken = time.perf_counter() - begun

        smooth_loss = 0.9 * smooth_loss + 0.1 * loss
        step += 1
        if step > STARTUP_STEPS:
            seconds += taken
        elif step == 1:
            print(f"first step, with any compilation: {taken:.1f}s", flush=True)
            # A collection costs up to half a second on a big heap, and a step makes no cycles.
            gc.collect()
            gc.freeze()
            gc.disable()
        if time.perf_counter() - reported >= 1 or seconds >= TIME_BUDGET:
            reported = time.perf_counter()
            print(
                f"step {step:05d} ({min(1, seconds / TIME_BUDGET):.1%}) | loss: {smooth_loss / (1 - 0.9**step):.6f} | "
                f"lrm: {multiplier:.2f} | dt: {taken * 1000:.0f}ms | tok/sec: {TOTAL_BATCH_SIZE / taken:,.0f} | "
                f"epoch: {epoch} | remaining: {max(0, TIME_BUDGET - seconds):.0f}s",
                flush=True,
            )
    return step, seconds


def make_micro_step(model: GPT) -> Callable[[np.ndarray, np.ndarray, Any], tuple[float, Any]]:
    """(inputs, targets, gradients so far) -> (mean loss, gradients with the share of this batch added).

    Each worker has its own replica of the model and takes an equal part of the rows.
    """
    replicas = [model, *(GPT() for _ in range(WORKERS - 1))]
    steps: list[Any] = [partial(nn.value_and_grad(replica, loss_fn), replica) for replica in replicas]
    if not ON_CPU:
        # On a CPU it would call g++ for 20 s to gain 6 to 9 %, and again after every change of the model.
        steps = [mx.compile(steps[0], inputs=model.state, outputs=model.state)]

    def run(step: Any, inputs: np.ndarray, targets: np.ndarray) -> Any:
        result = step(mx.array(inputs), mx.array(targets))
        mx.eval(result)
        return result

    def micro_step(inputs: np.ndarray, targets: np.ndarray, gradients: Any) -> tuple[float, Any]:
        # A worker cannot compute what another thread has left lazy, such as an average of weights.
        mx.eval(model.parameters())
        for replica in replicas[1:]:
            replica.update(model.parameters())
        parts = on_workers(run, steps, np.split(inputs, WORKERS), np.split(targets, WORKERS))
        losses, new = zip(*parts, strict=True)
        share = 1 / (WORKERS * MICRO_STEPS)
        gradients = tree_map(lambda total, *parts: total + share * sum(parts), gradients, *new)
        # Evaluated one by one: left lazy, the activations of all micro-steps would be alive together.
        mx.eval(gradients)
        return float(sum(losses)) / WORKERS, gradients

    return micro_step


def check_loss(loss: float, step: int) -> None:
    """End the run with a sentence and exit code 1 where the loss is not a number or twice that of a uniform guess."""
    if not math.isfinite(loss):
        sys.exit(f"Training failed: the loss became {loss} at step {step}. A learning rate may be too high.")
    if loss > 2 * math.log(VOCAB_SIZE):
        sys.exit(f"Training diverged: the loss is {loss:.1f} at step {step}. A learning rate may be too high.")


def peak_flops() -> float:
    """Floating-point operations per second of bare products in DTYPE, one for each worker, the best of about 0.2 s."""
    size = 1024 if ON_CPU else 4096

    def product(_: int) -> None:
        mx.eval(a @ a)

    a = mx.random.normal((size, size)).astype(DTYPE)
    product(0)
    best, deadline = math.inf, time.perf_counter() + 0.2
    while (begun := time.perf_counter()) < deadline:
        list(on_workers(product, range(WORKERS)))
        best = min(best, time.perf_counter() - begun)
    return WORKERS * 2 * size**3 / best


def main() -> None:
    started = time.perf_counter()
    mx.random.seed(SEED)
    tokenizer = Tokenizer.from_directory()
    batches = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train", seed=SEED)
    print(f"data: {time.perf_counter() - started:.1f}s | profile {PROFILE} | vocabulary {VOCAB_SIZE:,}", flush=True)

    model = GPT()
    mx.eval(model.parameters())
    parameters = sum(p.size for p in flat_parameters(model).values())
    peak = peak_flops()
    print(
        f"backend: {mx.default_device()} | blas: {blas.load() or 'as built into MLX'} | {peak / 1e9:,.0f} GFLOP/s | "
        f"{parameters:,} parameters",
        flush=True,
    )

    steps, seconds = train(model, batches)
    evaluation = time.perf_counter()
    val_bpb = evaluate_bpb(model, tokenizer, EVAL_BATCH_SIZE)
    print(f"evaluation: {time.perf_counter() - evaluation:.1f}s", flush=True)
    if not math.isfinite(val_bpb):
        sys.exit(f"Training failed: the evaluation gave {val_bpb}. A learning rate may be too high.")

    flops = flops_per_token(model) * TOTAL_BATCH_SIZE * (steps - STARTUP_STEPS)
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {seconds:.1f}")
    print(f"total_seconds:    {time.perf_counter() - started:.1f}")
    print(f"peak_vram_mb:     {mx.get_peak_memory() / 1024 / 1024:.1f}")
    print(f"mfu_percent:      {100 * flops / seconds / peak:.2f}")
    print(f"total_tokens_M:   {steps * TOTAL_BATCH_SIZE / 1e6:.1f}")
    print(f"num_steps:        {steps}")
    print(f"num_params_M:     {parameters / 1e6:.1f}")
    print(f"depth:            {DEPTH}")


if __name__ == "__main__":
    main()
