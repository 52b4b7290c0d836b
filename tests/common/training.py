"""A train.py that trains for real, in less than a second."""

# Real training of a very small model. The code of a case is inserted at {top}, {middle} or {late}.
TRAIN = """
import sys
{top}
from prepare import MAX_SEQ_LEN, TIME_BUDGET, VOCAB_SIZE, Tokenizer, evaluate_bpb, make_dataloader
import prepare, time, os
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
import numpy as np

class Bigram(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCAB_SIZE, width), nn.Linear(width, VOCAB_SIZE)
    def __call__(self, tokens):
        return self.head(self.embedding(tokens))

def loss_fn(model, inputs, targets):
    return nn.losses.cross_entropy(model(inputs), targets, reduction="mean")

tokenizer = Tokenizer.from_directory()
model, optimizer = Bigram(), optim.AdamW(0.02)
batches = make_dataloader(tokenizer, 4, MAX_SEQ_LEN, "train", seed=1)
step = nn.value_and_grad(model, loss_fn)
{middle}
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < TIME_BUDGET:
    inputs, targets, _ = next(batches)
    loss, gradients = step(model, mx.array(inputs), mx.array(targets))
    optimizer.update(model, gradients)
    mx.eval(model.state, optimizer.state)
    steps += 1
batch_size = 64
{late}
val_bpb = evaluate_bpb(model, tokenizer, batch_size)
{end}
print(f"val_bpb:          {val_bpb:.6f}")
print("peak_vram_mb:     10.0")
print(f"num_steps:        {steps}")
"""
