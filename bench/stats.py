"""Shares with their uncertainty: over images, over seeds and both, and a paired test.

scipy.special holds the quantiles; scipy.stats has ready-made intervals too, but takes most of a second to
load, and a report has two in all.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

LEVEL = 0.95


class Share(NamedTuple):
    """n: images. value, low, high: shares in [0, 1]."""

    n: int
    value: float
    low: float
    high: float


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
    seed with an image is counted twice, so on average it is a little too large. Its t has the degrees of
    freedom of Satterthwaite 1946, https://doi.org/10.2307/3002019. The interval is widened to the Wilson
    interval of the mean, which stays honest near 0 and 1.
    """
    flags: NDArray[np.bool_] = np.atleast_2d(np.asarray(robust, dtype=bool))
    flags = flags.reshape(*flags.shape[:2], -1)
    seeds, n, columns = flags.shape
    shares, size = flags.mean((1, 2)), _effective_size(flags.reshape(seeds * n, columns)) / seeds
    low, high = wilson(int(flags.sum()) / (seeds * columns) * (size / n), size, level)
    if seeds == 1:
        return Share(n, float(shares[0]), low, high), None
    spread = float(shares.std(ddof=1))
    from_seeds = spread**2 / seeds
    from_images = float(flags.mean((0, 2)).var(ddof=1)) / n if n > 1 else 0.0
    variance = from_seeds + from_images
    if variance > 0:
        freedom = variance**2 / (from_seeds**2 / (seeds - 1) + from_images**2 / max(n - 1, 1))
        half = float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance)
        low, high = min(low, max(0.0, shares.mean() - half)), max(high, min(1.0, shares.mean() + half))
    return Share(n, float(shares.mean()), float(low), float(high)), spread


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """first, second [n] bool, two networks on the same images -> exact two-sided p of "equally robust".

    McNemar 1947, https://doi.org/10.1007/BF02295996: of the images on which they differ, either is as
    likely to be right. Raises ValueError when the lengths differ.
    """
    from scipy.stats import (
        binomtest,  # here, because it takes most of a second to load and tables do not need it
    )

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"not the same images: {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    differ = only_first + only_second
    return 1.0 if differ == 0 else float(binomtest(only_first, differ, 0.5).pvalue)
