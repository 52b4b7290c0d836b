"""Recorded error texts, and the edit that answers them."""

from __future__ import annotations

import pytest

from agent.memory import ran_out, smaller_batch
from tests.conftest import ROOT

RECORDED = [
    "RuntimeError: [metal::malloc] Attempting to allocate 17179869184 bytes which is greater than the maximum allowed "
    "buffer size of 9534832640 bytes.",
    "RuntimeError: [malloc] Unable to allocate 137438953472 bytes.",
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution "
    "failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory",
    "Traceback (most recent call last):\nMemoryError",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "OSError: [Errno 12] Cannot allocate memory",
]


@pytest.mark.parametrize("text", RECORDED)
def test_recorded_texts_are_recognised(text: str) -> None:
    assert ran_out(1, f"step 1\n{text}\n")


def test_what_is_none() -> None:
    assert not ran_out(1, "ValueError: shapes do not fit\n")
    assert not ran_out(0, RECORDED[0])
    assert not ran_out(1, "peak memory 1.5 GB, all well\n")
    assert ran_out(-9, "") and ran_out(137, "") and not ran_out(-15, "")


@pytest.mark.parametrize("profile", ["cpu", "mac"])
def test_our_own_recipe_gets_a_smaller_device_batch_and_keeps_its_total(profile: str) -> None:
    text = (ROOT / "train.py").read_text()
    known = {"PROFILE": profile, "MAX_SEQ_LEN": 256 if profile == "cpu" else 2048, "VOCAB_SIZE": 1024}
    smaller = smaller_batch({"train.py": text}, known)
    assert smaller is not None
    texts, change = smaller
    assert change.startswith("DEVICE_BATCH_SIZE ")
    before, after = text.splitlines(), texts["train.py"].splitlines()
    assert [a.split(" = ")[0].strip() for a, b in zip(after, before, strict=True) if a != b] == ["DEVICE_BATCH_SIZE"]


def test_where_there_is_nothing_to_halve() -> None:
    assert smaller_batch({"t.py": "BATCH = 8\n"}, {}) is None
    assert smaller_batch({"t.py": "DEVICE_BATCH_SIZE = 1\n"}, {}) is None
    assert smaller_batch({"t.py": "DEVICE_BATCH_SIZE = 6\nassert DEVICE_BATCH_SIZE % 2 == 0\n"}, {}) is None
    assert smaller_batch({"t.py": "MICRO_BATCH = 6\n"}, {}) == ({"t.py": "MICRO_BATCH = 3\n"}, "MICRO_BATCH 6 -> 3")
