"""Noise belongs to the image: same numbers in any batch and order, good enough as random numbers, no global state."""

from __future__ import annotations

import torch

from attacks.noise import Noise, derive_seed
from attacks.norms import distance, random_in_ball


def test_an_image_has_the_same_noise_alone_and_in_any_order():
    ids = torch.tensor([5, 900, 3, 77])
    together = Noise(1, ids).uniform(3, 4)
    for row, image in enumerate(ids):
        assert torch.equal(Noise(1, image[None]).uniform(3, 4)[0], together[row])
    assert torch.equal(Noise(1, ids)[torch.tensor([2, 0])].uniform(3, 4), together[[2, 0]])


def test_chunks_do_not_show(monkeypatch):
    whole = Noise(1, torch.arange(50)).uniform(7)
    monkeypatch.setattr("attacks.noise.CHUNK", 21)
    assert torch.equal(Noise(1, torch.arange(50)).uniform(7), whole)


def test_first_numbers_are_splitmix64():
    """Seed 0, image 0 written out in Python integers modulo 2**64."""
    mask = (1 << 64) - 1

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix(mix(golden) ^ 123)
    expected = [(mix(key + n * golden & mask) >> 40) * 2.0**-24 for n in (1, 2, 3)]
    assert Noise(123, torch.tensor([0])).uniform(3)[0].tolist() == expected


def test_streams_and_seeds_differ():
    noise = Noise(1, torch.arange(4))
    draws = [noise, noise.fork("a"), noise.fork("b"), noise.fork("a", 1), Noise(2, noise.ids)]
    values = torch.stack([draw.uniform(64).flatten() for draw in draws])
    assert len({tuple(row.tolist()) for row in values}) == len(draws)
    assert derive_seed("a", "b") != derive_seed("ab") and derive_seed("a", 1) == derive_seed("a", 1)


def test_numbers_are_uniform_normal_and_uncorrelated():
    noise = Noise(3, torch.arange(400))
    u = noise.uniform(500)
    assert 0 <= u.min() and u.max() < 1
    counts = torch.histc(u, bins=100, min=0, max=1)
    assert (counts - 2000).abs().max() < 5 * 2000**0.5
    z = noise.normal(500)
    assert abs(z.mean()) < 0.012 and abs(z.std() - 1) < 0.01 and torch.isfinite(z).all()
    neighbours = torch.corrcoef(torch.stack([z[:-1].flatten(), z[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.012
    k = noise.integers(5, 20, 50)
    assert set(k.unique().tolist()) == set(range(5, 21))


def test_global_random_state_is_untouched():
    before = torch.random.get_rng_state()
    Noise(0, torch.arange(10)).normal(3, 8, 8)
    assert torch.equal(before, torch.random.get_rng_state())


def test_points_are_uniform_in_their_ball():
    """In d dimensions the share within half the radius is 2**-d; here d = 4."""
    x = torch.zeros(40_000, 1, 2, 2)
    for norm in ("Linf", "L2", "L1"):
        radius = distance(norm, x, random_in_ball(norm, 0.7, x, Noise(5, torch.arange(len(x)))))
        assert radius.max() <= 0.7 + 1e-6
        inner = (radius < 0.35).double().mean()
        assert abs(inner - 2.0**-4) < 0.005, norm
