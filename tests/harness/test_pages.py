"""Memory that stays with the process."""

import json
import subprocess
import sys

import pytest

from harness import pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc is on Linux only")
PROGRAM = """
import json, resource, sys
from harness import pages
kept = sys.argv[1] == "kept" and pages.keep()
import mlx.core as mx

def compute():
    mx.eval(mx.ones((1 << 24,)))  # 64 MB

for _ in range(3):
    compute()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    compute()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([kept, faults, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def run(how: str) -> tuple[bool, int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    kept, faults, kilobytes = json.loads(done.stdout)
    return kept, faults, kilobytes


def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    kept, faults, kilobytes = run("kept")
    _, faults_without, kilobytes_without = run("as it is")
    assert kept
    assert faults < 200 < 10_000 < faults_without
    assert kilobytes < kilobytes_without + 100_000, "what is reserved is not taken"


def test_nothing_happens_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not pages.keep()
