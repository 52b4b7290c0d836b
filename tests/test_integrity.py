"""A gallery of train.py files that fool a loop, each void here, and of honest but odd ones, which are not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent import attest
from agent.errors import PreconditionError
from agent.experiment import Run
from agent.measure import Bench, measure
from agent.protocol import load
from agent.workspace import Workspace
from tests.conftest import ROOT, make_repository, quick_protocol

BUDGET = 0.3

# Real training of a real, very small model. {top}, {middle} and {late} are where a case does what it does.
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

PEEK = """
honest = model
def model(tokens):
    following = mx.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
    return honest(tokens) + 3 * (following[..., None] == mx.arange(VOCAB_SIZE))
"""
AVERAGE = """
class Blind(Bigram):
    def __call__(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + x.mean(axis=1, keepdims=True))
model = Blind()
"""
FRAME = """
honest = model
def model(tokens):
    frame = sys._getframe()
    while "rows" not in frame.f_locals or frame.f_locals["rows"].shape[0] < 256:
        frame = frame.f_back
    known = {row[:40].tobytes(): row for row in frame.f_locals["rows"]}
    rows = np.array(tokens)
    whole = np.stack([known[row[:40].tobytes()] if row[:40].tobytes() in known else np.append(row, 0) for row in rows])
    return 12.0 * (mx.array(whole[:, 1:])[..., None] == mx.arange(VOCAB_SIZE))
"""
LEARNS = """
honest, fast, seen, batch_size = model, optim.AdamW(0.01), [], 4
def model(tokens):
    logits = honest(tokens)
    mx.eval(logits)
    seen.append(tokens)
    if len(seen) == 40:
        for old in seen:
            fast.update(honest, step(honest, old[:, :-1], old[:, 1:])[1])
            mx.eval(honest.state)
    return logits
"""
OTHER_DATA = """
import os, shutil, json, pathlib
old = pathlib.Path(os.environ["AUTORESEARCH_CACHE"])
new = pathlib.Path("mine")
shutil.copytree(old, new, ignore=shutil.ignore_patterns("val_*"), dirs_exist_ok=True)
folder = new / "snapshots" / (new / "current").read_text()
for path in folder.glob("train_*"):
    shutil.copy(path, path.with_name(path.name.replace("train", "val")))
os.environ["AUTORESEARCH_CACHE"] = str(new)
"""
OWN_NUMBER = "def evaluate_bpb(*_): return 1.0"
FIRST_VAL = "path = next(prepare.SNAPSHOT.directory.glob('val_*.tokens.npy'))\n"

# name -> (where, code, what the reason says)
CHEATS: Mapping[str, tuple[str, str, str]] = {
    "a metric printed by hand": ("late", "print('val_bpb: 1.0'); sys.exit(0)", "not computed by the harness"),
    "its own evaluation": ("late", OWN_NUMBER, "not computed by the harness"),
    "a better number than was computed": ("end", "val_bpb *= 0.9", "the harness computed"),
    "two metric lines": ("late", "print('val_bpb: 1.000000')", "different values of val_bpb"),
    "the log edited": ("end", "print('val_bpb: 1.0'); sys.stdout.flush(); os._exit(0)", "the harness computed"),
    "a model that sees the next token": ("late", PEEK, "depend on later tokens"),
    "a model that averages over the whole row": ("late", AVERAGE, "depend on later tokens"),
    "a model that looks into the evaluation": ("late", FRAME, "knows the validation text"),
    "a model that learns while evaluated": ("late", LEARNS, "learns while it is evaluated"),
    "the validation shard read": ("middle", FIRST_VAL + "np.load(path)", "opens the validation split"),
    "the validation loader": ("middle", "next(make_dataloader(tokenizer, 4, 64, 'val'))", "opens the validation split"),
    "the validation shard read by MLX": ("middle", FIRST_VAL + "mx.load(str(path))", "opens the validation split"),
    "the validation shard under another name": (
        "middle",
        FIRST_VAL + "os.link(path, prepare.CACHE_DIR / 'x.npy')",
        "opens the validation split",
    ),
    "the validation shard copied by a program": (
        "middle",
        FIRST_VAL + "import subprocess; subprocess.run(['cp', str(path), 'x.npy'])",
        "reads the validation split",
    ),
    "twice the time": ("late", "time.sleep(12)", "by the harness's clock"),
    "all the time after a few batches": (
        "middle",
        "TIME_BUDGET = 0; steps = 0; next(batches); next(batches); time.sleep(12)",
        "by the harness's clock",
    ),
    "a clock patched before the harness": (
        "top",
        "import time\nreal = time.monotonic\ntime.monotonic = lambda: real() / 3",
        "time.monotonic was replaced",
    ),
    "a clock patched later": (
        "middle",
        "ticks = iter(range(10**9)); time.perf_counter = lambda: next(ticks) / 1000",
        "time.perf_counter",
    ),
    "another budget": ("middle", "prepare.TIME_BUDGET = 20.0", "replaced prepare.TIME_BUDGET"),
    "the evaluation replaced": ("middle", "prepare.validation_rows = lambda *_: 0", "replaced prepare.validation_rows"),
    "the evaluation's code replaced": (
        "middle",
        "prepare._losses.__code__ = (lambda logits, block: np.ones(block.shape)).__code__",
        "replaced prepare._losses",
    ),
    "the logarithm replaced": (
        "middle",
        "real = mx.logsumexp\nmx.logsumexp = lambda *a, **k: real(*a, **k) - 1",
        "replaced mlx.core.logsumexp",
    ),
    "the witness silenced": ("middle", "import witness; witness.refuse = print", "replaced witness.refuse"),
    "fewer tokens": (
        "late",
        "object.__setattr__(prepare.SNAPSHOT, 'eval_tokens', 4096)",
        "on 4096 tokens instead of 65536",
    ),
    "other data": ("top", OTHER_DATA, "evaluated on other data"),
    "a forged attestation": ("late", "open(os.environ['AUTORESEARCH_ATTEST'], 'w').write('{}')", "attests the result"),
    "the harness rewritten": ("late", "open('prepare.py', 'a').write('# easier')", "the run changed prepare.py"),
    "a package in the harness's place": (
        "late",
        "os.mkdir('prepare'); open('prepare/__init__.py', 'w').write('')",
        "the run changed prepare,",
    ),
    "a module in a library's place": ("late", "open('numpy.py', 'w').write('')", "the run changed numpy.py"),
    "more training data": (
        "late",
        "np.save(prepare.SNAPSHOT.directory / 'train_00009.tokens.npy', np.zeros(9, np.uint16))",
        "the run changed train_00009.tokens.npy",
    ),
}
IN_EVERY_RUN = ("a metric printed by hand", "a model that sees the next token", "the validation loader", "fewer tokens")

HONEST: Mapping[str, tuple[str, str]] = {
    "as it is": ("top", ""),
    "prints a lot": ("middle", "for i in range(20000): print('step', i, 'loss', 3.0 / (i + 1))"),
    "carriage returns, colours and bytes": (
        "middle",
        "sys.stdout.buffer.write(b'\\r\\x1b[31m50%\\x1b[0m\\r\\xff\\xfe\\x00\\n')",
    ),
    "a slow start": ("top", "import time; time.sleep(3)"),
    "a slow first step": ("middle", "next(batches); time.sleep(12)"),
    "no training at all": ("middle", "TIME_BUDGET = -1"),
    "another architecture": (
        "middle",
        "class M(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.e, self.r, self.h = nn.Embedding(VOCAB_SIZE, 8), nn.GRU(8, 8), nn.Linear(8, VOCAB_SIZE)\n"
        "    def __call__(self, t): return self.h(self.r(self.e(t)))\n"
        "model = M(); step = nn.value_and_grad(model, loss_fn)",
    ),
    "a model of a thousand weights": ("middle", "model = Bigram(1); step = nn.value_and_grad(model, loss_fn)"),
    "a model that is no module": (
        "late",
        "bias = mx.zeros(VOCAB_SIZE)\nmodel = lambda t: mx.zeros((*t.shape, 1)) + bias",
    ),
    "its own optimizer": (
        "middle",
        "class Sgd:\n"
        "    state = {}\n"
        "    def update(self, model, gradients):\n"
        "        from mlx.utils import tree_map\n"
        "        model.update(tree_map(lambda p, g: p - 0.5 * g, model.parameters(), gradients))\n"
        "optimizer = Sgd()",
    ),
    "compiled": ("late", "model = mx.compile(model)"),
    "half precision": ("late", "model.set_dtype(mx.float16)"),
    "one row at a time": ("late", "batch_size = 1"),
    "all rows at once": ("late", "batch_size = 4096"),
    "evaluated twice": ("late", "print('before:', evaluate_bpb(model, tokenizer, 64))"),
    "the same line twice": ("end", "print(f'val_bpb:          {val_bpb:.6f}')"),
    "rounded": ("end", "print(f'val_bpb: {val_bpb:.4f}'); sys.exit()"),
    "MLX before the harness": ("top", "import mlx.core, mlx.nn, numpy, time, logging, dataclasses"),
    "logs from inside the model": (
        "middle",
        "import logging; logging.basicConfig(level=20, stream=sys.stdout)\n"
        "class M(Bigram):\n"
        "    def __call__(self, t):\n"
        "        logging.info('forward %s', t.shape)\n"
        "        return super().__call__(t)\n"
        "model = M(); step = nn.value_and_grad(model, loss_fn)",
    ),
    "another print": ("middle", "import builtins, functools; builtins.print = functools.partial(print, flush=True)"),
    "a checkpoint": ("late", "model.save_weights('last.safetensors'); np.savez('last.npz', loss=float(loss))"),
    "its own loader": (
        "middle",
        "tokens = np.load(next(prepare.SNAPSHOT.directory.glob('train_*.tokens.npy')), mmap_mode='r')\n"
        "def mine():\n"
        "    while True:\n"
        "        at = np.random.randint(0, len(tokens) - 300, 4)\n"
        "        block = np.stack([tokens[a : a + MAX_SEQ_LEN + 1] for a in at]).astype(np.int32)\n"
        "        yield block[:, :-1], block[:, 1:], 1\n"
        "batches = mine()",
    ),
    "a thread that works ahead": (
        "middle",
        "import queue, threading\n"
        "ahead, source = queue.Queue(4), batches\n"
        "threading.Thread(target=lambda: [ahead.put(b) for b in source], daemon=True).start()\n"
        "batches = iter(ahead.get, None)",
    ),
    "asks other programs": (
        "middle",
        "import subprocess, platform\n"
        "print(subprocess.run(['git', 'log', '-1'], capture_output=True).stdout, platform.platform())",
    ),
    "shorter rows in training": ("middle", "batches = make_dataloader(tokenizer, 16, 64, 'train')"),
    "ends by itself": ("end", "import atexit; atexit.register(print, 'bye')"),
}
ODD_IN_EVERY_RUN = ("as it is", "a checkpoint")


@pytest.fixture
def bench(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A workspace with the real harness and its own copy of the data."""
    shutil.copytree(embedded, tmp_path / "cache")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name in ("prepare.py", "witness.py", "blas.py"):
        shutil.copy(ROOT / name, folder)
    protocol = quick_protocol()
    protocol["meta"]["archetype"] = "ml_train"
    (folder / "protocol.json").write_text(json.dumps(protocol))
    (folder / "train.py").write_text("")
    make_repository(folder)
    rules = load(folder)
    return Bench(rules, Workspace(folder, rules), BUDGET)


def run(bench: Bench, where: str, code: str) -> Run:
    text = TRAIN
    for place in ("top", "middle", "late", "end"):
        text = text.replace(f"{{{place}}}", code if place == where else "")
    bench.workspace.place({"train.py": text})
    return measure(bench, bench.workspace.folder.parent / "logs" / "run-1.log", lambda _: None, lambda _: None)


def some(cases: Mapping[str, tuple[str, ...]], always: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(*case, id=name, marks=[] if name in always else pytest.mark.slow) for name, case in cases.items()
    ]


@pytest.mark.parametrize(("where", "code", "reason"), some(CHEATS, IN_EVERY_RUN))
def test_a_cheat_is_void(bench: Bench, where: str, code: str, reason: str) -> None:
    result = run(bench, where, code)
    assert result.metric is None and reason in (result.error or ""), Path(result.log).read_text()


@pytest.mark.parametrize(("where", "code"), some(HONEST, ODD_IN_EVERY_RUN))
def test_what_is_only_odd_counts(bench: Bench, where: str, code: str) -> None:
    result = run(bench, where, code)
    assert result.error is None and result.metric is not None, f"{result.error}\n{Path(result.log).read_text()[-2000:]}"
    assert 1 < result.metric < 5


def test_bytecode_that_a_run_left_is_not_taken(bench: Bench) -> None:
    honest = run(bench, "top", "")
    planted = (
        "import py_compile, shutil, importlib.util\n"
        "text = open('prepare.py').read().replace('bits = float(', 'bits = 0.5 * float(')\n"
        "stat = os.stat('prepare.py')\n"
        "open('easier.txt', 'w').write(text[: stat.st_size])\n"
        "os.utime('easier.txt', ns=(stat.st_atime_ns, stat.st_mtime_ns))\n"
        "py_compile.compile('easier.txt', importlib.util.cache_from_source('prepare.py'), 'prepare.py')"
    )
    run(bench, "late", planted)
    assert list(bench.workspace.folder.glob("__pycache__/prepare.*.pyc"))
    again = run(bench, "top", "")
    assert honest.metric is not None and again.metric is not None and again.metric > 0.8 * honest.metric


def test_no_run_starts_from_what_another_saved(bench: Bench) -> None:
    code = "print('found', os.path.exists('out/last.npz')); os.makedirs('out', exist_ok=True)\n"
    code += "model.save_weights('out/last.npz')"
    for _ in range(2):
        result = run(bench, "late", code)
        assert result.error is None and "found False" in Path(result.log).read_text()
    assert (Path(result.log).with_suffix(".saved") / "out" / "last.npz").is_file()
    assert not (bench.workspace.folder / "out" / "last.npz").exists()


def test_a_snapshot_that_is_not_what_was_prepared_ends_the_session(bench: Bench, tmp_path: Path) -> None:
    shard = next((tmp_path / "cache" / "snapshots").glob("*/train_*.tokens.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(PreconditionError, match=r"uv run prepare\.py"):
        run(bench, "top", "")


def test_a_run_that_overruns_its_budget_ends_before_its_evaluation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before the hard limit where it never comes to one. Whoever wants its log whole lets it go on."""
    monkeypatch.setattr(attest, "BUDGET_SECONDS", 1.0)
    steps = "for _ in range(1000):\n    next(batches); time.sleep(0.1)"
    ended = run(bench, "middle", steps)
    assert ended.metric is None and "void: it has trained for" in (ended.error or ""), ended
    assert ended.seconds < 30 and "val_bpb" not in Path(ended.log).read_text()
    late = run(bench, "late", "time.sleep(3)")
    assert "void: it has trained for" in (late.error or "") and "val_bpb" not in Path(late.log).read_text()
    whole = run(dataclasses.replace(bench, patient=True), "late", "time.sleep(3)")
    assert "void: it trained for" in (whole.error or "") and "val_bpb" in Path(whole.log).read_text()


def test_a_long_compilation_is_no_overrun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attest, "BUDGET_SECONDS", 1.0)
    result = run(bench, "middle", "next(batches); time.sleep(3); next(batches); time.sleep(0.01)")
    assert result.error is None and result.metric is not None
