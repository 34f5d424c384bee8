"""Averaged weights: the recurrence in closed form, buffers with them, and the average is what is judged and kept."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from oracles import small_cnn
from tiny import SCHEDULE, networks, stripes, train, weights
from torch import nn

from attacks.target import Target
from trainers import ema


def batch_norm(value: float, batches: int) -> nn.Module:
    network = nn.BatchNorm1d(3)
    with torch.no_grad():
        for each in (*network.parameters(), network.running_mean, network.running_var):
            each.fill_(value)
    network.num_batches_tracked.fill_(batches)
    return network


def test_the_average_is_the_weighted_sum_written_out():
    """a_T = d^T a_0 + (1 - d) sum_t d^(T - t) w_t, for weights and running statistics; counts are the network's."""
    average, values, d = batch_norm(1.0, 0), [5.0, -2.0, 3.0], 0.9
    for batches, value in enumerate(values, 1):
        ema.update(average, batch_norm(value, batches), d)
    expected = d**3 + (1 - d) * sum(d ** (2 - t) * value for t, value in enumerate(values))
    for each in (average.weight, average.bias, average.running_mean, average.running_var):
        assert torch.allclose(each, torch.full((3,), expected))
    assert average.num_batches_tracked == 3


def test_the_decay_warms_up():
    assert [ema.decay_at(0.5, batches) for batches in (0, 1, 7, 8, 9, 1000)] == [0.1, 2 / 11, 8 / 17, 0.5, 0.5, 0.5]


def test_the_average_is_what_is_validated_and_kept_and_the_networks_train_on():
    plain, _ = train()
    group, result = train(schedule=dataclasses.replace(SCHEDULE, ema=0.98))
    assert torch.equal(weights(plain[0]), weights(group[0])), "averaging must not touch the training itself"
    judged = small_cnn(1, 2, 0)
    judged.load_state_dict(result.last[0].state)
    assert not torch.allclose(weights(judged), weights(group[0]))
    data = stripes(20, 1)
    clean = (Target(judged).logits(data.x).argmax(1) == data.y).float().mean()
    assert result.last[0].clean == pytest.approx(float(clean))


def test_the_average_of_a_training_is_that_of_its_weights_after_every_batch():
    seen: list[torch.Tensor] = []
    group = networks(1)
    start = weights(group[0])
    schedule = dataclasses.replace(SCHEDULE, epochs=2, ema=0.3)
    _, result = train(schedule=schedule, group=group, on_step=lambda: seen.append(weights(group[0])))
    assert len(seen) == 6, "two epochs of three batches"
    for batches, value in enumerate(seen):
        d = min(0.3, (1 + batches) / (10 + batches))
        start = d * start + (1 - d) * value
    kept = torch.cat([value.flatten() for value in result.last[0].state.values()])
    assert torch.allclose(kept, start, atol=1e-5)
