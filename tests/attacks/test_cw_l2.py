"""C&W in L2: the algorithm against torch's Adam; saturated pixels; search and early stop image by image."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from attacking import exact, run
from oracles import linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.cw_l2 import CarliniWagnerL2
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target

SHORT = {"steps": 60, "lr": 0.05, "binary_search_steps": 3, "initial_c": 0.1}


def cw(**settings):
    return CarliniWagnerL2(ThreatModel("L2", 0.5), **settings)


def counted(attack, model, x, y, batch_size=None):
    target = Target(model, batch_size).counting(len(x))
    x_adv = attack(target, x, y, Noise(0, torch.arange(len(x))))
    return x_adv, target.passes_per_image


def problem(count=20, dtype=torch.float64):
    model = small_cnn().to(dtype)
    x = saturated_images(count, (3, 12, 12), 3).to(dtype)
    return model, x, model(x).argmax(1)


def slow(model, x, y, steps, lr, binary_search_steps, initial_c, edge, patience):
    """The paper's loss for one image under torch's Adam -> (closest fooling image, gradient passes)."""
    c, low, high = initial_c, 0.0, math.inf
    found, shortest, passes = x, math.inf, 0
    for _ in range(binary_search_steps):
        w = torch.atanh(edge * (2 * x - 1)).requires_grad_(True)
        optimizer = torch.optim.Adam([w], lr)
        fooled, losses = False, []
        for _ in range(steps):
            image = (1 + w.tanh() / edge) / 2
            logits = model(image[None])[0]
            other = max(logits[k] for k in range(len(logits)) if k != y)
            loss = (image - x).square().sum() + c * (logits[y] - other).clamp(min=0)
            if logits.argmax() != y:
                fooled = True
                if (image - x).norm() < shortest:
                    found, shortest = image.detach(), (image - x).norm()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                w.clamp_(-math.atanh(edge), math.atanh(edge))
            passes += 1
            losses.append(loss.item())
            improved = [i for i, value in enumerate(losses) if value < 0.9999 * min(losses[:i], default=math.inf)]
            if len(losses) - 1 - improved[-1] >= patience:
                break
        low, high = (low, c) if fooled else (c, high)
        c = 10 * c if high == math.inf else (low + high) / 2
    return found, passes


@pytest.mark.parametrize("edge, patience", [(0.99, 1000), (0.8, 5)])
def test_every_iteration_is_adam_on_the_papers_loss(edge, patience):
    """Early stop and binary search included: the images take different values of c and different numbers of steps."""
    model, x, y = problem(5)
    settings = {**SHORT, "steps": 20, "edge": edge, "patience": patience}
    found, passes = counted(cw(refine=0, **settings), model, x, y, batch_size=4)
    costs = set()
    for i, label in enumerate(y.tolist()):
        expected, cost = slow(model, x[i], label, **settings)
        assert (found[i] - expected).abs().max() < 1e-7
        assert passes[:, i].tolist() == [cost + 1, cost]
        costs.add(cost)
    assert (found != x).flatten(1).any(1).sum() >= 3 and (len(costs) > 1) == (patience == 5)


def test_images_of_only_0_and_1_are_attacked():
    """Without the refinement; with the walls at infinity, as in the paper, they never move."""
    model, x, _ = linear_problem(2, (1, 8, 8), 3)
    x = x.round().double()
    y = model.double()(x).argmax(1)
    ours, papers = (run(cw(refine=0, edge=edge, **SHORT), model, x, y) for edge in (0.99, 1 - 1e-15))
    assert (distance("L2", x, ours) < 1.1 * exact("L2", model, x, y)).all()
    assert (model(ours).argmax(1) != y).all() and (model(papers).argmax(1) == y).all()


def test_an_image_alone_takes_the_same_steps_to_the_same_answer():
    """Searching on sums over a batch, an early stop of all images or one c for all would show here."""
    model, x, y = problem(6)
    together, passes = counted(cw(**SHORT), model, x, y)
    assert len(passes[1].unique()) > 3, "the sample must stop at different times"
    for i in range(len(x)):
        alone, cost = counted(cw(**SHORT), model, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-9) and torch.equal(cost[:, 0], passes[:, i])


def test_impatience_saves_passes_and_hardly_lengthens_the_way():
    model, x, y = problem()
    (soon, few), (late, many) = (counted(cw(refine=0, patience=p, **SHORT), model, x, y) for p in (10, 1000))
    assert (many[1] == 180).all() and few[1].double().mean() < 0.6 * 180
    soon, late = distance("L2", x, soon), distance("L2", x, late)
    assert (late <= soon + 1e-9).all() and soon.median() < 1.02 * late.median()


def test_what_nothing_fools_comes_back_as_it_is():
    model, x, y = problem(4)
    with torch.no_grad():
        model[-1].bias[int(y[0])] += 1e4
    fixed = torch.full_like(y, int(y[0]))
    assert torch.equal(run(cw(**SHORT), model, x, fixed), x)


def test_wrong_images_cost_one_look():
    model, x, y = problem(6)
    y = torch.where(torch.arange(6) < 3, (y + 1) % 10, y)
    x_adv, passes = counted(cw(**SHORT), model, x, y)
    assert torch.equal(x_adv[:3], x[:3]) and (x_adv[3:] != x[3:]).flatten(1).any(1).all()
    assert passes[:, :3].tolist() == [[1] * 3, [0] * 3]


def test_float32_answers_fool_in_every_batch_size():
    model, x, y = problem(40, torch.float32)
    x_adv = run(cw(**SHORT), model, x, y)
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.sum() > 30
    for size in (1, 7, 40):
        logits = torch.cat([model(part) for part in x_adv.split(size)])
        assert torch.equal(logits.argmax(1) != y, moved)


@pytest.mark.parametrize(
    "threat, settings, message",
    [
        (ThreatModel("Linf", 0.1), {}, "works in L2"),
        (ThreatModel("L2", 0.5), {"steps": 0}, "steps = 0"),
        (ThreatModel("L2", 0.5), {"binary_search_steps": 0}, "binary_search_steps = 0"),
        (ThreatModel("L2", 0.5), {"patience": 0}, "patience = 0"),
        (ThreatModel("L2", 0.5), {"refine": -1}, "refine = -1"),
        (ThreatModel("L2", 0.5), {"lr": 0.0}, "lr = 0"),
        (ThreatModel("L2", 0.5), {"initial_c": 0.0}, "initial_c = 0"),
        (ThreatModel("L2", 0.5), {"edge": 1.0}, "edge = 1"),
    ],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        CarliniWagnerL2(threat, **settings)


@pytest.mark.peers
def test_never_weaker_than_foolbox():
    """At fewer steps than Table 5's, the same for both."""
    model, x, y = problem(20, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from foolbox import PyTorchModel
        from foolbox.attacks import L2CarliniWagnerAttack

        peer = L2CarliniWagnerAttack(3, 60, 0.05, initial_const=0.1, abort_early=False)
        theirs, _, _ = peer(PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    theirs[model(theirs).argmax(1) == y] = torch.inf
    peer = distance("L2", x, theirs)
    plain, refined = (distance("L2", x, run(cw(refine=r, **SHORT), model, x, y)) for r in (0, 5))
    assert plain.median() <= 1.01 * peer.median()
    assert refined.median() <= peer.median() and (refined <= 1.01 * peer).double().mean() > 0.9
