"""Check sieve.py against known counts, time it, and print one JSON object. The loop never edits this harness."""

import argparse
import json
import time

from sieve import count_primes

KNOWN = {0: 0, 3: 1, 100: 25, 1_000: 168, 99_991: 9_591, 200_000: 17_984}
BOUND = 200_000
REPEATS = 5


def main() -> None:
    for bound, count in KNOWN.items():
        found = count_primes(bound)
        if found != count:
            raise SystemExit(f"wrong count: expected {count} primes below {bound}, got {found}")
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        count_primes(BOUND)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"numbers_per_second": round(BOUND / min(seconds)), "repeats": REPEATS}))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
