"""The fast BLAS serves MLX's products and gives the same numbers; its absence is never a failure."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from harness import blas

ROOT = Path(__file__).parents[2]
PROBE = """
import json, sys, time
from harness import blas
served = blas.load() if sys.argv[1] == "with" else None
import mlx.core as mx
import numpy as np
a, b = (np.random.default_rng(seed).normal(size=(512, 512)).astype(np.float32) for seed in (1, 2))
x, y = mx.array(a), mx.array(b)
seconds = []
for _ in range(24):
    begun = time.process_time()  # other load does not count
    product = x @ y
    mx.eval(product)
    seconds.append(time.process_time() - begun)
error = float(np.abs(np.array(product) - a @ b).max() / np.abs(a @ b).max())
print(json.dumps({"served": served, "again": blas.load() if served else None, "error": error, "seconds": min(seconds)}))
"""

linux_cpu = pytest.mark.skipif(
    sys.platform != "linux" or "mlx-cpu" not in {found.name for found in metadata.distributions()},
    reason="only MLX's Linux CPU build needs another BLAS",
)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


@linux_cpu
def test_products_are_equal_and_much_faster() -> None:
    without, fast = json.loads(run(PROBE, "without").stdout), json.loads(run(PROBE, "with").stdout)
    assert without["error"] < 1e-3
    assert fast["error"] < 1e-3
    assert fast["served"] is not None
    assert fast["served"] == fast["again"]
    assert without["seconds"] / fast["seconds"] > 3


@linux_cpu
def test_too_late_is_said() -> None:
    late = run("import mlx.core; from harness import blas; print(blas.load())")
    assert late.stdout.strip() == "None"
    assert "OpenBLAS was not loaded" in late.stderr
    assert late.stderr.count("\n") == 1


def test_nothing_happens_off_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.load.__wrapped__() is None


@linux_cpu
@pytest.mark.parametrize(
    "broken",
    [
        "blas.WHEEL = blas.SYSTEM_LIBRARY = 'not-installed'",
        "blas.shutil.which = lambda *_, **__: None",
        "blas.shutil.which = lambda *_, **__: '/bin/false'",
        "blas.metadata.files = lambda _: None",
        "blas.metadata.version = lambda name: (_ for _ in ()).throw(blas.metadata.PackageNotFoundError(name))",
    ],
    ids=["no-wheel", "no-patchelf", "patchelf-fails", "no-record", "no-mlx-cpu"],
)
def test_a_missing_piece_is_silent(broken: str) -> None:
    done = run(
        f"from harness import blas\n{broken}\nprint(blas.load())\n"
        "import mlx.core as mx\nprint((mx.ones(2) * 2).sum().item())"
    )
    assert done.stdout.split() == ["None", "4.0"]
    assert done.stderr == ""


@linux_cpu
def test_numpy_keeps_its_own_blas() -> None:
    code = """
from harness import blas
assert blas.load()
import numpy as np
a = np.random.default_rng(0).normal(size=(300, 300))
q, r = np.linalg.qr(a)
u, s, v = np.linalg.svd(a)
print(max(np.abs(q @ r - a).max(), np.abs(u * s @ v - a).max()) < 1e-10)
"""
    assert run(code).stdout.strip() == "True"
