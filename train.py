"""Train a small GPT for a fixed time on one device and report its bits per byte. Usage: uv run train.py

This is the file that experiments change: everything here may change, prepare.py may not. Read it from top to bottom:
hyperparameters, model, optimizers, training. Every hyperparameter is an ALL_CAPS literal in one block; its comment is
the range that the built-in search explores (docs/recipe.md describes each one).
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

if __name__ == "__main__":  # before the data is loaded, so that --help works without it
    argparse.ArgumentParser(
        description=__doc__,
        epilog="AUTORESEARCH_TRAINING_SECONDS sets the training time (default: 300). Run `uv run prepare.py` first.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()

# Import prepare before MLX: it loads the fast BLAS, which must precede the import of mlx.core.
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

# These depend on the machine.
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

# These do not.
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
assert WIDTH % HEAD_DIM == 0, "DEPTH * ASPECT_RATIO (the width) must be a multiple of HEAD_DIM"
assert HEAD_DIM % 2 == 0, "HEAD_DIM must be even: rotary embeddings rotate pairs"
assert WIDTH >= GATE_CHANNELS, "GATE_CHANNELS must be at most DEPTH * ASPECT_RATIO (the width)"
assert TOTAL_BATCH_SIZE % (DEVICE_BATCH_SIZE * MAX_SEQ_LEN) == 0, "TOTAL_BATCH_SIZE must be a multiple of a micro-step"
assert MICRO_STEPS >= 1, "TOTAL_BATCH_SIZE must be at least one micro-step"
assert WARMUP_RATIO + WARMDOWN_RATIO <= 1, "WARMUP_RATIO + WARMDOWN_RATIO must be at most 1"

# ----------------------------------------------------------------------------------------------------------------------
# Model

ON_CPU = mx.default_device() == mx.cpu
# Weights are kept in float32; matrix products use this type. A CPU's BLAS has no bfloat16.
DTYPE = mx.float32 if ON_CPU else mx.bfloat16
# On a CPU, an MLX thread runs one operation at a time, mostly on one core: use a thread per core, each with some rows.
WORKERS = max(n for n in range(1, blas.cores() + 1) if DEVICE_BATCH_SIZE % n == 0) if ON_CPU else 1
on_workers = ThreadPoolExecutor(WORKERS).map if WORKERS > 1 else map


def norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, 1e-5)


def uniform(shape: tuple[int, ...], std: float) -> mx.array:
    bound = math.sqrt(3) * std
    return mx.random.uniform(-bound, bound, shape)


class Linear(nn.Module):
    """A float32 matrix without bias, cast to the type of its input: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.weight = uniform((outputs, inputs), std)

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.astype(x.dtype).T


class Embedding(nn.Module):
    """A float32 lookup table: tokens (B, T) -> (B, T, dims) in DTYPE."""

    def __init__(self, count: int, dims: int, std: float) -> None:
        super().__init__()
        self.weight = uniform((count, dims), std)

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.weight[tokens].astype(DTYPE)


@mx.custom_function
def exp(x: mx.array) -> mx.array:
    """Return e**x, infinity for x above 88. Used on a CPU, where numpy takes a fifth of MLX's time."""
    with np.errstate(over="ignore"):
        return mx.array(np.exp(np.asarray(x)))


@exp.vjp
def exp_vjp(_: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def attention_mask(length: int, window: int) -> mx.array | str:
    """Return a (T, T) mask, or "causal": a position attends to itself and the `window` - 1 positions before it."""
    if window >= length and not ON_CPU:
        return "causal"
    distance = mx.arange(length)[:, None] - mx.arange(length)
    return (distance >= 0) & (distance < window)


def attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str, training: bool) -> mx.array:
    """Return softmax attention of normalized queries and keys; all (B, heads, T, HEAD_DIM).

    Outside training it uses MLX only, so that the evaluation can trace it.
    """
    if isinstance(mask, str) or not ON_CPU or not training:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=HEAD_DIM**-0.5, mask=mask)
    # Scores of normalized vectors are at most HEAD_DIM**0.5, so the softmax needs no shift.
    shares: Any = exp((q * HEAD_DIM**-0.5) @ k.swapaxes(-1, -2))
    weights = mx.where(mask, shares, 0.0)
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)


class Attention(nn.Module):
    """Causal attention with rotary positions and normalized queries and keys.

    With `value_embedding`, every token adds its own learned vector to its values, scaled by a gate per head. The gate
    reads the first GATE_CHANNELS channels of the residual stream and starts at 1.
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
        # nn.relu is compiled, which on a CPU would run g++ for two seconds.
        return self.down(mx.square(mx.maximum(self.up(x), 0)))


class Block(nn.Module):
    """Attention and MLP on a residual stream that is first mixed with the token embeddings `x0`; all (B, T, WIDTH)."""

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
    """A transformer: tokens (B, T) -> logits (B, T, VOCAB_SIZE) in float32."""

    def __init__(self) -> None:
        super().__init__()
        # A short window is half the context. The last layer always sees the full context.
        self.windows = [MAX_SEQ_LEN // (2 if kind == "S" else 1) for kind in window_kinds()]
        self.embedding = Embedding(VOCAB_SIZE, WIDTH, 1.0)
        # Every other layer has value embeddings, including the last one.
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
    """Return parameters by name, such as `blocks.0.mlp.up.weight`."""
    return dict(tree_flatten(model.parameters()))


def loss_fn(model: GPT, inputs: mx.array, targets: mx.array) -> mx.array:
    """Return the mean cross-entropy in nats; `inputs` and `targets` are (B, T)."""
    logits = model(inputs)
    if not ON_CPU:
        return mx.fast.cross_entropy(logits, targets).mean()
    # No shift: logits overflow above 88, by which point training has diverged and check_loss ends the run.
    shares: Any = exp(logits)
    log_sum = mx.log(shares.sum(axis=-1))
    return (log_sum - mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)).mean()


def flops_per_token(model: GPT) -> int:
    """Return FLOPs per token, forward and backward: 6 per matrix weight, plus 12 * WIDTH * window per attention layer.

    This is the estimate of the PaLM paper (arXiv 2204.02311, appendix B), with the window in place of the sequence.
    """
    matrices = [
        p.size for name, p in flat_parameters(model).items() if p.ndim == 2 and not name.endswith("embedding.weight")
    ]
    return 6 * sum(matrices) + sum(12 * WIDTH * window for window in model.windows)


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers


class Muon(optim.Muon):
    """Muon with decoupled weight decay. MLX adds the decay to the gradient, where orthogonalizing nearly removes it."""

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        super().__init__(learning_rate, momentum=MUON_MOMENTUM, weight_decay=0.0, ns_steps=MUON_STEPS)
        self.decay = weight_decay

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        decayed = parameter * (1 - self.learning_rate * self.decay)
        updated: mx.array = super().apply_single(gradient, decayed, state)
        return updated


def make_optimizer() -> optim.MultiOptimizer:
    """Return Muon for the matrices of the blocks and AdamW for all else, each group with its own learning rate."""
    adamw = partial(optim.AdamW, eps=1e-10, weight_decay=0.0, bias_correction=True)
    betas = [ADAM_BETA1, ADAM_BETA2]
    # Embedding rates are given for a width of 768 and scale with the inverse square root of the width.
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
    """Return the learning rate multiplier: linear warmup, 1, then linear warmdown to FINAL_LR_FRACTION.

    Args:
        progress: fraction of the time budget that is spent.
    """
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRACTION


# ----------------------------------------------------------------------------------------------------------------------
# Training


def train(model: GPT, batches: Batches) -> tuple[int, float]:
    """Train for TIME_BUDGET seconds. Return the number of steps, and the seconds taken without the startup steps."""
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
            # Garbage collection takes up to half a second on a big heap, and a step creates no cycles.
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
    """Return a function (inputs, targets, gradients) -> (mean loss, gradients plus the share of this batch).

    Each worker has its own replica of the model and processes an equal part of the rows.
    """
    replicas = [model, *(GPT() for _ in range(WORKERS - 1))]
    steps: list[Any] = [partial(nn.value_and_grad(replica, loss_fn), replica) for replica in replicas]
    if not ON_CPU:
        # On a CPU, compiling would run g++ for 20 s after every change of the model, to gain 6 to 9 %.
        steps = [mx.compile(steps[0], inputs=model.state, outputs=model.state)]

    def run(step: Any, inputs: np.ndarray, targets: np.ndarray) -> Any:
        result = step(mx.array(inputs), mx.array(targets))
        mx.eval(result)
        return result

    def micro_step(inputs: np.ndarray, targets: np.ndarray, gradients: Any) -> tuple[float, Any]:
        # A worker cannot evaluate lazy arrays of another thread, such as an average of weights.
        mx.eval(model.parameters())
        for replica in replicas[1:]:
            replica.update(model.parameters())
        parts = on_workers(run, steps, np.split(inputs, WORKERS), np.split(targets, WORKERS))
        losses, new = zip(*parts, strict=True)
        share = 1 / (WORKERS * MICRO_STEPS)
        gradients = tree_map(lambda total, *parts: total + share * sum(parts), gradients, *new)
        # Evaluate each micro-step: otherwise the activations of all of them would be in memory at once.
        mx.eval(gradients)
        return float(sum(losses)) / WORKERS, gradients

    return micro_step


def check_loss(loss: float, step: int) -> None:
    """Exit with an error and exit code 1 if the loss is not finite, or twice that of a uniform guess."""
    if not math.isfinite(loss):
        sys.exit(f"error: training failed: the loss is {loss} at step {step}, a learning rate may be too high")
    if loss > 2 * math.log(VOCAB_SIZE):
        sys.exit(f"error: training diverged: the loss is {loss:.1f} at step {step}, a learning rate may be too high")


def peak_flops() -> float:
    """Return the peak FLOP/s of plain matrix products in DTYPE, one per worker, measured for about 0.2 s."""
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
        sys.exit(f"error: training failed: val_bpb is {val_bpb}, a learning rate may be too high")

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
