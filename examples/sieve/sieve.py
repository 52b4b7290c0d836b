"""Count the primes below a bound with a segmented sieve. The loop edits this file; bench.py times and checks it."""

from math import isqrt

SEGMENT = 512  # search: 256..1048576 log; numbers per segment: small ones fit the cache, large ones loop less
SKIP_EVENS = False  # sieve odd numbers only
SLICES = False  # cross out with one slice assignment instead of a Python loop


def count_primes(bound: int) -> int:
    """Return the number of primes below `bound`."""
    if bound <= 2:
        return 0
    step = 2 if SKIP_EVENS else 1
    small = _small_primes(isqrt(bound - 1))
    count = 1 if SKIP_EVENS else 0
    start = 3 if SKIP_EVENS else 2
    for low in range(start, bound, SEGMENT * step):
        high = min(low + SEGMENT * step, bound)
        size = (high - low + step - 1) // step
        flags = bytearray(b"\x01") * size
        for prime in small:
            if prime * prime >= high:
                break
            if SKIP_EVENS and prime == 2:
                continue
            first = max(prime * prime, (low + prime - 1) // prime * prime)
            if SKIP_EVENS and first % 2 == 0:
                first += prime
            index = (first - low) // step
            if SLICES:
                if index < size:
                    flags[index::prime] = bytes((size - 1 - index) // prime + 1)
            else:
                for position in range(index, size, prime):
                    flags[position] = 0
        count += sum(flags)
    return count


def _small_primes(bound: int) -> list[int]:
    flags = bytearray(b"\x01") * (bound + 1)
    primes = []
    for number in range(2, bound + 1):
        if flags[number]:
            primes.append(number)
            flags[number * number :: number] = bytes(len(range(number * number, bound + 1, number)))
    return primes
