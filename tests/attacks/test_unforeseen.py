"""The second generation of unforeseen attacks: renderings against slow ones, gradients, and each attack's own bound."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from oracles import small_cnn

from attacks.blur import Blur
from attacks.contract import ThreatModel
from attacks.fbm import FBM, perlin
from attacks.glitch import Glitch
from attacks.hsv import HSV, to_hsv, to_rgb
from attacks.kaleidoscope import CIRCLE, SQUARE, TRIANGLE, Kaleidoscope
from attacks.latent import ascend
from attacks.noise import Noise
from attacks.pixel import Pixel
from attacks.snow import Snow, convolved, flake_lines, random_lines
from attacks.target import Target
from attacks.whirlpool import Whirlpool
from attacks.wood import Wood


def own(eps):
    return ThreatModel("own", eps)


def x_of(shape, count=2, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


ATTACKS = {
    "blur": Blur(own(0.8), 4, 0.3, 5, 2.0, 3, 1.0),
    "fbm": FBM(own(0.2), 4, 0.1, 2),
    "glitch": Glitch(own(0.3), 4, 0.1, 3),
    "hsv": HSV(own(0.1), 4, 0.05),
    "kaleidoscope": Kaleidoscope(own(0.15), 4, 0.1, size=2, edge=3),
    "pixel": Pixel(own(1.2), 4, 1.0, 3),
    "snow": Snow(own(2.0), 4, 0.5, grid=3.0),
    "whirlpool": Whirlpool(own(6.0), 4, 4.0, radius=1.0),
    "wood": Wood(own(0.1), 4, 0.05, resolution=3),
}
LONG = ("pixel", "snow", "whirlpool")  # of these the L2 length is bounded


def scene_of(name, x, monkeypatch, attack=None):
    """The start of an attack, what it is rendered with, and its latent after every step."""
    attack, seen = attack or ATTACKS[name], []
    module = __import__(f"attacks.{name}", fromlist=["ascend"])

    def watched(target, x, y, scene, steps, stop):
        seen.append(scene)
        return ascend(target, x, y, scene, steps, stop)

    monkeypatch.setattr(module, "ascend", watched)
    model = small_cnn(x.shape[1]).double()
    x_adv = attack(Target(model), x, model(x).argmax(1), Noise(0, torch.arange(len(x))))
    return seen[0], x_adv


@pytest.mark.parametrize("shape", [(3, 9, 12), (3, 8, 8)])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_gradient_of_a_rendering_is_exact(name, shape, monkeypatch):
    x = 0.3 + 0.4 * x_of(shape, 1, 3)
    scene, _ = scene_of(name, x, monkeypatch)
    latent = scene.latent.detach()
    if scene.free is None:  # off the kinks at 0, where a sign is 0
        latent = latent + 0.02 + 0.03 * x_of(latent.shape[1:], 1, 4)
    else:
        latent = (latent + 0.3) * scene.free
    render = lambda v: scene.render(v, x, *scene.given)  # noqa: E731
    assert torch.autograd.gradcheck(render, latent.requires_grad_(True), eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_variable_leaves_its_bound_and_some_reach_it(name, shape, monkeypatch):
    attack, x = ATTACKS[name], x_of((3, *shape[1:]) if name == "hsv" else shape, 3, 5)
    latents, module = [], __import__("attacks.latent", fromlist=["_Work"])
    move = module._Work.move

    def watched(self, rows, grad):
        move(self, rows, grad)
        latents.append(self.latent[rows].clone())

    monkeypatch.setattr(module._Work, "move", watched)
    _, x_adv = scene_of(name, x, monkeypatch)
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and x_adv.shape == x.shape
    sizes = [v.flatten(1).norm(dim=1) if name in LONG else v.flatten(1).abs().amax(1) for v in latents]
    most = torch.cat(sizes).max()
    assert most <= attack.threat.eps + 1e-9 and most >= 0.9 * attack.threat.eps


IDENTITIES = {
    "blur": Blur(own(0), kernel=5),
    "fbm": FBM(own(0), cells=2),
    "glitch": Glitch(own(0), centres=True),
    "hsv": HSV(own(0)),
    "pixel": Pixel(own(0)),
    "snow": Snow(own(0), discolour=0),
    "whirlpool": Whirlpool(own(0), least=0, centres=True),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_without_strength_nothing_changes_where_the_design_has_it(name, monkeypatch):
    x = x_of((3, 8, 10))
    _, x_adv = scene_of(name, x, monkeypatch, IDENTITIES[name])
    assert torch.allclose(x_adv, x, atol=1e-12)


def test_a_larger_radius_breaks_more():
    model, x = small_cnn(3).double(), x_of((3, 12, 12), 24, 5)
    y = model(x).argmax(1)
    target, noise = Target(model), Noise(0, torch.arange(24))
    for make in (
        lambda eps: Pixel(own(eps), 6, size=3),
        lambda eps: FBM(own(eps), 6, cells=2),
        lambda eps: HSV(own(eps), 6),
    ):
        standing = [int((model(make(eps)(target, x, y, noise)).argmax(1) == y).sum()) for eps in (0.001, 0.5)]
        assert standing[0] > standing[1]


def test_blur_mixes_by_share():
    x, share = x_of((3, 8, 8)), x_of((1, 8, 8), seed=1)
    attack = Blur(own(1), share_kernel=1)
    assert torch.allclose(attack.render(share, x, x.flip(3)), (1 - share) * x + share * x.flip(3))


def test_perlin_noise_point_by_point():
    vectors = 2 * x_of((3, 3, 2), 1, 6) - 1
    found = perlin(vectors, 8)[0]
    fade = lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3  # noqa: E731
    for row, column in ((0, 0), (1, 2), (3, 7), (6, 5)):
        i, j, t, s = row // 4, column // 4, row % 4 / 4, column % 4 / 4
        total = 0.0
        for a in (0, 1):
            for b in (0, 1):
                weight = (fade(t) if a else 1 - fade(t)) * (fade(s) if b else 1 - fade(s))
                vector = vectors[0, i + a, j + b]
                total += weight * float(vector[0] * (t - a) + vector[1] * (s - b))
        assert float(found[row, column]) == pytest.approx(math.sqrt(2) * total, abs=1e-12)


def test_the_octaves_of_fbm_halve():
    attack, x = FBM(own(1), cells=2), torch.full((1, 1, 8, 8), 0.5).double()
    assert attack.grids(x) == [2, 4] and FBM(own(1)).grids(x_of((3, 32, 32))) == [8, 16]
    first, second = 0.2 * x_of((18,), 1, 1), 0.2 * x_of((50,), 1, 2)
    expected = perlin(first.view(1, 3, 3, 2), 8) + perlin(second.view(1, 5, 5, 2), 8) / 2
    assert torch.allclose(attack.render(torch.cat([first, second], 1), x)[:, 0] - 0.5, expected)


def test_glitch_slides_each_line_of_each_channel_by_its_own_way():
    x, ways = x_of((2, 6, 8)), torch.zeros(2, 2, 3).double()
    ways[0, 1, 2] = 3 * 2 / 8  # three pixels: rows 4 and 5 of channel 1 come from the right, the border reflected
    moved = Glitch(own(1), lines=3, centres=True).render(ways, x)
    assert torch.allclose(moved[0, 1, 4:], x[0, 1, 4:][:, [3, 4, 5, 6, 7, 7, 6, 5]])
    moved[0, 1, 4:] = x[0, 1, 4:]
    assert torch.allclose(moved, x)
    half = Glitch(own(1), lines=3).render(torch.zeros_like(ways), x)
    assert torch.allclose(
        half[:, :, 1:, 1:], (x[:, :, 1:, 1:] + x[:, :, 1:, :-1] + x[:, :, :-1, 1:] + x[:, :, :-1, :-1]) / 4
    )


def test_colours_are_those_of_the_standard_library():
    x = torch.cat([x_of((3, 4, 5)), torch.zeros(1, 3, 4, 5), torch.full((1, 3, 4, 5), 0.3)]).double()
    expected = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in x.permute(0, 2, 3, 1).flatten(0, 2).tolist()])
    assert torch.allclose(to_hsv(x).permute(0, 2, 3, 1).flatten(0, 2), expected.double(), atol=1e-6)
    assert torch.allclose(to_rgb(to_hsv(x)), x, atol=1e-12)


def test_pixel_mixes_each_block_with_its_corner_and_cuts_the_last():
    x, share = x_of((1, 5, 4)), x_of((1, 2, 2), seed=2)
    found = Pixel(own(1), size=3).render(share, x)
    for row in range(5):
        for column in range(4):
            i, j = row // 3, column // 3
            v = share[0, 0, i, j]
            assert torch.isclose(found[0, 0, row, column], (1 - v) * x[0, 0, row, column] + v * x[0, 0, 3 * i, 3 * j])


def test_a_flake_is_a_line_through_the_middle():
    thin, thick = flake_lines(torch.tensor([[1, 1], [1, 1]]), torch.tensor([1, 3]), 3)
    side = math.sqrt(2) / 4
    expected = torch.tensor([[1, side, 0], [side, 1, side], [0, side, 1]])
    assert torch.allclose(thin.float(), expected)
    assert thick.tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    (steep,) = flake_lines(torch.tensor([[2, 1]]), torch.tensor([1]), 5)
    reach = math.sqrt(1.5) / 4  # down to two, across to one: slope one half
    assert torch.allclose(
        steep[2:, 2:].float(), torch.tensor([[1, reach, 0], [0.5 + reach, 0.5 + reach, 0], [reach, 1, reach]])
    )
    assert torch.equal(steep, steep.flip(0, 1))


def test_all_flakes_of_an_image_lean_to_one_side_and_images_to_both():
    lines = random_lines(Noise(0, torch.arange(40)), 5, 3)
    right = lines[:, :, 0, 2] > 0
    assert torch.equal(right.any(1), right.all(1)) and 8 < right[:, 0].sum() < 32
    assert 0.4 < (lines[:, :, 1, 2] < 1).float().mean() < 0.8


def test_snow_is_a_convolution_layer_by_layer():
    maps, kernels = x_of((2, 6, 7)), x_of((2, 3, 3), seed=1)
    expected = torch.cat(
        [torch.nn.functional.conv2d(m[None], k[None], padding=1) for m, k in zip(maps, kernels, strict=True)]
    )
    assert torch.allclose(convolved(maps, kernels), expected)


def test_snow_pulls_colours_towards_white():
    x = torch.tensor([0.2, 0.4, 0.6]).double().view(1, 3, 1, 1).expand(1, 3, 4, 4)
    attack = Snow(own(1), discolour=0.5)
    found = attack.render(torch.zeros(1, 5, 4, 4).double(), x, torch.ones(1, 5, 3, 3).double())
    grey = 1.5 * (0.2126 * 0.2 + 0.7152 * 0.4 + 0.0722 * 0.6) + 0.5
    assert torch.allclose(found[0, :, 0, 0], (x[0, :, 0, 0] + grey) / 2) and 0.6 < grey < 1.2


def test_a_whirlpool_turns_what_is_near():
    """A quarter turn at a distance where exp(-r / R) is a half, of a disc that is bright on one side."""
    radius = 5 * 0.5 / math.log(2) ** 2  # half the angle at r = 0.5
    x = torch.zeros(1, 1, 9, 9).double()
    x[0, 0, 4, 6] = 1
    attack = Whirlpool(own(9), whirlpools=1, radius=radius, least=0.0, centres=True)
    quarter = torch.tensor([[math.pi]]).double()
    away = math.pi * math.exp(-4 / 9 * 5 / (math.log(2) * radius))
    found = attack.render(quarter, x, torch.zeros(1, 1, 2).double())
    row, column = divmod(int(found.argmax()), 9)
    assert (row, column) == (4 - round(2 * math.sin(away)), 4 + round(2 * math.cos(away)))
    assert torch.allclose(attack.render(-quarter, x, torch.zeros(1, 1, 2).double()), found)


def test_wood_is_rings_around_the_middle():
    x, attack = torch.ones(1, 1, 8, 8).double(), Wood(own(0.1), rings=2, sharpness=4.0, resolution=8)
    shift = 0.1 * x_of((1, 8, 8), 1, 3)
    for row, column in ((0, 0), (4, 4), (7, 2)):
        r = math.hypot((row - 4) / 4, (column - 4) / 4) + float(shift[0, 0, row, column])
        expected = abs(math.sin(2 * math.pi * r)) ** 0.25
        assert float(attack.render(shift, x)[0, 0, row, column]) == pytest.approx(expected)


def test_where_wood_is_black_its_gradient_is_0():
    x, shift = torch.ones(1, 1, 8, 8).double(), torch.zeros(1, 1, 8, 8).double().requires_grad_(True)
    image = Wood(own(0.1), resolution=8).render(shift, x)
    assert image[0, 0, 4, 4] == 0
    (grad,) = torch.autograd.grad(image.sum(), shift)
    assert torch.isfinite(grad).all() and grad[0, 0, 4, 4] == 0 and grad.abs().sum() > 0


def areas(kind, size, count=400, side=40):
    attack = Kaleidoscope(own(0.1), shapes=1, size=size)
    drawn = Noise(0, torch.arange(count)).uniform(1, 3)
    return attack.cut(torch.full((count, 1), kind), drawn, side, side).flatten(1).sum(1).double()


@pytest.mark.parametrize("kind, area", [(CIRCLE, math.pi * 9), (SQUARE, 36), (TRIANGLE, math.sqrt(3) / 4 * 10**2)])
def test_shapes_have_their_areas(kind, area):
    found = areas(kind, 6)
    if kind != CIRCLE:
        assert float(found.mean()) == pytest.approx(area, rel=0.05)
        assert found.min() > 0.7 * area
    else:  # some stand over the border
        assert float(found.max()) == pytest.approx(area, rel=0.15) and found.min() < 0.5 * area


def test_outlines_lie_around_the_shapes_and_over_the_others():
    attack = Kaleidoscope(own(0.1), shapes=3, size=4, edge=3)
    inside, outline = attack.masks(Noise(1, torch.arange(6)), torch.zeros(6, 3, 20, 20))
    for shapes, ring in zip(inside, outline[:, 0], strict=True):
        expected = torch.zeros(20, 20, dtype=torch.bool)
        for row in range(20):
            for column in range(20):
                near = shapes[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].flatten(1).any(1)
                expected[row, column] = (near & ~shapes[:, row, column]).any()
        assert torch.equal(ring, expected) and ring.any()


def test_a_kaleidoscope_paints_in_bright_colours():
    attack, x = Kaleidoscope(own(0), shapes=2, size=4), 0.5 * x_of((3, 16, 16), 4)
    noise = Noise(2, torch.arange(4))
    colours, (inside, outline) = attack.colours(noise, 3).double(), attack.masks(noise, x)
    hsv = to_hsv(colours.flatten(0, 1)[:, :, None])
    assert hsv[:, 1].min() >= 0.7 - 1e-6 and hsv[:, 2].min() >= 0.8 - 1e-6 and hsv[:, 0].std() > 0.1
    found = attack.render(torch.zeros(4, 6 + 256).double(), x, colours, inside, outline)
    ring, under = outline.expand_as(x), ~(outline | inside.any(1, keepdim=True)).expand_as(x)
    assert (found[ring] == 0).all() and torch.equal(found[under], x[under])
    alone = inside[0, 0] & ~inside[0, 1] & ~outline[0, 0]
    assert alone.any()
    assert torch.allclose(found[0][:, alone], (0.2 * x[0][:, alone] + colours[0, 0, :, None]).clamp(0, 1))


def test_colours_alone_refuse_grey_images():
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="HSV knows images of 3 channels; these have 1"):
        HSV(own(0.1))(Target(small_cnn(1)), x, torch.zeros(2).long(), Noise(0, torch.arange(2)))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_norm_of_images_is_refused(name):
    with pytest.raises(ValueError, match='give norm "own"'):
        type(ATTACKS[name])(ThreatModel("Linf", 0.1))


@pytest.mark.parametrize(
    "settings, message",
    [
        (lambda: Blur(own(1.5)), "a share of the blurred image, 0 to 1; got 1.5"),
        (lambda: Blur(own(1), kernel=4), "a kernel of 4 with 25"),
        (lambda: FBM(own(1), cells=3), "a power of 2, such as 8; got 3"),
        (lambda: FBM(own(1)).grids(torch.rand(1, 1, 8, 8)), "8 a side are too many for images of 8 x 8"),
        (lambda: Glitch(own(1), lines=0), "got 0"),
        (lambda: HSV(own(1), kernel=2), "got kernel = 2, std = 3.0"),
        (lambda: Kaleidoscope(own(1), edge=2), "edge = 2"),
        (lambda: Kaleidoscope(own(1), transparency=2), "are shares, 0 to 1"),
        (lambda: Pixel(own(1), size=0), "got size = 0"),
        (lambda: Snow(own(1), size=4), "size = 4"),
        (lambda: Snow(own(1), discolour=2), "got 2"),
        (lambda: Whirlpool(own(1), radius=0), "radius = 0"),
        (lambda: Wood(own(1), rings=0), "rings = 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()
