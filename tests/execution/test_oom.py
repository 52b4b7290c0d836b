"""Recorded out-of-memory messages, and the edit that halves the batch."""

from __future__ import annotations

import pytest

from agent.execution.oom import ran_out, smaller_batch
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

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
    "RuntimeError: MPS backend out of memory (MPS allocated: 17.87 GB, other allocations: 384.00 KB, max: 18 GB).",
    "RuntimeError: Invalid buffer size: 58.48 GiB",
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 29.8 GiB for an array with shape (4000000000,) and "
    "data type float64",
    "numpy.core._exceptions.MemoryError: Unable to allocate 29.8 GiB for an array",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "RuntimeError: cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "RuntimeError: cuFFT error: CUFFT_ALLOC_FAILED",
    "RuntimeError: HIP error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "RuntimeError: Triton Error [CUDA]: out of memory",
    "RuntimeError: Triton Error [HIP]: out of memory",
    "RuntimeError: CUDA driver error: out of memory",
    "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "torch.AcceleratorError: CUDA error: out of memory",
    "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB.",
    "RuntimeError: XPU out of memory. Tried to allocate 2.00 GiB",
    "RuntimeError: Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "cuda.bindings.driver.CUDAError: CUDA_ERROR_OUT_OF_MEMORY",
    "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.",
    "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB (2147483648B) on "
    "device ordinal 0",
    "XlaRuntimeError: RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm.",
    "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[64,1024]",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you tried to "
    "allocate 68719476736 bytes.",
    "RuntimeError: [enforce fail at CPUAllocator.cpp:76] data. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 68719476736 bytes. Error code 12",
    "terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA out of memory. Tried to allocate",
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: out of memory",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  exitcode  : -9 (pid: 4711)",
    "memory allocation of 68719476736 bytes failed",
    "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
    "polars.exceptions.ComputeError: out of memory",
]


@pytest.mark.parametrize("text", RECORDED)
def test_recorded_texts_are_recognised(text: str) -> None:
    assert ran_out(1, f"step 1\n{text}\n")


def test_other_failures_are_not_out_of_memory() -> None:
    assert not ran_out(1, "ValueError: shapes do not fit\n")
    assert not ran_out(0, RECORDED[0])
    for text in (
        "peak memory 1.5 GB, all well",
        "a batch of 64 would be out of memory here, so 32 it is",
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 147456, limit: 101376",
        "grpc._channel._InactiveRpcError: StatusCode.RESOURCE_EXHAUSTED: quota of requests",
        "KeyError: 'memory'",
        "RuntimeError: CUDA error: device-side assert triggered",
        "[METAL] Command buffer execution failed: Caused GPU Timeout Error (kIOGPUCommandBufferCallbackErrorTimeout)",
    ):
        assert not ran_out(1, f"{text}\n"), text
    assert ran_out(-9, "")
    assert ran_out(137, "")
    assert not ran_out(-15, "")


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


def test_no_batch_to_halve_is_reported() -> None:
    assert smaller_batch({"t.py": "BATCH = 8\n"}, {}) is None
    assert smaller_batch({"t.py": "DEVICE_BATCH_SIZE = 1\n"}, {}) is None
    assert smaller_batch({"t.py": "DEVICE_BATCH_SIZE = 6\nassert DEVICE_BATCH_SIZE % 2 == 0\n"}, {}) is None
    assert smaller_batch({"t.py": "MICRO_BATCH = 6\n"}, {}) == ({"t.py": "MICRO_BATCH = 3\n"}, "MICRO_BATCH 6 -> 3")
