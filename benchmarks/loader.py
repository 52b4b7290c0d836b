"""Compare our loader with the MLX port's, in tokens per second.

    uv run python -m benchmarks.loader --port DIR

Both read the same documents, in rows of 2,048 tokens and batches of 16. The port tokenizes while loading. Its own code
trains its tokenizer, in a temporary home folder, on shards written from the current snapshot.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.port import ROOT, commit_of
from harness.loader import offsets_path
from harness.prepared import current_snapshot
from harness.settings import CACHE_DIR as CACHE
from harness.tokenizer import Tokenizer

BATCHES = {"port": 20, "ours": 400}
PROBE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from prepare import Tokenizer, make_dataloader
batches = make_dataloader(Tokenizer.from_directory(), 16, 2048, "train")
next(batches)
count, begun = int(sys.argv[2]), time.perf_counter()
for _ in range(count):
    next(batches)
print(count * 16 * 2048 / (time.perf_counter() - begun))
"""
PREPARE = "import sys; sys.path.insert(0, sys.argv[1]); import prepare; prepare.train_tokenizer()"


def write_shards(folder: Path, held_out: int | None = 100) -> None:
    """Write the training documents of the current snapshot as the port's parquet shards: two, and one for validation.

    Args:
        folder: where to write them; created here.
        held_out: number of documents in the validation shard, None for all. They are also trained on, because no metric
            is measured with them.
    """
    folder.mkdir(parents=True)
    tokenizer, snapshot = Tokenizer.from_directory(), current_snapshot()
    path = next(snapshot.directory.glob("train_*.tokens.npy"))
    tokens, offsets = np.load(path, mmap_mode="r"), np.load(offsets_path(path))
    documents = [tokenizer.decode(tokens[a + 1 : b].tolist()) for a, b in itertools.pairwise(offsets)]
    for name, part in (("00000", documents[::2]), ("00001", documents[1::2]), ("06542", documents[:held_out])):
        pq.write_table(pa.table({"text": part}), folder / f"shard_{name}.parquet", row_group_size=1000)


def speed(folder: Path, batches: int, env: dict[str, str]) -> float:
    command = [sys.executable, "-c", PROBE, str(folder), str(batches)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our loader with the MLX port's.")
    parser.add_argument("--port", type=Path, required=True, help="a checkout of trevin-creator/autoresearch-mlx")
    port = parser.parse_args().port.resolve()
    with tempfile.TemporaryDirectory() as home:
        write_shards(Path(home) / ".cache" / "autoresearch" / "data")
        env = {**os.environ, "HOME": home}
        subprocess.run([sys.executable, "-c", PREPARE, str(port)], env=env, check=True, stdout=sys.stderr)
        theirs, ours = [], []
        for _ in range(3):
            theirs.append(speed(port, BATCHES["port"], {"HOME": home}))
            ours.append(speed(ROOT, BATCHES["ours"], {"AUTORESEARCH_CACHE": str(CACHE)}))
    print(f"tokens per second, best of 3, the port at {commit_of(port)}")
    print(f"port {max(theirs):13,.0f}\nours {max(ours):13,.0f}  {max(ours) / max(theirs):.0f} times")


if __name__ == "__main__":
    main()
