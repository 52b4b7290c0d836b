"""The device's memory and speed. The limits are Metal's: here they are set on the device at hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def probe(code: str) -> Any:
    """Return what `code` assigns to `result`, in a process of its own, whose limits end with it."""
    code = f"import json\nimport mlx.core as mx\nfrom harness import device\n{code}\nprint(json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_limits_follow_the_peak_and_what_is_usable() -> None:
    code = """
mx.eval(mx.ones((1000, 1000)))
peak = mx.get_peak_memory()
device.limit_memory(10 * peak)
result = [peak, mx.set_memory_limit(1), mx.set_cache_limit(0)]
"""
    peak, memory, cache = probe(code)
    assert peak >= 4_000_000
    assert (memory, cache) == (10 * peak, peak)


def test_cache_and_peak_fit_into_what_is_usable() -> None:
    code = """
mx.eval(mx.ones((1000, 1000)))
peak = mx.get_peak_memory()
device.limit_memory(peak + 1000)
result = mx.set_cache_limit(0)
"""
    assert probe(code) == 1000


def test_step_that_takes_more_than_is_usable_is_out_of_memory() -> None:
    code = """
mx.eval(mx.ones((1000, 1000)))
try:
    device.limit_memory(2**20)
except MemoryError as error:
    result = str(error)
"""
    assert probe(code) == "a step takes 4 MB, the GPU may use 1 MB"


def test_limits_stay_where_nothing_is_recommended() -> None:
    before, after = probe(
        "x = mx.set_memory_limit(2**30)\ndevice.limit_memory(0)\nresult = [2**30, mx.set_memory_limit(x)]"
    )
    assert before == after


def test_speed_is_that_of_the_device() -> None:
    assert probe("result = device.peak_flops(mx.float32, 256, 2)") > 1e8
