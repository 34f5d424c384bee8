"""What each corruption of `attacks.corruption` does to images, and the filters that they share.

Functions of (x, noise, c): x [N, C, H, W] float64 in [0, 1], C 1 or 3, multiples of 1/255; noise for the same N images;
c the constants of a severity -> images like x, which may leave [0, 1]. The formulas are those of the code that made
CIFAR-10-C (see there). What it leaves to a library is written out here from what that library computes: ImageMagick's
motion blur, OpenCV's Canny edges (L1 gradient), histogram equalisation and warp. Distances are exact where OpenCV's
are of a 5x5 mask.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, special

from attacks.fog import plasma, scaled
from attacks.noise import Noise

Array = NDArray[np.float64]
Index = NDArray[np.int64]
TO_GREY = np.array([0.299, 0.587, 0.114])
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
# Of the five pictures of frost at a fifth of their size, measured by us: mean colour, standard deviation of the means
# of crops of 32x32, standard deviation inside such a crop, exponent of its power spectrum. Two of them are the same.
ICE = (
    (77.5, 149.0, 165.7, 10.9, 14.1, -1.45),
    (200.8, 205.4, 214.5, 9.2, 17.6, -0.87),
    (200.8, 205.4, 214.5, 9.2, 17.6, -0.87),
    (138.0, 153.2, 165.6, 11.6, 26.3, -0.45),
    (112.3, 123.3, 134.7, 17.6, 34.4, -1.19),
)


# --- noise -----------------------------------------------------------------------------------------------------------


def gaussian_noise(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: the standard deviation."""
    return x + c[0] * _normal(noise, x.shape[1:])


def shot_noise(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """Poisson with mean c x, over c; by inversion, from tables of the distribution functions of the 256 levels."""
    rates = np.arange(256)[:, None] / 255 * c[0]
    counts = np.arange(math.ceil(c[0] + 10 * math.sqrt(c[0]) + 20))
    tables = special.pdtr(counts, rates) + np.arange(256)[:, None]  # level k's lies in [k, k + 1]: one sorted line
    tables[:, -1] = np.arange(256) + 1
    levels = (255 * x).round().astype(np.int64)
    drawn = _uniform(noise, x.shape[1:]) + 2.0**-25
    return (np.searchsorted(tables.ravel(), drawn + levels) - levels * len(counts)) / c[0]


def impulse_noise(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: share of the values, each by itself, that become 0 or 1."""
    hit, salt = (_uniform(noise.fork(name), x.shape[1:]) for name in ("hit", "salt"))
    return np.where(hit < c[0], salt < 0.5, x)


def speckle_noise(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: the standard deviation, as a share of the value."""
    return x + c[0] * x * _normal(noise, x.shape[1:])


# --- blur ------------------------------------------------------------------------------------------------------------


def gaussian_blur(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: the standard deviation in pixels."""
    return _blurred(x, c[0])


def defocus_blur(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: radius of a disk in pixels, and standard deviation of the blur of its edge, over 3x3."""
    radius, edge = c
    places = np.arange(-8, 9)
    disk = (places**2 + places[:, None] ** 2 <= radius**2).astype(float)
    tap = np.exp(-np.array([1.0, 0, 1]) / (2 * edge**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(tap, tap) / tap.sum() ** 2, mode="constant")
    kept = slice(8 - math.ceil(radius) - 1, 8 + math.ceil(radius) + 2)
    return ndimage.correlate(x, kernel[kept, kept][None, None], mode="mirror")


def glass_blur(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: standard deviation of the blur before and after, farthest step, rounds. From the lower right on, each pixel
    takes the value of a neighbour; the code means to swap the two, and copies.
    """
    sigma, far, rounds = c[0], int(c[1]), int(c[2])
    made, images = np.floor(255 * _blurred(x, sigma) + 1e-6) / 255, np.arange(len(x))
    rows, columns = (range(side - far, far, -1) for side in x.shape[2:])
    steps = noise.integers(-far, far - 1, rounds, len(rows), len(columns), 2).numpy()
    for turn, (i, row), (j, column) in product(range(rounds), enumerate(rows), enumerate(columns)):
        right, down = steps[:, turn, i, j].T
        made[:, :, row, column] = made[images, :, row + down, column + right]
    return _blurred(made, sigma)


def motion_blur(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: radius and standard deviation of a one-sided Gaussian in pixels, along an angle within 45 degrees of the
    rows.
    """
    return (255 * _streaks(x, c[0], c[1], -45 + 90 * _uniform(noise, ()))).round() / 255


def zoom_blur(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: the end of the zooms, from 1 in steps of 0.01, whose mean it is, with the image itself once more."""
    zooms = np.arange(1, c[0], 0.01)  # with c or without, as rounding has it: the same numbers as in the code
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# --- weather ---------------------------------------------------------------------------------------------------------


def snow(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: mean and standard deviation of the flakes, their zoom and threshold, radius and standard deviation of their
    fall, weight of the image beside its whitened self.
    """
    mean, std, zoom, threshold, radius, sigma, kept = c
    flakes = _zoomed(mean + std * _normal(noise.fork("flakes"), (1, *x.shape[2:])), zoom)
    flakes = np.floor(255 * np.where(flakes < threshold, 0, flakes).clip(0, 1)) / 255
    angle = -135 + 90 * _uniform(noise.fork("angle"), ())
    fallen = (255 * _streaks(flakes, radius, sigma, angle)).round() / 255
    white = np.maximum(x, 1.5 * _grey(x) + 0.5)
    return kept * x + (1 - kept) * white + fallen + fallen[:, :, ::-1, ::-1]


def frost(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: weights of the image and of the frost. The frost is ours: noise with the colour, the contrast and the spectrum
    of one of the five pictures, without their crystals.
    """
    ice = np.array(ICE)[noise.fork("picture").integers(0, len(ICE) - 1).numpy()]
    colour, between, within, power = ice[:, :3], ice[:, 3], ice[:, 4], ice[:, 5]
    height, width = x.shape[2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = np.inf  # no mean: that is drawn by itself
    gain = frequency ** (power[:, None, None] / 2)
    texture = np.fft.ifft2(np.fft.fft2(_normal(noise.fork("texture"), x.shape[2:])) * gain).real
    strength = np.sqrt((gain**2).mean((1, 2))).clip(1e-12)  # 0 in one pixel, which has no texture
    texture *= (within / strength)[:, None, None]
    texture += (between * _normal(noise.fork("level"), ()))[:, None, None]
    frosted = (colour if x.shape[1] == 3 else colour @ TO_GREY[:, None])[:, :, None, None] + texture[:, None]
    return c[0] * x + c[1] * frosted.clip(0, 255) / 255


def fog(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: weight of the fog, and how much flatter each level of its plasma is; offsets shrink with its square. The map's
    side is the power of two that the image fits into.
    """
    levels = math.ceil(math.log2(max(2, *x.shape[2:])))
    heights = plasma(noise.uniform(4**levels - 1).double(), c[1] ** 2, 1)
    mist = scaled(heights, "image").numpy()[:, None, : x.shape[2], : x.shape[3]]
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + c[0] * mist) * brightest / (brightest + c[0])


def spatter(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: mean, standard deviation and blur of the liquid, its threshold, its strength (of water) or the blur of its
    edge (of mud), and which of the two it is, 0 or 1.
    """
    mean, std, sigma, threshold, strength, mud = c
    liquid = ndimage.gaussian_filter(mean + std * _normal(noise, x.shape[2:]), (0, sigma, sigma), mode="nearest")
    liquid = np.where(liquid < threshold, 0, liquid)
    colour = MUD if mud else WATER
    colour = (colour if x.shape[1] == 3 else TO_GREY @ colour[:, None])[None, :, None, None]
    if mud:
        cover = ndimage.gaussian_filter((liquid > threshold).astype(float), (0, strength, strength), mode="nearest")
        cover = np.where(cover < 0.8, 0, cover)[:, None]
        return x * (1 - cover) + cover * colour
    wet = np.floor(255 * liquid).clip(0, 255)
    drops = wet * np.stack([_relief(one) for one in wet])
    highest = drops.max((1, 2), keepdims=True)
    return x + strength * (drops / np.where(highest > 0, highest, 1))[:, None] * colour


def brightness(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: what is added to the value of HSV, with hue and saturation as they are."""
    value = x.max(1, keepdims=True)
    brighter = (value + c[0]).clip(0, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * brighter


# --- digital ---------------------------------------------------------------------------------------------------------


def contrast(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: factor of the distance from the channel's mean."""
    mean = x.mean((2, 3), keepdims=True)
    return (x - mean) * c[0] + mean


def saturate(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: factor of the saturation of HSV, and what is added to it. Where a pixel is grey, its hue is 0: red."""
    if x.shape[1] == 1:
        return x
    value, below = x.max(1, keepdims=True), x.max(1, keepdims=True) - x
    deepest = below.max(1, keepdims=True)
    red = np.array([0.0, 1, 1])[None, :, None, None]
    hue = np.where(deepest > 0, below / np.where(deepest > 0, deepest, 1), red)
    saturation = np.where(value > 0, deepest / np.where(value > 0, value, 1), 0)
    return value * (1 - hue * (saturation * c[0] + c[1]).clip(0, 1))


def jpeg_compression(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: quality of PIL's encoder."""

    def coded(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(c[0]))
        return Image.open(file)

    return _of_pictures(x, coded)


def pixelate(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c: factor of both sides, there and back, by means over boxes."""
    height, width = x.shape[2:]
    small = (max(1, int(width * c[0])), max(1, int(height * c[0])))
    box = Image.Resampling.BOX
    return _of_pictures(x, lambda picture: picture.resize(small, box).resize((width, height), box))


def elastic_transform(x: Array, noise: Noise, c: tuple[float, ...]) -> Array:
    """c, in shorter sides: size and blur of the field of shifts, and how far each of three points of an affine map
    moves at most.
    """
    height, width = x.shape[2:]
    size, sigma, most = (min(height, width) * one for one in c)
    middle, arm = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = middle + arm * np.array([[1.0, 1], [1, -1], [-1, -1]])
    moved = corners + most * (2 * _uniform(noise.fork("affine"), (3, 2)) - 1)
    ones = np.ones((len(x), 3, 1))
    back = np.linalg.solve(np.concatenate([moved, ones], 2), np.broadcast_to(corners, moved.shape))  # [N, 3, 2]
    down, right = np.mgrid[:height, :width].astype(float)
    source = np.stack([right, down, np.ones_like(down)], 2) @ back[:, None]
    warped = _sampled(x, source[..., 1], source[..., 0], centres=True)
    field = 2 * _uniform(noise.fork("field"), (2, height, width)) - 1
    shifts = size * ndimage.gaussian_filter(field, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    return _sampled(warped, down + shifts[:, 1], right + shifts[:, 0], centres=False)


# --- what they share -------------------------------------------------------------------------------------------------


def _uniform(noise: Noise, shape: tuple[int, ...]) -> Array:
    return noise.uniform(*shape).double().numpy()


def _normal(noise: Noise, shape: tuple[int, ...]) -> Array:
    return noise.normal(*shape).double().numpy()


def _grey(x: Array) -> Array:
    """[N, C, H, W] -> [N, 1, H, W]."""
    return x if x.shape[1] == 1 else np.tensordot(x, TO_GREY, (1, 0))[:, None]


def _blurred(x: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest")


def _zoomed(x: Array, zoom: float) -> Array:
    """The middle of x, so large that it fills x again when it is enlarged by `zoom`, linearly, corner to corner."""
    down, right = (_enlarging(side, zoom) for side in x.shape[2:])
    return down @ x @ right.T


def _enlarging(side: int, zoom: float) -> Array:
    """[side, side]: what `_zoomed` does to a line of pixels."""
    cut = math.ceil(side / zoom)
    large = round(cut * zoom)
    places = (np.arange(side) + (large - side) // 2) * ((cut - 1) / max(1, large - 1))
    first, out = (side - cut) // 2, np.zeros((side, side))
    out[:, first : first + cut] = (1 - np.abs(places[:, None] - np.arange(cut))).clip(0)
    return out


def _streaks(x: Array, radius: float, sigma: float, angle: Array) -> Array:
    """ImageMagick's motion blur: 2 radius + 1 taps of a one-sided Gaussian. angle [N] in degrees."""
    count = 2 * int(radius) + 1
    taps = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    turn, out = np.deg2rad(angle), np.zeros_like(x)
    images = np.arange(len(x))[:, None, None]
    for step, tap in enumerate(taps / taps.sum()):
        right, down = (np.ceil(step * part - 0.5).astype(np.int64)[:, None] for part in (np.cos(turn), np.sin(turn)))
        rows = (np.arange(x.shape[2]) + down).clip(0, x.shape[2] - 1)[:, :, None]
        columns = (np.arange(x.shape[3]) + right).clip(0, x.shape[3] - 1)[:, None]
        out += tap * x[images, :, rows, columns].transpose(0, 3, 1, 2)
    return out


def _sampled(x: Array, rows: Array, columns: Array, centres: bool) -> Array:
    """x at places [N, H, W] in pixels, linearly. Beyond its edge it is mirrored: at the outermost pixels' centres, or
    at the edge itself.
    """
    top, left = np.floor(rows), np.floor(columns)
    down, right, out = rows - top, columns - left, np.zeros_like(x)
    images = np.arange(len(x))[:, None, None]
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row = _mirrored(top.astype(np.int64) + i, x.shape[2], centres)
        column = _mirrored(left.astype(np.int64) + j, x.shape[3], centres)
        weight = (down if i else 1 - down) * (right if j else 1 - right)
        out += weight[:, None] * x[images, :, row, column].transpose(0, 3, 1, 2)
    return out


def _mirrored(places: Index, side: int, centres: bool) -> Index:
    turn = max(1, 2 * side - 2 if centres else 2 * side)
    inside = places % turn
    return np.minimum(inside, turn - inside if centres else turn - 1 - inside)


def _of_pictures(x: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    """x through a function of PIL's pictures of 8 bits."""
    levels = (255 * x).round().astype(np.uint8).transpose(0, 2, 3, 1)
    made = [np.asarray(change(Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one))) for one in levels]
    return np.stack(made).reshape(levels.shape).transpose(0, 3, 1, 2) / 255


def _relief(wet: Array) -> Array:
    """wet [H, W] of 0..255 -> how light drops look, by their distance from edges and a filter that lights them from one
    side.
    """
    edges = _edges(wet)
    far = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(wet.shape, np.inf)
    far = _equalised(np.floor(ndimage.uniform_filter(np.minimum(far, 20), 3, mode="mirror") + 1e-9).astype(np.int64))
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = ndimage.correlate(far.astype(float), light, mode="mirror").clip(0, 255)
    return ndimage.uniform_filter(lit, 3, mode="mirror").round()


def _equalised(levels: Index) -> Index:
    """Histogram equalisation of 0..255; an image of one level stays."""
    counts = np.bincount(levels.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    rest = counts.sum() - counts[first]
    if rest == 0:
        return levels
    ranks = counts.cumsum() - counts[: first + 1].sum()
    return (ranks.clip(0) * (255 / rest)).round().astype(np.int64)[levels]


def _edges(grey: Array, low: float = 50, high: float = 150) -> NDArray[np.bool_]:
    """Canny's edges of [H, W]: ridges of the L1 gradient above `low` that hang together with one above `high`."""
    right, down = (ndimage.sobel(grey, axis, mode="nearest") for axis in (1, 0))
    slope = np.abs(right) + np.abs(down)
    around = np.pad(slope, 1)
    height, width = grey.shape

    def beside(i: int, j: int) -> Array:
        return around[1 + i : 1 + i + height, 1 + j : 1 + j + width]

    steep = np.abs(down) > math.tan(math.radians(67.5)) * np.abs(right)
    flat = np.abs(down) < math.tan(math.radians(22.5)) * np.abs(right)
    falling = (slope > beside(-1, -1)) & (slope > beside(1, 1))
    rising = (slope > beside(-1, 1)) & (slope > beside(1, -1))
    ridge = np.select(
        [flat, steep, (right >= 0) == (down >= 0)],
        [
            (slope > beside(0, -1)) & (slope >= beside(0, 1)),
            (slope > beside(-1, 0)) & (slope >= beside(1, 0)),
            falling,
        ],
        rising,
    )
    parts, _ = ndimage.label(ridge & (slope > low), np.ones((3, 3)))
    return (parts > 0) & np.isin(parts, np.unique(parts[ridge & (slope > high)]))
