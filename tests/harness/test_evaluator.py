"""The evaluator of a run, with a real MLX model, honest or not."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from harness import evaluator, handover, settings
from harness.loader import pack_rows, validation_rows
from prepare import Tokenizer, evaluate_bpb, make_dataloader
from tests.common.bigram import Bigram, independent_bpb
from tests.common.caches import T, current
from tests.common.disks import small_disk
from tests.common.processes import gone
from tests.common.workspaces import ROOT

# isort: split
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten


@pytest.fixture
def beside(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Beside"]:
    """An evaluator started like the loop does; this process is the run that it serves."""
    with started(cache, tmp_path / "socket", tmp_path / "losses.npy") as found:
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        yield found


@contextmanager
def started(cache: Path, address: Path, losses: Path, limits: str = "true") -> Iterator["Beside"]:
    """Run an evaluator with the limits that a shell command sets."""
    env = {**os.environ, "AUTORESEARCH_CACHE": str(cache), "AUTORESEARCH_LOSSES": str(losses)}
    command = [sys.executable, str(ROOT / "harness" / "evaluator.py"), str(address)]
    command = ["bash", "-c", f'{limits} && exec "$@"', "bash", *command]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = Beside(address, process)
        assert found.event()["event"] == "ready"
        yield found
        process.stdin.close()
        process.wait(20)


@dataclass
class Beside:
    address: Path
    process: "subprocess.Popen[str]"

    def event(self) -> dict[str, Any]:
        """Return the next event."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def send(self, content: bytes) -> bytes:
        """Send bytes and return the answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            with handover.reachable(self.address) as name:
                line.connect(name)
            with suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(content)
                line.shutdown(socket.SHUT_WR)
                return line.recv(2**16)
            return b""


def test_a_run_has_one_evaluation(model: Bigram, tokenizer: Tokenizer, beside: Beside, tmp_path: Path) -> None:
    value = evaluate_bpb(model, tokenizer, 16)
    assert beside.event()["event"] == "handed_over"
    answer = beside.event()
    assert (answer["event"], answer["metric"], answer["eval_tokens"]) == ("answer", value, 65536)
    losses = np.load(tmp_path / "losses.npy")
    rows = validation_rows(current(settings.CACHE_DIR), T, 65536)
    lengths = tokenizer.token_bytes[rows[:, 1:]]
    assert losses.shape == lengths.shape
    assert losses[lengths > 0].sum() / lengths.sum() / np.log(2) == pytest.approx(value, abs=1e-5)
    with pytest.raises(ValueError, match="only one evaluation in a run"):
        evaluate_bpb(Bigram(), tokenizer, 16)


def test_a_metric_is_known_though_its_losses_cannot_be_saved(
    model: Bigram, tokenizer: Tokenizer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(cache, tmp_path / "socket", tmp_path / "missing" / "losses.npy") as found:
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        value = evaluate_bpb(model, tokenizer, 16)
        assert [found.event()["event"], found.event().get("metric")] == ["handed_over", value]


def test_a_model_on_a_full_disk_is_told_with_its_size(
    model: Bigram, tokenizer: Tokenizer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        small_disk(tmp_path / "disk", 2**16) as disk,
        started(cache, tmp_path / "socket", tmp_path / "losses.npy", f"export TMPDIR={disk}") as found,
    ):
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        with pytest.raises(handover.Refused, match="cannot store the model: No space left on device"):
            evaluate_bpb(model, tokenizer, 16)
        said = found.event()
    assert (said["event"], said["fault"], said["bytes"] > 2**16) == ("refused", "disk", True)


def test_a_model_that_no_disk_may_store_is_no_fault_of_one(
    model: Bigram, tokenizer: Tokenizer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(cache, tmp_path / "socket", tmp_path / "losses.npy", "ulimit -f 100") as found:  # kB
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        with pytest.raises(handover.Refused, match="cannot store the model: File too large"):
            evaluate_bpb(model, tokenizer, 16)
        said = found.event()
    assert (said["event"], "fault" in said) == ("refused", False)


def test_a_run_has_the_training_text_when_it_asks_for_it(tokenizer: Tokenizer, beside: Beside) -> None:
    expected = list(islice(pack_rows(current(settings.CACHE_DIR), "train", T + 1, seed=3), 8))
    batches = make_dataloader(tokenizer, 8, T, "train", 3)
    inputs, targets, _ = next(batches)
    batches.close()
    assert beside.event()["event"] == "clock"
    for row, (whole, _) in enumerate(expected):
        assert (np.append(inputs[row], targets[row, -1]) == whole).all()


def test_a_run_does_not_see_the_validation_text(tokenizer: Tokenizer, beside: Beside) -> None:
    with pytest.raises(ValueError, match="for the evaluator alone"):
        make_dataloader(tokenizer, 8, T, "val")
    with pytest.raises(handover.Refused, match="for the evaluator alone"):
        handover.ask(beside.address, {"ask": "rows"})


def test_a_model_made_with_the_validation_text_is_refused(
    model: Bigram, tokenizer: Tokenizer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = "export AUTORESEARCH_ALLOW_UNTRACED=1"
    with started(cache, tmp_path / "socket", tmp_path / "losses.npy", allowed) as found:
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        _, files = handover.ask(found.address, {"ask": "rows"})
        for file in files:
            os.close(file)
        assert files
        with pytest.raises(handover.Refused, match="was given the validation text before"):
            evaluate_bpb(model, tokenizer, 16)
        assert [found.event()["event"] for _ in range(3)] == ["untraced", "handed_over", "refused"]


GARBAGE = [
    b"",
    b"\n",
    b"\x00" * 100,
    b"x" * 200_000,
    b"[" * 60_000 + b"\n",
    b"null\n",
    b"[1, 2]\n",
    b'{"ask": {}}\n',
    b'{"ask": "nothing"}\n',
    b'{"ask": "model", "bytes": "many"}\n',
    b'{"ask": "model", "bytes": -1}\n',
    b'{"ask": "model", "bytes": 1e400}\n',
    b'{"ask": "model", "bytes": 1' + b"0" * 400 + b"}\n",
    b'{"ask": "model", "bytes": 100000, "rows": 16}\nthe beginning of a model',
    b'{"ask": "train", "from": "the start"}\n',
    b'{"ask": "train", "from": -1}\n',
]


def test_no_request_keeps_the_evaluator_from_its_work(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    for content in GARBAGE:
        answer = beside.send(content)
        assert b"metric" not in answer
        assert len(answer) < 1000
    silent = []
    for _ in range(20):
        line = socket.socket(socket.AF_UNIX)
        with handover.reachable(beside.address) as name:
            line.connect(name)
        silent.append(line)
    assert 2 < evaluate_bpb(model, tokenizer, 16) < 12
    for line in silent:
        line.close()


def test_clients_that_take_all_open_files_keep_no_later_one_from_its_answer(
    model: Bigram, tokenizer: Tokenizer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(cache, tmp_path / "socket", tmp_path / "losses.npy", "ulimit -n 40") as found:
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(found.address))
        lines = []
        for _ in range(60):
            line = socket.socket(socket.AF_UNIX)
            with handover.reachable(found.address) as name:
                line.connect(name)
            lines.append(line)
        taken = f"/proc/{found.process.pid}/fd" if sys.platform == "linux" else ""
        while taken and len([*Path(taken).iterdir()]) < 40:
            os.sched_yield()
        for line in lines:
            line.close()
        assert 2 < evaluate_bpb(model, tokenizer, 16) < 12


def test_a_run_that_dies_while_it_hands_over_has_no_metric(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    dies = (
        "import json, os, pathlib, signal, socket, sys\n"
        "line = socket.socket(socket.AF_UNIX)\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "line.connect('socket')\n"
        "line.sendall(json.dumps({'ask': 'model', 'rows': 16, 'bytes': 1000000}).encode() + b'\\n' + bytes(5000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", dies, str(beside.address)], check=False)
    assert done.returncode == -9
    # Nothing was handed over, so the one evaluation is still available.
    assert 2 < evaluate_bpb(model, tokenizer, 16) < 12
    assert [beside.event()["event"] for _ in range(2)] == ["handed_over", "answer"]


@pytest.mark.parametrize(
    ("request_", "content", "words"),
    [
        ({"rows": 16}, b"no graph at all", "not a readable graph"),
        ({"rows": 16}, b"", "not a readable graph"),
        ({"rows": 0}, b"x", "rows, got 0"),
        ({"rows": 10**9}, b"x", "rows, got 1000000000"),
        ({"rows": "all"}, b"x", "cannot be evaluated"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(
    beside: Beside, tmp_path: Path, request_: dict[str, Any], content: bytes, words: str
) -> None:
    (tmp_path / "graph").write_bytes(content)
    with pytest.raises(handover.Refused, match=words):
        handover.ask(beside.address, {"ask": "model", **request_}, tmp_path / "graph")
    assert beside.event()["event"] == "handed_over"
    refused = beside.event()
    assert refused["event"] == "refused"
    assert words in refused["reason"]


def test_an_evaluator_that_is_gone_is_a_sentence(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    beside.process.kill()
    beside.process.wait()
    with pytest.raises(ValueError, match="the evaluator does not answer"):
        evaluate_bpb(model, tokenizer, 16)


@pytest.mark.parametrize("which", ["every", "first", "last"])
def test_a_process_that_dies_before_it_has_a_model_is_replaced(
    model: Bigram, tokenizer: Tokenizer, beside: Beside, which: str
) -> None:
    """The system ended it for want of memory, for example. The model had no part in that."""
    own = psutil.Process(beside.process.pid)
    deadline = time.monotonic() + 20
    while len(workers := own.children()) <= evaluator.processes() and time.monotonic() < deadline:
        beside.send(b"")
    chosen = {"every": workers, "first": workers[:1], "last": workers[-1:]}[which]
    for each in chosen:
        each.kill()
    while not all(gone(each.pid) for each in chosen) and time.monotonic() < deadline:
        beside.send(b"")
    assert evaluate_bpb(model, tokenizer, 16) > 0
    assert [beside.event()["event"] for _ in range(2)] == ["handed_over", "answer"]


# Honest models


def tied(_: Bigram) -> Callable[[mx.array], mx.array]:
    """Use the embedding table as the head; the separate head stays, unused."""

    class Tied(Bigram):
        def __call__(self, tokens: mx.array) -> mx.array:
            embedded = self.embedding(tokens)
            count = mx.arange(1, tokens.shape[1] + 1)[:, None]
            logits: mx.array = self.embedding.as_linear(embedded + mx.cumsum(embedded, axis=1) / count)
            return logits

    return Tied()


def averaged(model: Bigram) -> Callable[[mx.array], mx.array]:
    """Average weights, lazily: they are not evaluated."""
    other = Bigram()
    both = zip(tree_flatten(model.parameters()), tree_flatten(other.parameters()), strict=True)
    model.update(tree_unflatten([(name, 0.5 * a + 0.5 * b) for (name, a), (_, b) in both]))
    return model


def compiled(model: Bigram) -> Callable[[mx.array], mx.array]:
    return mx.compile(model.__call__)


def shifted(model: Bigram) -> Callable[[mx.array], mx.array]:
    return lambda tokens: model(tokens) + 40.0


@pytest.mark.slow
@pytest.mark.parametrize("make", [tied, averaged, compiled, shifted])
def test_unusual_models_have_a_metric(make: Any, model: Bigram, tokenizer: Tokenizer) -> None:
    expected = independent_bpb(Bigram(), tokenizer)
    assert evaluate_bpb(make(model), tokenizer, 16) == pytest.approx(expected, rel=0.6)


def test_a_model_is_put_into_the_mode_for_evaluation(tokenizer: Tokenizer) -> None:
    class Dropping(Bigram):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def __call__(self, tokens: mx.array) -> mx.array:
            dropped: mx.array = self.dropout(super().__call__(tokens))
            return dropped

    mx.random.seed(0)
    plain = Bigram()
    mx.random.seed(0)
    assert evaluate_bpb(Dropping(), tokenizer, 16) == pytest.approx(evaluate_bpb(plain, tokenizer, 16), abs=1e-9)


# Models that try to fake their metric


def peeking(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        following = mx.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
        return model(tokens) + 20 * (following[..., None] == mx.arange(1024))

    return cheat


def prefix_language_model(model: Bigram) -> Callable[[mx.array], mx.array]:
    """Let each position see a mean over the whole row instead of over earlier positions."""

    def cheat(tokens: mx.array) -> mx.array:
        counts = (tokens[:, :, None] == mx.arange(1024)).astype(mx.float32).sum(axis=1, keepdims=True)
        return model(tokens) + mx.log(1 + counts)

    return cheat


def peeking_at_other_rows(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        counts = (tokens[:, :, None] == mx.arange(1024)).astype(mx.float32).sum(axis=(0, 1))
        return model(tokens) + mx.log(1 + counts)

    return cheat


def random_logits(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        seed = tokens.sum()
        noise = mx.random.normal((*tokens.shape, 1024), key=mx.random.key(0) + seed.astype(mx.uint32))
        return model(tokens) + noise

    return cheat


@pytest.mark.parametrize("make", [peeking, prefix_language_model, peeking_at_other_rows, random_logits])
def test_a_model_that_sees_what_it_should_predict_is_refused(make: Any, model: Bigram, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="depend on later tokens"):
        evaluate_bpb(make(model), tokenizer, 16)


def test_adding_to_all_logits_gains_nothing(model: Bigram, tokenizer: Tokenizer) -> None:
    """At 1e8, float32 cannot represent the differences: all tokens are equally likely, which costs bits."""
    uniform = evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1024)), tokenizer, 16)
    assert evaluate_bpb(lambda tokens: model(tokens) + 1e8, tokenizer, 16) > 0.8 * uniform


def test_logits_that_are_no_numbers_are_no_metric(model: Bigram, tokenizer: Tokenizer) -> None:
    assert not np.isfinite(evaluate_bpb(lambda tokens: model(tokens) * mx.array(np.nan), tokenizer, 16))


def test_a_model_that_reads_a_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    mx.save(str(tmp_path / "table.npy"), mx.zeros((1024,)))

    def reading(tokens: mx.array) -> Any:
        table: Any = mx.load(str(tmp_path / "table.npy"))
        return mx.zeros((*tokens.shape, 1024)) + table

    with pytest.raises(ValueError, match=r"cannot be traced.*Load"):
        evaluate_bpb(reading, tokenizer, 16)


def test_evaluator_imports_nothing_of_its_copy_but_the_harness(cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("numpy.py", "json.py", "prepare.py", "harness.py", "mlx.py"):
        (copy / name).write_text("raise SystemExit('imported')\n")
    command = [sys.executable, "harness/evaluator.py", str(tmp_path / "socket")]
    env = {**os.environ, "AUTORESEARCH_CACHE": str(cache)}
    (tmp_path / "graph").write_bytes(b"no graph at all")
    with subprocess.Popen(
        command, cwd=copy, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert Beside(tmp_path / "socket", process).event()["event"] == "ready"
        with pytest.raises(handover.Refused, match="not a readable graph"):
            handover.ask(tmp_path / "socket", {"ask": "model", "rows": 16}, tmp_path / "graph")
        process.stdin.close()


def test_a_quota_limits_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has all cores of its machine, but the time of a few."""
    if evaluator.processes() == 2 and (sys.platform == "darwin" or Path("/dev/nvidia0").exists()):
        pytest.skip("with a GPU there are always two processes, whatever the quota: run this test without one")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p: "300000 100000\n" if p.name == "cpu.max" else real(p))
    assert evaluator.processes() == 3
