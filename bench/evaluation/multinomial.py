"""Sums over users drawn with replacement, exactly multinomial, from a stream of words that is ours.

How often each value is drawn in a resample of n users is multinomial. NumPy's own sampler is not used:
its stream is another one in another version, and a stored interval must come out again. Two known facts
make a resample cost about as much as there are distinct values, however many users share them:

- Independent Poisson counts with rates proportional to the shares are multinomial, given their sum.
- More users, drawn one by one, make a multinomial count of m users one of n users.

If one value is frequent enough, all others get Poisson counts, and it gets what is missing to n: accepted
with the chance that a Poisson count of its own would be just that (relative to the most likely count),
this is the conditional distribution. It happens in about sqrt(share of the value) of the attempts. Else
all get Poisson counts of a rate that is three standard deviations short, and the missing users are drawn
one by one.

Poisson counts are read from tables of cumulative probabilities. Everything is made of integer words,
single products and sums in a stated order, so NumPy's version and the processor change no bit.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.mixing import hash64, words

__all__ = ["resampled_sums", "stream"]

# Users that are drawn one by one, per block.
_BLOCK = 1 << 18
# Cells of a guide to a table of probabilities.
_CELLS = 4096


def stream(purpose: bytes, seed: int) -> int:
    """The stream of words of one purpose and seed; streams of other purposes are independent."""
    return hash64(b"weavebench.evaluation.v1", purpose, b"%d" % seed)


def resampled_sums(
    values: NDArray[np.float64], counts: NDArray[np.int64], n_resamples: int, key: int
) -> NDArray[np.float64]:
    """Sums of values over as many users as there are, drawn with replacement.

    Args:
        values: float64, shape ``(d,)``, d >= 2, distinct.
        counts: int64, shape ``(d,)``, users per value, >= 1, most frequent first.
        n_resamples: number of resamples, >= 1.
        key: stream of words, see :func:`bench.mixing.words`.

    Returns:
        float64, shape ``(n_resamples,)``.
    """
    n, d = int(counts.sum()), len(values)
    # What each way costs, in Poisson counts; a user that is drawn alone costs about a third of one.
    attempts = d * math.sqrt(n / int(counts[0]))
    sample = _completed if attempts <= d + math.sqrt(n) else _filled
    return sample(values, counts, n_resamples, key)


def _completed(
    values: NDArray[np.float64], counts: NDArray[np.int64], n_resamples: int, key: int
) -> NDArray[np.float64]:
    """Poisson counts for all values but the first, which gets the rest if it is accepted."""
    n, d = int(counts.sum()), len(values)
    others = [_Poisson(float(count)) for count in counts[1:]]
    lowest, chances = _poisson(float(counts[0]))
    sums = np.empty(n_resamples)
    waiting = np.arange(n_resamples, dtype=np.int64)
    attempt = 0
    while len(waiting):
        # Attempts of the last resamples are made together; the first one that is accepted counts.
        n_attempts = max(1, 512 // len(waiting))
        attempts = np.arange(attempt, attempt + n_attempts)[:, None]

        def uniform(i: int, attempts: NDArray[np.int64] = attempts) -> NDArray[np.float64]:
            if attempts[-1] == 0:
                return _first_uniform(key, i, n_resamples)
            return _uniform(key, (attempts * d + i << 32) + waiting).ravel()  # noqa: B023

        rest = np.full(attempts.size * len(waiting), n, dtype=np.int64)
        total = np.zeros(len(rest))
        for i, other in enumerate(others, start=1):
            drawn = other.draw(uniform(i))
            rest -= drawn
            total += drawn * values[i]
        total += rest * values[0]
        place = rest - lowest
        chance = chances.take(place, mode="clip")
        chance[(place < 0) | (place >= len(chances))] = 0.0
        accepted = (uniform(0) < chance).reshape(n_attempts, -1)
        done = np.flatnonzero(accepted.any(axis=0))
        sums[waiting[done]] = total.reshape(n_attempts, -1)[accepted.argmax(axis=0)[done], done]
        waiting = np.delete(waiting, done)
        attempt += n_attempts
    return sums


def _filled(
    values: NDArray[np.float64], counts: NDArray[np.int64], n_resamples: int, key: int
) -> NDArray[np.float64]:
    """Poisson counts for too few users, and the missing ones drawn one by one."""
    n, d = int(counts.sum()), len(values)
    share = max(0.0, (n - 3.0 * math.sqrt(n)) / n)
    rest = np.full(n_resamples, n, dtype=np.int64)
    sums = np.zeros(n_resamples)
    if share:
        table = lru_cache(maxsize=None)(_Poisson)
        for i in range(d):
            drawn = table(float(counts[i]) * share).draw(_first_uniform(key, i, n_resamples))
            rest -= drawn
            sums += drawn * values[i]
        # One resample in a thousand has too many: all of its users are drawn one by one.
        sums[rest < 0] = 0.0
        rest[rest < 0] = n
    of_user = np.repeat(values, counts)
    ends = np.cumsum(rest)
    first, start = 0, d << 32
    while first < n_resamples:
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        sizes = rest[first:last]
        numbers = np.arange(start + done, start + done + int(sizes.sum()))
        # The product is below n for every 53-bit number below 1.
        user = (_uniform(key, numbers) * n).astype(np.int64)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        sums[first:last] += np.bincount(owner, weights=of_user[user], minlength=len(sizes))
        first = last
    return sums


@lru_cache(maxsize=128)
def _first_uniform(key: int, number: int, n_resamples: int) -> NDArray[np.float64]:
    """Draw ``number`` of all resamples; metrics share it, as they share their seed."""
    drawn = _uniform(key, (number << 32) + np.arange(n_resamples, dtype=np.int64))
    drawn.setflags(write=False)
    return drawn


def _uniform(key: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """The upper 53 bits of words, as multiples of 2**-53 in [0, 1)."""
    return (words(key, numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class _Poisson:
    """Poisson counts of one rate, by inversion of their cumulative probabilities."""

    def __init__(self, rate: float) -> None:
        self._lowest, chances = _poisson(rate)
        cumulative = np.cumsum(chances)
        self._bounds = cumulative[:-1] / cumulative[-1]
        # How many bounds lie at or below every cell's start: most draws need no search.
        self._guide = np.searchsorted(self._bounds, np.arange(_CELLS + 1) / _CELLS, side="right")

    def draw(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One count for every number in [0, 1), int64."""
        cell = (uniform * _CELLS).astype(np.int64)
        place = self._guide[cell]
        unsure = np.flatnonzero(place != self._guide[cell + 1])
        place[unsure] = np.searchsorted(self._bounds, uniform[unsure], side="right")
        return place + self._lowest


def _poisson(rate: float) -> tuple[int, NDArray[np.float64]]:
    """The counts that occur, from the first, and their chances relative to the most likely one.

    Counts further than ten standard deviations and 30 from the rate have a chance below 1e-20.
    """
    mode, span = int(rate), int(10.0 * math.sqrt(rate)) + 30
    lowest = max(0, mode - span)
    below = np.arange(mode, lowest, -1) / rate
    above = rate / np.arange(mode + 1.0, mode + span + 1.0)
    return lowest, np.concatenate([np.cumprod(below)[::-1], [1.0], np.cumprod(above)])
