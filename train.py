"""Train a small GPT for a fixed time on one device and report its bits per byte. Usage: uv run train.py

This is the file that experiments change: everything here may change, prepare.py may not. Read it from top to bottom:
hyperparameters, model, optimizers, training. Every hyperparameter is an ALL_CAPS literal in one block; its comment is
the range that the built-in search explores (docs/recipe.md describes each one).
"""

import argparse
import functools
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

if __name__ == "__main__":  # before the data is loaded, so that --help works without it
    argparse.ArgumentParser(
        description=__doc__,
        epilog="AUTORESEARCH_TRAINING_SECONDS sets the training time (default: 300). Run `uv run prepare.py` first.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()

# Import prepare before MLX: it loads the fast BLAS, which must precede the import of mlx.core.
from harness import blas
from harness.workers import Workers
from prepare import MAX_SEQ_LEN, PROFILE, TIME_BUDGET, VOCAB_SIZE, Tokenizer, evaluate_bpb, make_dataloader

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from harness import device

Batches = Iterator[tuple[np.ndarray, np.ndarray, int]]
Arrays = dict[str, mx.array]  # parameters, gradients and moments, by name, such as `blocks.0.mlp.up.weight`

# ----------------------------------------------------------------------------------------------------------------------
# Hyperparameters

# These depend on the machine.
if PROFILE == "cpu":
    DEPTH = 2  # search: 1..8
    HEAD_DIM = 64  # search: 32 | 64 | 128
    WINDOW_PATTERN = "L"  # search: "L" | "SL"
    TOTAL_BATCH_SIZE = 2**13  # search: 1024..32768 log; tokens in an optimizer step
    DEVICE_BATCH_SIZE = 32  # search: 4..64 log; rows in a micro-step
    EVAL_BATCH_SIZE = 16  # search: off
    MATRIX_LR = 0.05  # search: 0.01..0.3 log
    EMBEDDING_LR = 0.3  # search: 0.03..3.0 log
    UNEMBEDDING_LR = 0.012  # search: 0.001..0.1 log
    SCALAR_LR = 0.1  # search: 0.01..1.0 log
    BIGRAM_ROWS = 5120  # search: 0 | 2048 | 5120 | 16384; rows of the table of token pairs, 0 for no table
    CHECKPOINT = False  # search: off; less memory: compute a block's activations again in the backward pass
    STARTUP_STEPS = 1  # search: off; micro-steps that fill caches and change nothing, before the clock starts
else:
    DEPTH = 4  # search: 2..12
    HEAD_DIM = 128  # search: 64 | 128
    WINDOW_PATTERN = "L"  # search: "L" | "SL" | "SSSL"
    TOTAL_BATCH_SIZE = 2**16  # search: 16384..262144 log; tokens in an optimizer step
    DEVICE_BATCH_SIZE = 32  # search: 2..32 log; rows in a micro-step, fewer on a GPU with little memory
    EVAL_BATCH_SIZE = 8  # search: off
    MATRIX_LR = 0.04  # search: 0.004..0.2 log
    EMBEDDING_LR = 0.6  # search: 0.06..3.0 log
    UNEMBEDDING_LR = 0.004  # search: 0.0004..0.04 log
    SCALAR_LR = 0.5  # search: 0.05..1.0 log
    BIGRAM_ROWS = 16384  # search: 0 | 16384 | 40960; rows of the table of token pairs, 0 for no table
    CHECKPOINT = False  # search: True | False; less memory: compute a block's activations again in the backward pass
    STARTUP_STEPS = 3  # search: off; micro-steps that compile and change nothing, before the clock starts

# These do not.
ASPECT_RATIO = 64  # search: 32..128 log; width = DEPTH * ASPECT_RATIO
MLP_RATIO = 4  # search: 1..8
GATE_CHANNELS = 32  # search: 8..64 log; what the gates read
NEGATIVE_SLOPE = 0.5  # search: 0.0..0.5; of the squared ReLU
SHARPNESS = 2.0  # search: 1.0..4.0; factor on the attention scores
SMEAR = 0.3  # search: 0.0..1.0; share of the previous token's embedding at the start, 0 for none
VALUE_EMBEDDINGS = "all"  # search: "all" | "alternate"; which layers have them
ROPE_BASE = 10000  # search: 500..100000 log
WEIGHT_DECAY = 0.05  # search: 0.0..0.5
ADAM_BETA1 = 0.8  # search: 0.5..0.95
ADAM_BETA2 = 0.95  # search: 0.9..0.999
BIGRAM_LR_RATIO = 0.3  # search: 0.1..3.0 log; learning rate of the table of token pairs / EMBEDDING_LR
MUON_MOMENTUM = 0.95  # search: 0.8..0.98
MUON_BETA2 = 0.9  # search: 0.0 | 0.9 | 0.95; of the variance by row, 0 for none
MUON_STEPS = 5  # search: 2..5
WARMUP_RATIO = 0.0  # search: 0.0..0.2
WARMDOWN_RATIO = 0.5  # search: 0.0..1.0
WARMDOWN_POWER = 1.2  # search: 0.8..2.0
FINAL_LR_FRACTION = 0.0  # search: 0.0..0.2
ATTENTION_BLOCKS = 2  # search: off; blocks of queries, on a CPU
SEED = 42  # search: off

# A value that is out of range is refused here, as it would otherwise mean another one or fail late.
assert all(
    isinstance(each, int)
    for each in (
        *(DEPTH, HEAD_DIM, TOTAL_BATCH_SIZE, DEVICE_BATCH_SIZE, EVAL_BATCH_SIZE, BIGRAM_ROWS, STARTUP_STEPS),
        *(ASPECT_RATIO, MLP_RATIO, GATE_CHANNELS, MUON_STEPS, ATTENTION_BLOCKS, SEED),
    )
), "sizes, numbers of steps and rows, MLP_RATIO and SEED must be whole numbers"
assert min(DEPTH, ASPECT_RATIO, HEAD_DIM) >= 1, "DEPTH, ASPECT_RATIO and HEAD_DIM must be at least 1"
assert min(MLP_RATIO, GATE_CHANNELS) >= 1, "MLP_RATIO and GATE_CHANNELS must be at least 1"
assert min(DEVICE_BATCH_SIZE, EVAL_BATCH_SIZE) >= 1, "DEVICE_BATCH_SIZE and EVAL_BATCH_SIZE must be at least 1"
assert 1 <= ATTENTION_BLOCKS <= MAX_SEQ_LEN, "ATTENTION_BLOCKS must be between 1 and MAX_SEQ_LEN"
assert STARTUP_STEPS >= 0, "STARTUP_STEPS must be at least 0"
assert 0 <= SEED < 2**63, "SEED must be between 0 and 2**63 - 1"
assert WINDOW_PATTERN and set(WINDOW_PATTERN) <= set("SL"), "WINDOW_PATTERN must be one or more letters S and L"
assert VALUE_EMBEDDINGS in ("all", "alternate"), 'VALUE_EMBEDDINGS must be "all" or "alternate"'
assert MATRIX_LR >= 0 and EMBEDDING_LR >= 0, "MATRIX_LR and EMBEDDING_LR must be at least 0"
assert UNEMBEDDING_LR >= 0 and SCALAR_LR >= 0, "UNEMBEDDING_LR and SCALAR_LR must be at least 0"
assert BIGRAM_LR_RATIO >= 0 and WEIGHT_DECAY >= 0, "BIGRAM_LR_RATIO and WEIGHT_DECAY must be at least 0"
assert 0 <= ADAM_BETA1 < 1 and 0 <= ADAM_BETA2 < 1, "ADAM_BETA1 and ADAM_BETA2 must be at least 0 and below 1"
assert 0 <= MUON_MOMENTUM < 1 and 0 <= MUON_BETA2 < 1, "MUON_MOMENTUM and MUON_BETA2 must be at least 0 and below 1"
assert 0 <= NEGATIVE_SLOPE <= 1, "NEGATIVE_SLOPE must be between 0 and 1"
assert SHARPNESS >= 0, "SHARPNESS must be at least 0"
assert ROPE_BASE > 0, "ROPE_BASE must be above 0"
assert WARMUP_RATIO >= 0 and WARMDOWN_RATIO >= 0, "WARMUP_RATIO and WARMDOWN_RATIO must be at least 0"
assert WARMDOWN_POWER >= 0 and FINAL_LR_FRACTION >= 0, "WARMDOWN_POWER and FINAL_LR_FRACTION must be at least 0"

WIDTH = DEPTH * ASPECT_RATIO
assert WIDTH % HEAD_DIM == 0, "DEPTH * ASPECT_RATIO (the width) must be a multiple of HEAD_DIM"
assert HEAD_DIM % 2 == 0, "HEAD_DIM must be even: rotary embeddings rotate pairs"
assert WIDTH >= GATE_CHANNELS, "GATE_CHANNELS must be at most DEPTH * ASPECT_RATIO (the width)"
assert BIGRAM_ROWS == 0 or BIGRAM_ROWS >= 2, "BIGRAM_ROWS must be 0, or at least 2: the last is for a row's first token"
assert TOTAL_BATCH_SIZE % (DEVICE_BATCH_SIZE * MAX_SEQ_LEN) == 0, "TOTAL_BATCH_SIZE must be a multiple of a micro-step"
assert TOTAL_BATCH_SIZE >= DEVICE_BATCH_SIZE * MAX_SEQ_LEN, "TOTAL_BATCH_SIZE must be at least one micro-step"
assert WARMUP_RATIO + WARMDOWN_RATIO <= 1, "WARMUP_RATIO + WARMDOWN_RATIO must be at most 1"

# ----------------------------------------------------------------------------------------------------------------------
# Model

ON_CPU = mx.default_device() == mx.cpu
# Weights are kept in float32; matrix products use this type. A CPU's BLAS has no bfloat16.
DTYPE = mx.float32 if ON_CPU else mx.bfloat16
# exp overflows above 88, and the sum of a row's shares before that.
assert not ON_CPU or SHARPNESS * HEAD_DIM**0.5 <= 80, "SHARPNESS * HEAD_DIM**0.5 must be at most 80 on a CPU"
# On a CPU, MLX runs one operation at a time, mostly on one core: use a process per core, each with some rows.
CORES = blas.cores() if ON_CPU and sys.platform == "linux" else 1
WORKERS = max(n for n in range(1, CORES + 1) if DEVICE_BATCH_SIZE % n == 0)
MOST_ROWS = 32  # search: off; the largest DEVICE_BATCH_SIZE of the mac profile
# What a row of a micro-step takes at most: 540 MB for 4 layers of width 256 and 2,048 tokens; 370 were measured.
ROW_BYTES = 260 * MAX_SEQ_LEN * DEPTH * WIDTH


def rows_of_a_micro_step(memory: int) -> int:
    """Return DEVICE_BATCH_SIZE, halved as often as MOST_ROWS rows must be to take at most 40 % of a GPU's memory.

    Relative to the memory, so that half of DEVICE_BATCH_SIZE is half of the rows on every GPU.

    Args:
        memory: bytes; 0 if unknown.
    """
    rows, most = DEVICE_BATCH_SIZE, MOST_ROWS
    while memory and rows % 2 == 0 and most * ROW_BYTES > 0.4 * memory:
        rows, most = rows // 2, most // 2
    return rows


# The number of rows in a micro-step does not change what a step computes.
ROWS = DEVICE_BATCH_SIZE if ON_CPU else rows_of_a_micro_step(device.gpu_memory())
MICRO_STEPS = TOTAL_BATCH_SIZE // (ROWS * MAX_SEQ_LEN)


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
        # A checkpoint asks for the gradients of all its inputs, and those of indices are an error.
        return self.weight[mx.stop_gradient(tokens)].astype(DTYPE)


def attention_mask(length: int, window: int) -> mx.array | str:
    """Return an additive (T, T) mask, or "causal": a position attends to itself and the `window` - 1 before it."""
    if window >= length:
        return "causal"
    distance = mx.arange(length)[:, None] - mx.arange(length)
    return mx.where((distance >= 0) & (distance < window), 0.0, -math.inf).astype(DTYPE)


@functools.cache
def attention_blocks(length: int, window: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Return blocks of queries, the keys that they see, and 1 where a query sees a key, else 0.

    Blocks of queries need no products with the keys after them, which saves a quarter of the work.
    """
    blocks, step = [], -(-length // ATTENTION_BLOCKS)
    for begin in range(0, length, step):
        end, first = min(begin + step, length), max(0, begin - window + 1)
        distance = np.arange(begin, end)[:, None] - np.arange(first, end)
        blocks.append(
            (slice(begin, end), slice(first, end), ((distance >= 0) & (distance < window)).astype(np.float32))
        )
    return blocks


@functools.cache
def attention_on_a_cpu(window: int) -> Callable[[mx.array, mx.array, mx.array], mx.array]:
    """Return an attention that NumPy computes in few buffers: 22 ms with its gradients, MLX's operations take 27."""
    scale = SHARPNESS * HEAD_DIM**-0.5

    @mx.custom_function
    def attention(*arrays: mx.array) -> tuple[mx.array, ...]:
        q, k, v = map(np.asarray, arrays)
        output, weights = np.empty_like(q), []
        for rows, keys, seen in attention_blocks(q.shape[2], window):
            shares = scale * q[:, :, rows] @ k[:, :, keys].swapaxes(-1, -2)
            # Scores of normalized vectors are at most SHARPNESS * HEAD_DIM**0.5, so the softmax needs no shift.
            shares = np.exp(shares, out=shares)
            shares *= seen
            shares /= shares.sum(axis=-1, keepdims=True)
            output[:, :, rows] = shares @ v[:, :, keys]
            weights.append(mx.array(shares))
        return mx.array(output), *weights

    @attention.vjp
    def gradients(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        q, k, v = map(np.asarray, primals)
        along, (output, *weights) = np.asarray(cotangents[0]), map(np.asarray, outputs)
        means = (along * output).sum(axis=-1, keepdims=True)
        of_q, of_k, of_v = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
        for (rows, keys, _), shares in zip(attention_blocks(q.shape[2], window), weights, strict=True):
            of_v[:, :, keys] += shares.swapaxes(-1, -2) @ along[:, :, rows]
            of_scores = along[:, :, rows] @ v[:, :, keys].swapaxes(-1, -2)
            of_scores -= means[:, :, rows]
            of_scores *= shares
            of_scores *= scale
            of_q[:, :, rows] = of_scores @ k[:, :, keys]
            of_k[:, :, keys] += of_scores.swapaxes(-1, -2) @ q[:, :, rows]
        return mx.array(of_q), mx.array(of_k), mx.array(of_v)

    def first(*arrays: mx.array) -> mx.array:
        outputs: Any = attention(*arrays)
        result: mx.array = outputs[0]
        return result

    return first


def attend(q: mx.array, k: mx.array, v: mx.array, window: int, training: bool) -> mx.array:
    """Return softmax attention of normalized queries and keys; all (B, heads, T, HEAD_DIM).

    Outside training it uses MLX only, so that the evaluation can trace it.
    """
    if ON_CPU and training:
        return attention_on_a_cpu(window)(q, k, v)
    scale = SHARPNESS * HEAD_DIM**-0.5
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=attention_mask(q.shape[2], window))


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

    def __call__(self, x: mx.array, tokens: mx.array, window: int) -> mx.array:
        batch, length, _ = x.shape
        q, k, v = (f(x).reshape(batch, length, self.heads, HEAD_DIM) for f in (self.q, self.k, self.v))
        if "value_embedding" in self:
            gate = 2 * mx.sigmoid(self.gate(x[..., :GATE_CHANNELS]))
            v = v + gate[..., None] * self.value_embedding(tokens).reshape(v.shape)
        q, k, v = (y.transpose(0, 2, 1, 3) for y in (q, k, v))
        q, k = norm(self.rope(q)), norm(self.rope(k))
        y = attend(q, k, v, window, self.training)
        return self.out(y.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH))


def squared_relu(x: mx.array) -> mx.array:
    """Return the square of a ReLU that has NEGATIVE_SLOPE below zero."""
    return x * mx.maximum(x, NEGATIVE_SLOPE**2 * x)


@mx.custom_function
def differentiable_squared_relu(x: mx.array) -> mx.array:
    """The same, with half of the operations of MLX's own gradient. The evaluation cannot trace it."""
    return squared_relu(x)


@differentiable_squared_relu.vjp
def squared_relu_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    return cotangent * mx.maximum(2 * x, 2 * NEGATIVE_SLOPE**2 * x)


class MLP(nn.Module):
    """Two matrices around a squared ReLU that has NEGATIVE_SLOPE below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, MLP_RATIO * WIDTH, WIDTH**-0.5)
        self.down = Linear(MLP_RATIO * WIDTH, WIDTH, 0.0)

    def __call__(self, x: mx.array) -> mx.array:
        # A GPU fuses the operations of MLX's own gradient.
        activation: Any = differentiable_squared_relu if ON_CPU and self.training else squared_relu
        return self.down(activation(self.up(x)))


class Block(nn.Module):
    """Attention and MLP on a residual stream; all (B, T, WIDTH).

    The stream is first mixed with what is known of the tokens alone: their embeddings `x0`, and those of their pairs.
    """

    def __init__(self, value_embedding: bool) -> None:
        super().__init__()
        self.attention = Attention(value_embedding)
        self.mlp = MLP()
        self.residual_scale = mx.array(1.0)
        self.x0_scale = mx.array(0.1)
        if BIGRAM_ROWS:
            self.bigram_scale = mx.array(0.1)

    def __call__(self, x: mx.array, x0: mx.array, bigrams: mx.array | None, tokens: mx.array, window: int) -> mx.array:
        # Without the casts the float32 scalars would make the whole stream float32.
        x = self.residual_scale.astype(x.dtype) * x + self.x0_scale.astype(x.dtype) * x0
        if bigrams is not None:
            x = x + self.bigram_scale.astype(x.dtype) * bigrams
        x = x + self.attention(norm(x), tokens, window)
        return x + self.mlp(norm(x))


class Bigram(nn.Module):
    """An embedding of each token and the one before it: tokens (B, T) -> (B, T, WIDTH).

    Pairs share BIGRAM_ROWS rows by a hash, as in modded-nanogpt. A row's first token has no pair and the last row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(BIGRAM_ROWS, WIDTH, 0.0)

    def __call__(self, tokens: mx.array) -> mx.array:
        pairs = mx.bitwise_xor(36313 * tokens[:, 1:], 27191 * tokens[:, :-1]) % (BIGRAM_ROWS - 1)
        first = mx.full((tokens.shape[0], 1), BIGRAM_ROWS - 1, pairs.dtype)
        return self.embedding(mx.concatenate([first, pairs], axis=1))


class Smear(nn.Module):
    """Add a gated share of the previous token's embedding to each: (B, T, WIDTH) -> (B, T, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Linear(GATE_CHANNELS, 1, 0.0)
        self.share = mx.array(SMEAR)

    def __call__(self, x: mx.array) -> mx.array:
        gate = 2 * mx.sigmoid(self.gate(x[:, 1:, :GATE_CHANNELS])) * self.share.astype(x.dtype)
        return mx.concatenate([x[:, :1], x[:, 1:] + gate * x[:, :-1]], axis=1)


class GPT(nn.Module):
    """A transformer: tokens (B, T) -> logits (B, T, VOCAB_SIZE) in DTYPE."""

    def __init__(self) -> None:
        super().__init__()
        # A short window is half the context. The last layer always sees the full context.
        self.windows = [MAX_SEQ_LEN // (2 if kind == "S" else 1) for kind in window_kinds()]
        self.embedding = Embedding(VOCAB_SIZE, WIDTH, 1.0)
        if SMEAR:
            self.smear = Smear()
        if BIGRAM_ROWS:
            self.bigram = Bigram()
        # "alternate": every other layer, including the last one.
        self.blocks = [
            Block(value_embedding=VALUE_EMBEDDINGS == "all" or (DEPTH - layer) % 2 == 1) for layer in range(DEPTH)
        ]
        self.head = Linear(WIDTH, VOCAB_SIZE, 0.001)

    def hidden(self, tokens: mx.array) -> mx.array:
        """Return what the head reads: (B, T) -> (B, T, WIDTH)."""
        x0 = norm(self.embedding(tokens))
        if SMEAR:
            x0 = self.smear(x0)
        bigrams = self.bigram(tokens) if BIGRAM_ROWS else None
        x = x0
        for block, window in zip(self.blocks, self.windows, strict=True):
            # A checkpoint cannot be traced, so the evaluation goes without.
            run = nn.utils.checkpoint(block) if CHECKPOINT and self.training else block
            x = run(x, x0, bigrams, tokens, window)
        return norm(x)

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.head(self.hidden(tokens))


def window_kinds() -> str:
    return "".join(WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] for layer in range(DEPTH - 1)) + "L"


def flat_parameters(model: nn.Module) -> Arrays:
    return dict(tree_flatten(model.parameters()))


def load_parameters(model: nn.Module, parameters: Arrays) -> None:
    model.update(tree_unflatten(list(parameters.items())))


@mx.custom_function
def cross_entropy(x: mx.array, head: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Return the mean cross-entropy in nats of the logits x @ head.T, and its gradients. Used on a CPU.

    NumPy computes them in one buffer, where MLX would write the logits ten times: 18 ms instead of 23 to 31.

    Args:
        x: (N, WIDTH).
        head: (VOCAB_SIZE, WIDTH).
        targets: (N,).
    """
    inputs, weights, right = np.asarray(x), np.asarray(head), (np.arange(len(targets)), np.asarray(targets))
    logits = inputs @ weights.T
    chosen = logits[right]
    # No shift: logits overflow above 88, by which point training has diverged and `checked` ends the run.
    with np.errstate(over="ignore", invalid="ignore"):
        shares = np.exp(logits, out=logits)
        sums = shares.sum(axis=-1)
        loss = np.mean(np.log(sums) - chosen)
        shares /= sums[:, None] * len(inputs)
        shares[right] -= 1 / len(inputs)
        return mx.array(loss), mx.array(shares @ weights), mx.array(shares.T @ inputs)


@cross_entropy.vjp
def cross_entropy_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
    return cotangents[0] * outputs[1], cotangents[0] * outputs[2], mx.zeros_like(primals[2])


def loss_fn(model: GPT, inputs: mx.array, targets: mx.array) -> mx.array:
    """Return the mean cross-entropy in nats; `inputs` and `targets` are (B, T)."""
    if not ON_CPU:
        # The kernel reads bfloat16 and sums in float32.
        return mx.fast.cross_entropy(model(inputs), targets).mean()
    result: Any = cross_entropy(model.hidden(inputs).reshape(-1, WIDTH), model.head.weight, targets.reshape(-1))
    loss: mx.array = result[0]
    return loss


def flops_per_token(model: GPT) -> int:
    """Return FLOPs per token, forward and backward: 6 per matrix weight, plus 12 * WIDTH * window per attention layer.

    This is the estimate of the PaLM paper (arXiv 2204.02311, appendix B). On a CPU a short window saves its part of the
    products; a GPU computes the whole context and masks it.
    """
    matrices = [
        p.size for name, p in flat_parameters(model).items() if p.ndim == 2 and not name.endswith("embedding.weight")
    ]
    windows = model.windows if ON_CPU else [MAX_SEQ_LEN] * DEPTH
    return 6 * sum(matrices) + sum(12 * WIDTH * window for window in windows)


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers

# Coefficients of five steps of Polar Express (arXiv 2505.16932), with a safety factor of 0.02.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
assert 0 <= MUON_STEPS <= len(POLAR_EXPRESS), "MUON_STEPS must be between 0 and 5, for which there are coefficients"


def adam_settings(name: str) -> tuple[float, float, float] | None:
    """Return the learning rate and the betas of a parameter; None if it is a matrix of a block, which Muon updates."""
    # Embedding rates are given for a width of 768 and scale with the inverse square root of the width.
    scale = (WIDTH / 768) ** -0.5
    if name == "bigram.embedding.weight":
        return BIGRAM_LR_RATIO * EMBEDDING_LR * scale, ADAM_BETA1, ADAM_BETA2
    if name.endswith("embedding.weight"):
        return EMBEDDING_LR * scale, ADAM_BETA1, ADAM_BETA2
    if name.startswith("head."):
        return UNEMBEDDING_LR * scale, ADAM_BETA1, ADAM_BETA2
    if name.endswith(("x0_scale", "bigram_scale")):
        return SCALAR_LR, 0.96, 0.95
    if name.endswith("residual_scale"):
        return SCALAR_LR * 0.01, ADAM_BETA1, ADAM_BETA2
    if name.startswith("smear."):
        return SCALAR_LR * 0.2, ADAM_BETA1, ADAM_BETA2
    return None


def muon_stacks(parameters: Arrays) -> dict[str, list[str]]:
    """Return the names of Muon's matrices by shape, the shorter side first: those of one shape are updated at once."""
    stacks: dict[str, list[str]] = {}
    for name, matrix in parameters.items():
        if adam_settings(name) is None:
            stacks.setdefault("x".join(map(str, sorted(matrix.shape))), []).append(name)
    return stacks


def wide(matrix: mx.array) -> mx.array:
    """Return a matrix, transposed if it has more rows than columns."""
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalize(x: Any) -> Any:
    """Return the nearest matrices with orthogonal rows, about.

    Args:
        x: (K, rows, columns), of NumPy or MLX. The norm of each matrix is a little below 1, as Polar Express requires.
    """
    for a, b, c in POLAR_EXPRESS[:MUON_STEPS]:
        square = x @ x.swapaxes(-1, -2)
        x = a * x + (b * square + c * (square @ square)) @ x
    return x


def norms(x: mx.array) -> mx.array:
    """Return the norm of each matrix: (K, rows, columns) -> (K, 1, 1)."""
    return mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True))


def muon_direction(x: mx.array, variance: mx.array, beta2: mx.array) -> tuple[mx.array, mx.array]:
    """Return the orthogonalized update of a stack of matrices (K, rows, columns), and the new variances of its rows.

    As in NorMuon (arXiv 2510.05491), rows are divided by their root mean square and the norm of a matrix is kept.
    """
    x = x / (1.01 * norms(x) + 1e-7)  # in float32: a sum of so many bfloat16 squares can be far too small
    x = mx.array(device.on_threads(orthogonalize, np.asarray(x), WORKERS)) if ON_CPU else orthogonalize(x.astype(DTYPE))
    x = x.astype(mx.float32)
    if not MUON_BETA2:
        return x, variance
    variance = beta2 * variance + (1 - beta2) * mx.square(x).mean(axis=-1, keepdims=True)
    even = x * mx.rsqrt(mx.maximum(variance, 1e-10))
    return even * (norms(x) / mx.maximum(norms(even), 1e-10)), variance


def optimizer_state(parameters: Arrays) -> Arrays:
    """Return the moments of AdamW and of Muon, all zero, the number of steps, and the settings of both.

    The settings are arrays, so that they are inputs of the compiled update. MLX compiles a number into the kernels that
    use it, and on CUDA a run with another rate would take seconds to compile them again.
    """
    muon = mx.array([MATRIX_LR, WEIGHT_DECAY, MUON_MOMENTUM, MUON_BETA2])
    state = {"steps": mx.array(0.0), "muon settings": muon}
    for name, parameter in parameters.items():
        if settings := adam_settings(name):
            state[f"{name} settings"] = mx.array(settings)
            state[f"{name} first"] = state[f"{name} second"] = mx.zeros_like(parameter)
    for shape, names in muon_stacks(parameters).items():
        rows, columns = map(int, shape.split("x"))
        state[f"{shape} first"] = mx.zeros((len(names), rows, columns))
        state[f"{shape} second"] = mx.zeros((len(names), rows, 1))
    return state


def update(parameters: Arrays, gradients: Arrays, state: Arrays, multiplier: mx.array) -> tuple[Arrays, Arrays]:
    """Return the parameters and the state after a step of AdamW, or of Muon for the matrices of the blocks.

    Args:
        multiplier: of the learning rates, a scalar.
    """
    parameters, state = dict(parameters), dict(state)
    steps = state["steps"] = state["steps"] + 1
    for name, gradient in gradients.items():
        if f"{name} settings" in state:
            rate, beta1, beta2 = state[f"{name} settings"]
            first = state[f"{name} first"] = beta1 * state[f"{name} first"] + (1 - beta1) * gradient
            second = state[f"{name} second"] = beta2 * state[f"{name} second"] + (1 - beta2) * mx.square(gradient)
            # Both corrections of the bias in one scalar, so that large tables are passed over once less.
            corrected = mx.sqrt(1 - beta2**steps) / (1 - beta1**steps)
            parameters[name] = parameters[name] - rate * multiplier * corrected * (first / (mx.sqrt(second) + 1e-10))
    rate, weight_decay, momentum, beta2 = state["muon settings"]
    for shape, names in muon_stacks(parameters).items():
        gradient = mx.stack([wide(gradients[name]) for name in names])
        share = (1 - momentum) * gradient
        first = state[f"{shape} first"] = momentum * state[f"{shape} first"] + share
        nesterov = momentum * first + share
        directions, state[f"{shape} second"] = muon_direction(nesterov, state[f"{shape} second"], beta2)
        for name, direction in zip(names, directions, strict=True):
            parameter = parameters[name]
            rows, columns = parameter.shape
            direction = direction.T if rows > columns else direction
            # Cautious: a weight decays only where the step shrinks it as well.
            decay = weight_decay * parameter * (direction * parameter >= 0)
            parameters[name] = parameter - rate * multiplier * (max(1, rows / columns) ** 0.5 * direction + decay)
    return parameters, state


def lr_multiplier(progress: float) -> float:
    """Return the learning rate multiplier: linear warmup, 1, then warmdown to FINAL_LR_FRACTION.

    Args:
        progress: fraction of the time budget that is spent.
    """
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left: float = ((1 - progress) / WARMDOWN_RATIO) ** WARMDOWN_POWER
    return left + (1 - left) * FINAL_LR_FRACTION


# ----------------------------------------------------------------------------------------------------------------------
# Training

Step = Callable[[Arrays, Arrays, mx.array, np.ndarray, np.ndarray], tuple[Arrays, Arrays, mx.array]]


@functools.cache
def replica() -> GPT:
    """Return this process's model, whose parameters are replaced in each step."""
    return GPT()


def gradients_of(
    values: dict[str, np.ndarray], sums: dict[str, np.ndarray], inputs: np.ndarray, targets: np.ndarray
) -> float:
    """Write the sums of the gradients over micro-steps to `sums`, and return that of the losses.

    Args:
        values: the parameters.
        inputs, targets: (micro-steps, B, T).
    """
    model = replica()
    load_parameters(model, {name: mx.array(value) for name, value in values.items()})
    step, total = nn.value_and_grad(model, loss_fn), 0.0
    for number, rows in enumerate(zip(inputs, targets, strict=True)):
        loss, gradients = step(model, *map(mx.array, rows))
        mx.eval(loss, gradients)
        total += loss.item()
        for name, gradient in tree_flatten(gradients):
            np.add(sums[name] if number else 0, np.asarray(gradient), out=sums[name])
    return total


def step_on_a_cpu(workers: Workers) -> Step:
    """Return an optimizer step whose rows are divided over processes."""

    def step(
        parameters: Arrays, state: Arrays, multiplier: mx.array, inputs: np.ndarray, targets: np.ndarray
    ) -> tuple[Arrays, Arrays, mx.array]:
        parts = zip(np.split(inputs, WORKERS, axis=1), np.split(targets, WORKERS, axis=1), strict=True)
        values = {name: np.asarray(parameter) for name, parameter in parameters.items()}
        sums, losses = zip(*workers.run(values, list(parts)), strict=True)
        share = 1 / (WORKERS * len(inputs))
        gradients = {name: mx.array(sum(each[name] for each in sums)) * share for name in parameters}
        parameters, state = update(parameters, gradients, state, multiplier)
        mx.eval(parameters, state)
        return parameters, state, mx.array(sum(losses) * share)

    return step


def step_on_a_gpu(model: GPT) -> Step:
    """Return an optimizer step that is compiled and starts without waiting for the one before."""

    @mx.compile
    def micro_step(
        parameters: Arrays, loss: mx.array, gradients: Arrays, inputs: mx.array, targets: mx.array, share: mx.array
    ) -> tuple[mx.array, Arrays]:
        load_parameters(model, parameters)
        own, new = nn.value_and_grad(model, loss_fn)(model, inputs, targets)
        return loss + share * own, {name: gradients[name] + share * each for name, each in tree_flatten(new)}

    compiled_update = mx.compile(update)
    zero, zeros = mx.array(0.0), {name: mx.zeros_like(each) for name, each in flat_parameters(model).items()}

    def step(
        parameters: Arrays, state: Arrays, multiplier: mx.array, inputs: np.ndarray, targets: np.ndarray
    ) -> tuple[Arrays, Arrays, mx.array]:
        loss, gradients, share = zero, zeros, mx.array(1 / len(inputs))
        for rows in zip(inputs, targets, strict=True):
            loss, gradients = micro_step(parameters, loss, gradients, mx.array(rows[0]), mx.array(rows[1]), share)
            # Start each micro-step: as one graph, the activations of all of them would be in memory at once.
            mx.async_eval(loss, gradients)  # type: ignore[no-untyped-call]
        parameters, state = compiled_update(parameters, gradients, state, multiplier)
        mx.async_eval(parameters, state)  # type: ignore[no-untyped-call]
        return parameters, state, loss

    return step


def micro_steps(batches: Batches) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the inputs and targets of an optimizer step, (MICRO_STEPS, ROWS, T), and the epoch."""
    inputs, targets, epochs = zip(*(next(batches) for _ in range(MICRO_STEPS)), strict=True)
    return np.stack(inputs), np.stack(targets), epochs[-1]


def train(model: GPT, step: Step, batches: Batches) -> tuple[int, float]:
    """Train for TIME_BUDGET seconds. Return the number of steps and the seconds that they took."""
    parameters = flat_parameters(model)
    state = optimizer_state(parameters)
    mx.eval(parameters, state)
    warm_up(step, parameters, state)
    inputs, targets, epoch = micro_steps(batches)

    steps, taken, smooth_loss, reported, unread = 0, 0.0, 0.0, 0.0, None
    begun = time.perf_counter()
    seconds = 0.0
    # A GPU works on one step while the next one is prepared; `ahead` is what the one at work still takes, about.
    ahead = 0.0
    while seconds + ahead < TIME_BUDGET:
        multiplier = lr_multiplier((seconds + ahead) / TIME_BUDGET)
        parameters, state, loss = step(parameters, state, mx.array(multiplier), inputs, targets)
        inputs, targets, epoch = micro_steps(batches)
        steps += 1
        if unread is not None:
            smooth_loss = 0.9 * smooth_loss + 0.1 * checked(unread.item(), steps - 2)
        unread = loss
        taken, seconds = time.perf_counter() - begun - seconds, time.perf_counter() - begun
        ahead = 0.0 if ON_CPU or steps < 2 else taken
        if steps > 1 and (seconds - reported >= 1 or seconds + ahead >= TIME_BUDGET):
            reported = seconds
            print(
                f"step {steps:05d} ({min(1, seconds / TIME_BUDGET):.1%}) | "
                f"loss: {smooth_loss / (1 - 0.9 ** (steps - 1)):.6f} | lrm: {multiplier:.2f} | "
                f"dt: {taken * 1000:.0f}ms | tok/sec: {TOTAL_BATCH_SIZE / taken:,.0f} | epoch: {epoch} | "
                f"remaining: {max(0, TIME_BUDGET - seconds):.0f}s",
                flush=True,
            )
    mx.eval(parameters, state)
    if unread is not None:
        checked(unread.item(), steps - 1)
    load_parameters(model, parameters)
    return steps, time.perf_counter() - begun


def warm_up(step: Step, parameters: Arrays, state: Arrays) -> None:
    """Compile and fill caches by micro-steps on made-up tokens, whose results are dropped. Then set the memory limits.

    The harness counts training time from the first batch, so none is read here.

    Raises:
        MemoryError: a step takes more than the memory that the GPU may use, so that the system would swap.
    """
    tokens = np.arange(ROWS * MAX_SEQ_LEN, dtype=np.int32).reshape(1, ROWS, MAX_SEQ_LEN) % VOCAB_SIZE
    for number in range(STARTUP_STEPS):
        begun = time.perf_counter()
        mx.eval(step(parameters, state, mx.array(1.0), tokens, tokens))
        if not number:
            print(f"first step, with any compilation: {time.perf_counter() - begun:.1f}s", flush=True)
    device.limit_memory(device.usable_memory())
    # Garbage collection takes up to half a second on a big heap, and a step creates no cycles.
    gc.collect()
    gc.freeze()
    gc.disable()


def checked(loss: Any, step: int) -> float:
    """Return the loss of a step. Exit with code 1 if it is not finite, or twice that of a uniform guess."""
    if not math.isfinite(loss):
        sys.exit(f"error: training failed: the loss is {loss} at step {step}, a learning rate may be too high")
    if loss > 2 * math.log(VOCAB_SIZE):
        sys.exit(f"error: training diverged: the loss is {loss:.1f} at step {step}, a learning rate may be too high")
    return float(loss)


def main() -> None:
    started = time.perf_counter()
    workers = Workers(WORKERS, gradients_of)  # before MLX computes anything
    mx.random.seed(SEED)
    tokenizer = Tokenizer.from_directory()
    batches = make_dataloader(tokenizer, ROWS, MAX_SEQ_LEN, "train", seed=SEED)
    print(f"data: {time.perf_counter() - started:.1f}s | profile {PROFILE} | vocabulary {VOCAB_SIZE:,}", flush=True)

    model = GPT()
    mx.eval(model.parameters())
    parameters = sum(p.size for p in flat_parameters(model).values())
    print(
        f"backend: {mx.default_device()} | blas: {blas.load() or 'as built into MLX'} | {parameters:,} parameters",
        flush=True,
    )

    mx.reset_peak_memory()
    steps, seconds = train(model, step_on_a_cpu(workers) if ON_CPU else step_on_a_gpu(model), batches)
    print(f"memory that MLX keeps for reuse: {mx.get_cache_memory() / 2**20:,.0f} MB", flush=True)
    memory = WORKERS * mx.get_peak_memory()  # each worker takes as much, but for the optimizer
    evaluation = time.perf_counter()
    val_bpb = evaluate_bpb(model, tokenizer, EVAL_BATCH_SIZE)
    print(f"evaluation: {time.perf_counter() - evaluation:.1f}s", flush=True)
    if not math.isfinite(val_bpb):
        sys.exit(f"error: training failed: val_bpb is {val_bpb}, a learning rate may be too high")

    flops = flops_per_token(model) * TOTAL_BATCH_SIZE * steps
    peak = device.peak_flops(
        DTYPE, 1024 if ON_CPU else 4096, WORKERS
    )  # now, as the evaluator takes a core while it starts
    print(f"matrix products: {peak / 1e9:,.0f} GFLOP/s", flush=True)
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {seconds:.1f}")
    print(f"total_seconds:    {time.perf_counter() - started:.1f}")
    print(f"peak_vram_mb:     {memory / 2**20:.1f}")
    print(f"mfu_percent:      {100 * flops / seconds / peak:.2f}")
    print(f"total_tokens_M:   {steps * TOTAL_BATCH_SIZE / 1e6:.1f}")
    print(f"num_steps:        {steps}")
    print(f"num_params_M:     {parameters / 1e6:.1f}")
    print(f"depth:            {DEPTH}")


if __name__ == "__main__":
    main()
