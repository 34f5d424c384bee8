"""Corruptions: the published constants, what each does to an image, and that an image's is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from attacks import distortions
from attacks.corruption import CORRUPTIONS, SEVERITIES, Corruption
from attacks.noise import Noise
from bench.ground.config import UserError
from bench.judge.evaluate import evaluate
from bench.ledger.evals import CORRUPTIONS as NORM
from bench.ledger.named import suite
from bench.subjects.catalog import Catalog
from bench.subjects.data import Images

# read in make_cifar_c.py of github.com/hendrycks/robustness and typed again here, function by function
PUBLISHED = {
    "gaussian-noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot-noise": [500, 250, 100, 75, 50],
    "impulse-noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "speckle-noise": [0.06, 0.1, 0.12, 0.16, 0.2],
    "gaussian-blur": [0.4, 0.6, 0.7, 0.8, 1],
    "glass-blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "defocus-blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "motion-blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom-blur": [1.06, 1.11, 1.16, 1.21, 1.26],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "spatter": [
        (0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    "jpeg-compression": [80, 65, 58, 50, 40],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "elastic-transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
}  # fmt: skip
# whose constants all go one way, or do on images like these; the others trade one thing for another on the way
ORDERED = set(PUBLISHED) - {"glass-blur", "frost", "elastic-transform", "saturate", "spatter"}


def pictures(count: int = 6, shape: tuple[int, int, int] = (3, 32, 32)) -> torch.Tensor:
    """Smooth shapes in bright colours, of whole levels."""
    rough = np.random.default_rng(0).random((count, *shape))
    smooth = ndimage.gaussian_filter(rough, (0, 0, 2, 2))
    low, high = (edge((1, 2, 3), keepdims=True) for edge in (smooth.min, smooth.max))
    return torch.tensor(np.round(20 + 200 * (smooth - low) / (high - low)) / 255, dtype=torch.float32)


def corrupted(name: str, severity: int, x: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
    noise = Noise(7, torch.arange(len(x)) if ids is None else ids)
    return Corruption(name, severity)(None, x, None, noise)


def test_the_constants_are_the_published_ones():
    assert set(CORRUPTIONS) == set(PUBLISHED) and len(CORRUPTIONS) == 19
    for name, wanted in PUBLISHED.items():
        assert CORRUPTIONS[name] == tuple(one if isinstance(one, tuple) else (one,) for one in wanted), name


def test_the_zooms_are_those_of_the_published_ranges():
    """Whether a range in floating point has its end."""
    counts = [len(np.arange(1, end, 0.01)) for (end,) in CORRUPTIONS["zoom-blur"]]
    assert counts == [7, 12, 16, 21, 26]


def test_the_suite_has_every_one_at_every_severity():
    names = {name for name in suite() if name.startswith("c-")}
    assert names == {f"c-{name}-{severity}" for name in CORRUPTIONS for severity in range(1, SEVERITIES + 1)}
    assert Catalog().attack("c-fog-3")[0] == Corruption("fog", 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_stays_an_image_of_its_own(name):
    """In range, of whole levels, changed, and the same whatever else is in the batch; other numbers, another image."""
    x = pictures()
    whole = corrupted(name, 5, x)
    assert whole.shape == x.shape and whole.dtype == x.dtype and whole.min() >= 0 and whole.max() <= 1
    assert torch.equal((whole * 255).round() / 255, whole) and not torch.equal(whole, x)
    order = torch.tensor([4, 0, 5])
    assert torch.equal(corrupted(name, 5, x[order], order), whole[order])
    assert torch.equal(corrupted(name, 5, x[2:3], torch.tensor([2])), whole[2:3])
    drawn = name not in {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression"}
    drawn = drawn and name not in {"gaussian-blur", "saturate"}
    assert torch.equal(corrupted(name, 5, x[:1], torch.tensor([99])), whole[:1]) != drawn


@pytest.mark.parametrize("name", sorted(ORDERED))
def test_severities_grow_where_the_constants_do(name):
    x = pictures(16)
    far = [float((corrupted(name, s, x) - x).flatten(1).norm(dim=1).mean()) for s in range(1, SEVERITIES + 1)]
    if name == "motion-blur":  # 3 and 4 are one Gaussian, cut off where it is 0 already
        far.pop(3)
    assert far == sorted(far) and len(set(far)) == len(far), far


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_grey_images_of_other_sizes_are_taken(name):
    for shape in ((1, 8, 8), (1, 28, 20), (3, 5, 9)):
        x = pictures(2, shape)
        made = corrupted(name, 4, x)
        assert made.shape == x.shape and made.min() >= 0 and made.max() <= 1
        if name != "spatter":  # which misses some images, of these all the smallest
            assert torch.equal(made, x) == (name == "saturate" and shape[0] == 1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 2, 5)])
def test_images_of_a_few_pixels_stay_images(shape):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    for name in CORRUPTIONS:
        made = corrupted(name, 5, x)
        assert made.shape == x.shape and 0 <= made.min() <= made.max() <= 1, name  # NaN is neither


def test_blocks_are_no_batches(monkeypatch):
    from attacks import corruption

    x = pictures()
    whole = corrupted("snow", 3, x)
    monkeypatch.setattr(corruption, "BLOCK", 2048)
    assert torch.equal(corrupted("snow", 3, x), whole)


# --- what each does, on images whose answer is known --------------------------------------------------------------


def flat(level: int, channels: int = 3, count: int = 4) -> torch.Tensor:
    return torch.full((count, channels, 32, 32), level / 255)


@pytest.mark.parametrize(("name", "std"), [("gaussian-noise", 0.10), ("speckle-noise", 0.2 * 0.4)])
def test_noise_has_its_standard_deviation(name, std):
    made = corrupted(name, 5, flat(102))
    assert float(made.std()) == pytest.approx(std, rel=0.03)
    assert float(made.mean()) == pytest.approx(0.4 - 0.5 / 255, abs=0.003)  # cut down: half a level less


def test_shot_noise_is_a_poisson():
    made = corrupted("shot-noise", 5, flat(102)) * 50
    assert float(made.mean()) == pytest.approx(20 - 25 / 255, abs=0.15)
    assert float(made.var()) == pytest.approx(20, rel=0.05)
    assert not corrupted("shot-noise", 5, flat(0)).any()


def test_impulses_are_black_and_white_alike():
    made = corrupted("impulse-noise", 5, flat(102))
    for value in (0.0, 1.0):
        assert float((made == value).float().mean()) == pytest.approx(0.035, abs=0.008)


@pytest.mark.parametrize(
    "name", ["gaussian-blur", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "elastic-transform", "contrast",
             "pixelate"]
)  # fmt: skip
def test_what_moves_light_leaves_a_flat_image(name):
    assert torch.equal(corrupted(name, 5, flat(102)), flat(102))


def test_a_disk_of_a_pixel_and_a_half_is_nine_pixels():
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 16, 16] = 1
    made = corrupted("defocus-blur", 5, x)
    assert int((made > 0).sum()) == 9 and made[0, 0, 15:18, 15:18].allclose(torch.tensor(28 / 255))


def test_a_streak_is_one_sided_and_along_its_angle():
    """At 0 degrees a point is drawn out to the left by a Gaussian, whose first tap is 1 / sum."""
    x = np.zeros((1, 1, 9, 32))
    x[0, 0, 4, 16] = 1
    made = distortions._streaks(x, 6, 1, np.zeros(1))[0, 0]
    taps = np.exp(-(np.arange(13) ** 2) / 2)
    assert made[4, 16:3:-1] == pytest.approx(taps / taps.sum()) and made.sum() == pytest.approx(1)
    up = distortions._streaks(x, 6, 1, np.full(1, 90.0))[0, 0]
    assert up[4::-1, 16] == pytest.approx((taps / taps.sum())[:5])


def test_brightness_and_saturation_are_those_of_hsv():
    import colorsys

    x = pictures(2)
    brighter, redder = corrupted("brightness", 3, x), corrupted("saturate", 4, x)
    for row, column in ((0, 0), (7, 20), (31, 3)):
        h, s, v = colorsys.rgb_to_hsv(*x[1, :, row, column].double().tolist())
        wanted = [colorsys.hsv_to_rgb(h, s, min(1, v + 0.15)), colorsys.hsv_to_rgb(h, min(1, 2 * s + 0.1), v)]
        for made, one in zip((brighter, redder), wanted, strict=True):
            assert (255 * made[1, :, row, column]).tolist() == pytest.approx([np.floor(255 * c) for c in one], abs=1)
    assert corrupted("saturate", 5, flat(100))[0, :, 0, 0].mul(255).tolist() == pytest.approx([100, 80, 80])


def test_contrast_draws_to_the_mean():
    x = pictures(2)
    made = corrupted("contrast", 5, x)
    mean = x.mean((2, 3), keepdim=True)
    assert made.allclose(0.15 * (x - mean) + mean, atol=1 / 255)


def test_fog_is_a_share_of_white_that_keeps_the_brightest():
    """x' = (x + 1.5 mist) m / (m + 1.5), mist from 0 to 1 over a map of the image's size."""
    made = corrupted("fog", 5, flat(204))
    low, high = 0.8 * 0.8 / 2.3, 2.3 * 0.8 / 2.3
    assert made.amin((1, 2, 3)).tolist() == pytest.approx([low] * 4, abs=1 / 255)
    assert made.amax((1, 2, 3)).tolist() == pytest.approx([high] * 4, abs=1 / 255)


def test_frost_has_the_colours_of_ice():
    """Weight 0.45 of one of five mean colours; most are nearly grey, one is blue."""
    made = corrupted("frost", 5, flat(0, count=60)).mean((2, 3)) * 255 / 0.45
    wanted = torch.tensor([row[:3] for row in distortions.ICE])
    near = torch.cdist(made, wanted).argmin(1)
    assert set(near.tolist()) >= {0, 3, 4} and bool({1, 2} & set(near.tolist()))
    assert float((made - wanted[near]).abs().mean()) < 12


def test_snow_is_white_and_falls():
    made = corrupted("snow", 3, flat(50))
    assert (made >= 50 / 255 * 0.9).all() and float((made > 0.5).float().mean()) > 0.01
    grey = made.mean(1)
    down, across = (float(grey.diff(dim=d).abs().mean()) for d in (1, 2))
    assert down < across, "streaks are steeper than 45 degrees"


def test_spatter_is_water_and_then_mud():
    water, mud = corrupted("spatter", 3, flat(50)), corrupted("spatter", 5, flat(200))
    assert (water >= flat(50) - 1e-6).all() and bool((water[:, 1] > water[:, 0]).any())
    assert float((mud[:, 0] < 0.4).float().mean()) > 0.02, "there are spots"
    assert mud.amin((0, 2, 3)).mul(255).round().tolist() == [63, 42, 20]


def test_edges_are_canny_s():
    """Of a bright square: one line around it, nothing inside, and nothing of a faint one."""
    square = np.zeros((16, 16))
    square[4:12, 4:12] = 200
    edges = distortions._edges(square)
    assert edges.any() and not edges[6:10, 6:10].any() and not edges[:3].any()
    assert edges[7].sum() == 2 and edges[:, 7].sum() == 2
    assert not distortions._edges(square / 20).any()


def test_an_equalised_image_has_even_ranks():
    levels = np.repeat([3, 5, 90, 91], 4).reshape(4, 4)
    assert set(distortions._equalised(levels).ravel()) == {0, 85, 170, 255}
    assert (distortions._equalised(np.full((2, 2), 9)) == 9).all()


# --- judged by plain accuracy --------------------------------------------------------------------------------------


class Darker(torch.nn.Module):
    """Says 1 of an image whose mean is above 0.5, with logits that never meet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-above, above], 1) * 20 - 3


def judged(levels: list[int], labels: list[int], name: str, severity: int):
    x = torch.stack([torch.full((1, 8, 8), level / 255) for level in levels])
    images = Images(x, torch.tensor(labels), torch.arange(len(x)))
    return evaluate(Darker().eval(), Corruption(name, severity), images, 2, name="c", look=False)


def test_an_image_that_is_wrong_clean_counts_when_it_is_right_corrupted():
    """Brighter by 0.3: the second falls, the third rises, the fourth stays wrong."""
    verdicts = judged([200, 100, 100, 200], [1, 0, 1, 0], "brightness", 5)
    assert verdicts.table["robust"].tolist() == [True, False, True, False]
    assert (verdicts.clean_accuracy, verdicts.robust_accuracy) == (0.5, 0.5)
    assert (verdicts.table["linf"] > 0.2).all(), "every image is corrupted, also one that is wrong"
    assert Corruption("fog", 2).threat.norm == NORM and Corruption("fog", 2).threat.eps == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "mist", "severity": 1}, "there is no corruption 'mist'; there are gaussian-noise, shot-noise"),
        ({"name": "fog", "severity": 6}, "severity = 6 of fog is not one of 1 to 5"),
        ({"name": "fog", "severity": 0}, "severity = 0 of fog"),
    ],
)
def test_what_is_no_corruption_is_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        Corruption(**settings)


def test_channels_radii_and_norms_are_refused():
    with pytest.raises(ValueError, match="images of 1 or 3 channels; these have 4"):
        corrupted("fog", 1, torch.zeros(1, 4, 8, 8))
    with pytest.raises(UserError, match=r"not in a norm; leave out --eps and --norm.*--set c-fog-3\.KEY"):
        Catalog().attack("c-fog-3", eps=0.1, norm="Linf")
