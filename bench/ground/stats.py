"""Shares with their uncertainty: over images, over seeds and both; paired tests, and their correction for many.

scipy.special holds the distributions; scipy.stats has ready-made tests too, but takes most of a second to
load, and a report needs a few lines of it. docs/statistics.md measures how often intervals and tests are right.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, hypot, log, prod, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv, ndtri, stdtrit

LEVEL = 0.95
LEAST_P = 1e-12  # below it a p is not told apart from 0
RESAMPLES = 2000  # of a bootstrap: the ends of an interval then move by a few hundredths of its width


class Share(NamedTuple):
    """n: images. value, low, high: shares in [0, 1]."""

    n: int
    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two networks or methods on the same images: first - second in [-1, 1], and the p of "equally robust"."""

    value: float
    low: float
    high: float
    p: float


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval (low, high) of a binomial share, Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    successes and n may be fractional (a mean over seeds; an effective size). Raises ValueError.
    """
    if not 0 <= successes <= n or n < 1 or not 0 < level < 1:
        raise ValueError(f"no share: {successes} of {n} at level {level}")
    z, p = float(ndtri((1 + level) / 2)), successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at p = 0 and p = 1 the ends are exact, and rounding must not push them out
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def clopper_pearson(found: int, n: int, level: float = LEVEL) -> float:
    """Upper end of the one-sided interval of a binomial share of which `found` of n were seen: with any share above it
    so few are seen with a chance of 1 - level at most. Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    Also where n are drawn from a finite lot without putting back, which only narrows what is seen. Raises ValueError.
    """
    if not 0 <= found <= n or n < 1 or not 0 < level < 1:
        raise ValueError(f"no share: {found} of {n} at level {level}")
    return 1.0 if found == n else float(betaincinv(found + 1, n - found, level))


def _effective_size(robust: NDArray[np.bool_]) -> float:
    """robust [n, k] bool, k columns on the same n images -> how many binomial draws know as much of the mean of all.

    n times p (1 - p) over the variance of the images' own means: n where the columns agree, up to k n where they know
    nothing of each other, and no more than that. Wilson's interval with such a size is recommended by Franco et al.
    2019, https://pmc.ncbi.nlm.nih.gov/articles/PMC6690503.
    """
    n, columns = robust.shape
    binomial = float(robust.mean() * (1 - robust.mean()))
    ratio = float(robust.mean(1).var()) / binomial if binomial else 1.0  # all alike: nothing is known of the columns
    return n / min(1.0, max(ratio, 1 / columns))


def over_seeds(robust: ArrayLike, level: float = LEVEL) -> tuple[Share, float | None]:
    """robust [S, n] bool, S networks on the same n images -> mean share, and spread (None for one seed).

    robust [S, n, k] is the plain mean of k columns: an image then has a share of its own.

    The spread is the sample standard deviation (S - 1) of the S shares. The interval is for new seeds and
    new images. Variance of the mean = spread^2 / S + (variance over images of the mean over seeds) / n, the
    two-way crossed random effects model, see Owen 2007, https://doi.org/10.1214/07-AOAS122; the part of a
    seed with an image is counted twice, so on average it is a little too large. Each part has a t of its own, see
    `_half_width`. The interval is widened to the Wilson interval of the mean, which stays honest near 0 and 1.
    """
    flags: NDArray[np.bool_] = np.atleast_2d(np.asarray(robust, dtype=bool))
    flags = flags.reshape(*flags.shape[:2], -1)
    seeds, n, columns = flags.shape
    shares, size = flags.mean((1, 2)), _effective_size(flags.reshape(seeds * n, columns)) / seeds
    low, high = wilson(int(flags.sum()) / (seeds * columns) * (size / n), size, level)
    if seeds == 1:
        return Share(n, float(shares[0]), low, high), None
    spread = float(shares.std(ddof=1))
    half = _half_width(_parts(flags.mean(2)), 1 - level)
    if half > 0:
        low, high = min(low, max(0.0, shares.mean() - half)), max(high, min(1.0, shares.mean() + half))
    return Share(n, float(shares.mean()), float(low), float(high)), spread


def over_draws(right: ArrayLike, draws: ArrayLike, level: float = LEVEL) -> tuple[Share, float]:
    """right [D]: of n images, how many are right in each of D draws of one random model; draws [n]: in how many draws
    each image is right -> mean share, spread over draws. The interval is for new draws and new images: that of
    `over_seeds` of the D verdicts of n images, which looks at these counts alone. Raises ValueError.
    """
    totals, counts = np.asarray(right, dtype=float), np.asarray(draws, dtype=float)
    count, n = len(totals), len(counts)
    if count < 2 or n < 1 or totals.sum() != counts.sum():
        raise ValueError(f"{count} draws of {n} images whose counts do not agree")
    value, spread = float(counts.sum()) / (count * n), float((totals / n).std(ddof=1))
    low, high = wilson(value * n, n, level)
    from_images = float((counts / count).var(ddof=1)) / n if n > 1 else 0.0
    half = _half_width(_Parts(spread**2 / count, from_images, count - 1, max(n - 1, 1)), 1 - level)
    if half > 0:
        low, high = min(low, max(0.0, value - half)), max(high, min(1.0, value + half))
    return Share(n, value, float(low), float(high)), spread


class _Parts(NamedTuple):
    """Variance of a mean over seeds and images, in two parts, and the degrees of freedom of each."""

    from_seeds: float
    from_images: float
    seeds: int
    images: int


def _parts(values: NDArray[np.float64]) -> _Parts:
    """values [S, n], S >= 2 seeds on n images; see `over_seeds`."""
    seeds, n = values.shape
    from_seeds = float(values.mean(1).var(ddof=1)) / seeds
    from_images = float(values.mean(0).var(ddof=1)) / n if n > 1 else 0.0
    return _Parts(from_seeds, from_images, seeds - 1, max(n - 1, 1))


def _difference_parts(differences: NDArray[np.float64]) -> _Parts:
    """As if one image at least were told apart: that all of n agree in every seed is no certainty that all do."""
    parts = _parts(differences)
    return parts._replace(from_images=max(parts.from_images, 1 / differences.shape[1] ** 2))


def _half_width(parts: _Parts, alpha: float) -> float:
    """Half of the interval that misses with a chance of at most alpha: Banerjee 1961, Sankhya A 23, 359-378.

    Each part of the variance times the square of its own t. Pooled degrees of freedom (Satterthwaite) miss far more
    often with two or three seeds, when these agree by chance.
    """
    t_seeds, t_images = stdtrit((parts.seeds, parts.images), alpha / 2)
    return sqrt(t_seeds**2 * parts.from_seeds + t_images**2 * parts.from_images)


def _p_where(holds_zero: Callable[[float], bool]) -> float:
    """The alpha from which on an interval of level 1 - alpha leaves 0 out, by bisection of its logarithm."""
    low, high = log(LEAST_P), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds_zero(exp(middle)) else (low, middle)
    return exp(high)


def widest(n: int, level: float = LEVEL) -> float:
    """Width of the widest Wilson interval that n images can give: at a share of one half."""
    low, high = wilson(n / 2, n, level)
    return high - low


def foresight(n: int, seeds: int = 1) -> str:
    """What can be said of n images and so many seeds before any is attacked."""
    level, widest_width = f"{100 * LEVEL:.0f} %", 100 * widest(n)
    told = f"n = {n} images: a {level} interval over images will be at most {widest_width:.1f} points wide"
    if seeds == 1:
        return told
    parts = _Parts(0.01**2 / seeds, 0.25 / n, seeds - 1, max(n - 1, 1))
    return (
        f"{told}; over {seeds} seeds and images up to {min(100, 200 * _half_width(parts, 1 - LEVEL)):.1f} where seeds "
        "differ by an sd of 1 point"
    )


def compare(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Difference:
    """first, second [S, n] or [S, n, k] bool: S seeds of each on the same n images, k columns whose mean counts.

    One seed is about these two networks: p is `p_equal`, the interval a paired bootstrap over images. Several are about
    the methods, for new seeds and new images: the mean of the differences, image by image and seed by seed, has the
    interval of `over_seeds`, and p is where that interval just reaches 0. Raises ValueError.
    """
    differences = _differences(first, second)
    value, p = float(differences.mean()), p_equal(first, second)
    if len(differences) == 1:
        return Difference(value, *_bootstrap(differences[0], level), p)
    half = _half_width(_difference_parts(differences), 1 - level)
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p)


def compare_apart(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Difference:
    """first [S, n] or [S, n, k], second [T, m] or [T, m, k] bool: on other images, or with another number of seeds.

    The distances from each mean to the end of its interval (`over_seeds`) add up in squares: Newcombe 1998, method 10,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I. p is where that interval just
    reaches 0. Where both are of the same images it is too wide, as these make both means easy or hard together.
    """

    def interval(level: float) -> tuple[float, float]:
        a, b = over_seeds(first, level)[0], over_seeds(second, level)[0]
        value = a.value - b.value
        return value - hypot(a.value - a.low, b.high - b.value), value + hypot(a.high - a.value, b.value - b.low)

    def holds_zero(alpha: float) -> bool:
        low, high = interval(1 - alpha)
        return low <= 0 <= high

    value = float(np.asarray(first, dtype=bool).mean() - np.asarray(second, dtype=bool).mean())
    return Difference(value, *interval(level), _p_where(holds_zero))


def p_equal(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p of "equally robust"; arguments as in `compare`.

    One seed: each image is as likely to favour either, by as much (the paired permutation test, Fisher 1935, Pitman
    1937, https://doi.org/10.2307/2984124), with its exact distribution; for one column it is `mcnemar`. Several seeds:
    as in `compare`; where nothing varies at all, the exact p of one seed.
    """
    shape = np.shape(first)
    if shape[0] == 1 and prod(shape[2:]) == 1:
        return mcnemar(np.reshape(first, shape[1]), np.reshape(second, np.shape(second)[1]))
    differences = _differences(first, second)
    if len(differences) == 1:
        return _flips(differences[0])
    if (differences == differences[0, 0]).all():
        return _flips(differences[0])
    parts = _difference_parts(differences)
    return _p_where(lambda alpha: _half_width(parts, alpha) > abs(float(differences.mean())))


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """first, second [n] bool, two networks on the same images -> exact two-sided p of "equally robust".

    McNemar 1947, https://doi.org/10.1007/BF02295996: of the images on which they differ, either is as
    likely to be right. Raises ValueError when the lengths differ.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"not the same images: {a.shape} and {b.shape}")
    return _sign_test(int((a & ~b).sum()), int((~a & b).sum()))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p [m] of m tests -> p adjusted for all of them, Holm 1979, https://www.jstor.org/stable/4615733.

    If those below a level are rejected, then the chance of one false rejection or more is at most that level, whatever
    the tests have to do with each other.
    """
    raw = np.asarray(p, dtype=float)
    order = raw.argsort(kind="stable")
    steps = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """[S, n] float in [-1, 1]: by how much an image favours the first, on the mean of its columns."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim not in (2, 3):
        raise ValueError(f"not the same images: {a.shape} and {b.shape}")
    return (a.astype(float) - b).reshape(*a.shape[:2], -1).mean(2)


def _flips(differences: NDArray[np.float64]) -> float:
    """differences [n] -> exact p of a sum at least as far from 0, if each had either sign with probability 1/2.

    Few sizes occur (with k columns the multiples of 1/k), so the sum is one of shifted binomials, on a grid of 1/k.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]).round(9), return_counts=True)
    if len(sizes) < 2:
        return _sign_test(int((differences > 0).sum()), int((differences < 0).sum()))
    steps = np.rint(sizes / _grid(sizes)).astype(int)
    chance = np.ones(1)  # of each multiple of the grid, from the lowest sum on, in twos: a flip moves it by 2 sizes
    for step, n in zip(steps, counts, strict=True):
        lower = np.diff(bdtr(np.arange(n // 2 + 1), n, 0.5), prepend=0.0)  # the upper half would cancel out
        binomial = np.concatenate([lower, lower[::-1][(n + 1) % 2 :]])
        spread = np.zeros(step * n + 1)
        spread[::step] = binomial
        chance = np.convolve(chance, spread)
    place = round((float((differences / _grid(sizes)).sum()) + float((steps * counts).sum())) / 2)
    tail = min(place, len(chance) - 1 - place)
    return min(1.0, 2 * float(chance[: tail + 1].sum()))


def _sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p of wins and losses that are equally likely."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def _grid(sizes: NDArray[np.float64]) -> float:
    """The largest 1/k that all sizes are multiples of. k: the columns of a mean, at most a few."""
    for k in range(1, 1001):
        if np.allclose(sizes * k, np.rint(sizes * k), atol=1e-6):
            return 1 / k
    raise ValueError("differences that are no means of up to 1000 columns")


def _bootstrap(differences: NDArray[np.float64], level: float) -> tuple[float, float]:
    """differences [n] -> percentile interval (low, high) of their mean, over images drawn anew with replacement.

    Efron 1979, https://doi.org/10.1214/aos/1176344552. The images are joined by one that agrees and by half a one that
    favours each side (Agresti & Min 2005, https://doi.org/10.1002/sim.1781), so that images that all agree are not
    taken for certainty. Few values occur, so the resampled images are counted, not drawn; the seed is fixed.
    """
    values, counts = np.unique(np.concatenate([differences, [-1.0, 0.0, 1.0]]).round(9), return_counts=True)
    weights = counts - np.isin(values, (-1.0, 1.0)) * 0.5
    n = len(differences)
    drawn = np.random.default_rng(0).multinomial(n, weights / weights.sum(), size=RESAMPLES)
    low, high = np.quantile(drawn @ values / n, ((1 - level) / 2, (1 + level) / 2))
    return float(min(low, differences.mean())), float(max(high, differences.mean()))
