"""A small MLX model whose metric is easy to compute independently."""

from itertools import islice

import numpy as np

from prepare import Tokenizer, make_dataloader
from tests.common.caches import T

# isort: split
import mlx.core as mx
import mlx.nn as nn


class Bigram(nn.Module):
    """Compute logits from each token and the mean of all tokens before it, so that the order of positions matters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1024, width)
        self.head = nn.Linear(width, 1024)
        self.rows: list[int] = []

    def __call__(self, tokens: mx.array) -> mx.array:
        self.rows.append(tokens.shape[0])  # of what it is traced for
        embedded = 8 * self.embedding(tokens)
        count = mx.arange(1, tokens.shape[1] + 1)[:, None]
        logits: mx.array = self.head(embedded + mx.cumsum(embedded, axis=1) / count)
        return logits


def independent_bpb(model: Bigram, tokenizer: Tokenizer) -> float:
    """Compute the metric by its definition in float64, token by token of the validation loader."""
    table = np.array(model.embedding.weight, dtype=np.float64)
    weight, bias = np.array(model.head.weight, dtype=np.float64), np.array(model.head.bias, dtype=np.float64)
    nats, text = 0.0, 0
    batches = make_dataloader(tokenizer, 4, T, "val")
    for inputs, targets, _ in islice(batches, 65536 // T // 4):
        embedded = 8 * table[inputs]
        hidden = embedded + np.cumsum(embedded, axis=1) / np.arange(1, T + 1)[:, None]
        logits = hidden @ weight.T + bias
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
        ordinary = targets < tokenizer.bos_token_id
        nats += losses[ordinary].sum()
        raw = [tokenizer._encoding.decode_single_token_bytes(token) for token in targets[ordinary].tolist()]
        text += sum(map(len, raw))
    batches.close()
    return float(nats / text / np.log(2))
