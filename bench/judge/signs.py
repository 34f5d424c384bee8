"""Signs, at the cost of a few passes, that an attack's number is not what it seems: each is a phrase, none is [].

What an attack cannot know of itself: a model whose answers move, mix the images of a batch, remember images, are others
when gradients are asked for, or are scores and no logits; that climbs a gradient inside its forward pass; a gradient
that is zero or leads nowhere; a random search that finds what gradients do not; steps too short for the radius.
AutoAttack (Croce & Hein 2020, https://arxiv.org/abs/2003.01690) prints five of these beside its number: random answers,
scores, zero gradients, Square stronger, a forward pass that optimises. They say where to look; `bench diagnose` looks.

Every question goes to a copy that has seen nothing, on at most SAMPLE images, with noise that belongs to the image; the
passes are not the attack's and are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from attacks.autoattack import AutoAttack
from attacks.contract import Attack, ThreatModel
from attacks.losses import LOSSES, Loss, cross_entropy, log_odds
from attacks.model import ModelError
from attacks.noise import Noise, derive_seed
from attacks.norms import per_image, random_in_ball
from attacks.pgd import MIM, PGD
from attacks.square import Square
from attacks.target import Target, true_float32
from bench.ground.stats import wilson
from bench.subjects.blank import Blank
from bench.subjects.data import Images

SAMPLE = 48
USUAL = ThreatModel("Linf", 8 / 255)  # where the attack has no radius between images
REPEATED = 1e-4  # drift of logits as a share of their spread: AutoAttack's flag for random models
ROUNDING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # drift between kernels; of TF32: 1e-3
FLAT = 0.10  # share of images without a gradient
STEPS = (0.05, 0.1)  # of the radius: how far the gradient's word is held to what the loss does
UPHILL = 0.95  # share of images where the longer step raises the loss; honest networks had 1.00, see docs/diagnose.md
SLOPE = 0.5  # rise of the loss, off from the gradient's forecast (median over images, the better step); honest: 0.18
CHANCE = 0.10  # of the way from guessing to knowing
LEAST = 10  # images, for a share to say something
LONE = 0.002  # share of images that Square alone breaks: AutoAttack's flag, held against the low end of the interval
CLIMBS = (torch.autograd.grad.__code__, torch.autograd.backward.__code__)  # also ways of torch.func and Tensor.backward
SUMS = 0.01  # relative spread of the sums of rows of scores, whose sum is one number: half precision has 0.004


def of_steps(name: str, attack: Attack | None) -> list[str]:
    """An attack whose steps, all in one direction, do not cross its ball's radius."""
    given: dict[str, Any] = {"step": getattr(attack, "step", None), "steps": getattr(attack, "steps", None)}
    given |= getattr(attack, "settings", None) or {}
    eps = attack.threat.eps if attack is not None and attack.threat.norm not in ("own", "corruptions") else 0.0
    if isinstance(attack, (PGD, MIM)):
        lengths = [attack.length(step) if isinstance(attack, PGD) else attack.step for step in range(attack.steps)]
    elif (step := _library_step(given, eps)) is not None:
        lengths = [step] * given["steps"]
    else:
        return []
    if not 0 < sum(lengths) < eps * (1 - 1e-6):  # 0: points drawn in the ball, no ascent
        return []
    return [
        f"{name}: {len(lengths)} steps of {lengths[0]:g} reach {sum(lengths):g} of the radius {eps:g}; take longer ones"
    ]


def _library_step(given: dict[str, Any], eps: float) -> float | None:
    """The step of another library's attack in image units, by its names for it; None where it has none."""
    if not isinstance(given.get("steps"), int):
        return None
    absolute = next((given[name] for name in ("abs_stepsize", "alpha") if given.get(name) is not None), None)
    relative = given.get("rel_stepsize")
    return absolute if absolute is not None else None if relative is None else relative * eps


def of_outputs(logits: Tensor, y: Tensor) -> list[str]:
    """logits [N, K] of clean images, y [N] labels: outputs that are scores; an accuracy near that of guessing."""
    signs, n = _scores(logits), len(y)
    accuracy, guessing = float((logits.argmax(1) == y).float().mean()), 1 / logits.shape[1]
    if n >= LEAST and accuracy < guessing + CHANCE * (1 - guessing):
        signs.append(
            f"clean accuracy {accuracy:.0%} is near guessing among {logits.shape[1]} classes: are the weights, the "
            "normalisation (--mean, --std) and the order of the classes those of training?"
        )
    return signs


def _scores(logits: Tensor) -> list[str]:
    """Outputs squashed into a range, as by softmax, sigmoid or tanh, or by votes: losses on them saturate."""
    low, high, sums = float(logits.min()), float(logits.max()), logits.double().sum(1)
    largest = logits.abs().amax(1)
    top = float(largest.max())
    if low == high:
        return ["every output is the same number"]
    if low >= 0 and float(sums.std(correction=0)) < SUMS * float(sums.mean()) and len(logits) > 1:
        found = f"are all >= 0 with one sum ({float(sums.mean()):.3g}), as probabilities and votes are"
    elif low >= 0 and high <= 1:
        found = "all lie in [0, 1], as sigmoid scores do"
    elif top <= 1 and float((largest > 0.9).float().mean()) > 0.5:
        found = "all lie in [-1, 1] and many at its ends, as tanh scores do"
    elif len(logits) >= LEAST and float((_spread(logits) > 0.999 * _spread(logits).max()).float().mean()) > 0.25:
        found = "often lie exactly as far apart as they ever do, as scores in a range do"
    else:
        return []
    return [f"the model's outputs {found}: losses on scores saturate; return the logits before"]


@dataclass(frozen=True)
class Questions:
    """To copies of a model, about n images. ball: where an attack looks."""

    blank: Blank
    images: Images
    ball: ThreatModel

    @property
    def x(self) -> Tensor:
        """[n, C, H, W]."""
        return self.images.x

    def ask(self, x: Tensor, batch_size: int | None = None) -> Tensor:
        """Logits [n, K] of a copy that has seen nothing."""
        return Target(self.blank.fresh(), batch_size).true_logits(x)

    def climb(self, x: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """(loss [n], its gradient like x, logits [n, K]) of a copy that has seen nothing."""
        with true_float32():  # as `ask`, or the rounding of TF32 would look like another answer
            return Target(self.blank.fresh()).loss_grad(x, self.images.y, loss)

    def useless(self, x: Tensor, loss: Loss) -> Tensor:
        """[n] bool: the gradient that an attack sees is 0 everywhere, or not finite somewhere."""
        target = Target(self.blank.fresh()).counting(len(x))
        flat = target.loss_grad(x, self.images.y, loss)[1].flatten(1)
        return (flat == 0).all(1) | ~torch.isfinite(flat).all(1)

    def beside(self) -> Tensor:
        """A random point of each image's ball, in [0, 1]."""
        noise = Noise(derive_seed("signs"), self.images.ids)
        return (self.x + random_in_ball(self.ball.norm, self.ball.eps, self.x, noise)).clamp(0, 1)


def about(blank: Blank, attack: Attack | None, images: Images) -> Questions:
    """The questions that an attack's number raises, about a sample of its images, on the model's device."""
    threat = USUAL if attack is None else attack.threat
    bounded = threat.norm in ("Linf", "L2", "L1") and threat.eps > 0
    return Questions(blank, images.take(sample(len(images)).to(images.x.device)), threat if bounded else USUAL)


def sample(n: int) -> Tensor:
    """At most SAMPLE of n rows, evenly spread."""
    return torch.linspace(0, n - 1, min(n, SAMPLE)).round().long()


def moved(questions: Questions) -> float:
    """By how much logits of two passes differ, as a share of their spread; 0.0 where that is none to speak of."""
    target = Target(questions.blank.fresh())
    found = _drift(*(target.true_logits(questions.x) for _ in range(2)))
    return found if found > REPEATED else 0.0


def check_still(questions: Questions) -> None:
    """Raises ModelError for a model whose answers move: what one draw says of it is chance."""
    if found := moved(questions):
        raise ModelError(
            f"its answers move (logits of two passes differ by {found:.2g} of their spread), so that one draw is no "
            "verdict; ask it again and again (bench attack --draws 20), or take a single draw (--draws 1)"
        )


def of_moves(questions: Questions) -> list[str]:
    """A model whose answers move, under an attack that sees one draw at a time."""
    found = moved(questions)
    return [
        f"the answers move: logits of two passes differ by {found:.2g} of their spread, so that a gradient says "
        "little about the next pass; attack the mean of many passes (--draws)"
    ] if found else []  # fmt: skip


def of_answers(questions: Questions, logits: Tensor) -> list[str]:
    """logits [n, K]: what a model whose answers do not move said of these, among all others. Raises ModelError."""
    x, target = questions.x, Target(questions.blank.fresh())
    once = target.true_logits(x)
    if not questions.blank.copied:
        return ["the model cannot be copied, so whether it remembers images was not looked at"]
    rounding, near = _rounding(questions.blank, once), questions.beside()
    third, few = max(1, len(x) // 3), slice(0, 4)
    groups = [(once, logits), (once, questions.ask(x.flip(0), third).flip(0)), (once[few], questions.ask(x[few], 1))]
    if (mixed := max(_drift(*pair) for pair in groups)) > rounding:
        return [
            f"the images of a batch mix: logits differ by {mixed:.2g} of their spread in other batches, so the number "
            "is one of this batch size (batch statistics?)"
        ]
    seen, unseen = target.true_logits(near), questions.ask(near)
    if (remembered := _drift(seen, unseen)) > rounding:
        return [_remembers(f"beside images it has seen its logits are others, by {remembered:.2g} of their spread")]
    flat = int((seen == once).all(1).sum())
    if flat >= max(2, len(x) / 2):
        return [f"logits stay the same to the last bit under noise of the radius on {flat} of {len(x)} images: "
                "the model is flat there, or remembers"]  # fmt: skip
    return []


def of_inner_steps(questions: Questions) -> list[str]:
    """A forward pass that climbs or descends a gradient of its own: seen on one image. Raises ModelError."""
    with _calls_of(CLIMBS) as calls:
        Target(questions.blank.fresh()).true_logits(questions.x[:1])
    if not calls:
        return []
    times = f"{len(calls)} times" if len(calls) > 1 else "once"
    return [
        f"the forward pass optimises: it asks autograd for a gradient {times}, so attacks that see its output as one "
        "function may miss what an attack on the optimisation finds"
    ]


@contextmanager
def _calls_of(functions: tuple[CodeType, ...]) -> Iterator[list[CodeType]]:
    """The calls of these functions in this thread while inside; whoever profiles it goes on after."""
    calls, before = list[CodeType](), sys.getprofile()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in functions:
            calls.append(frame.f_code)

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def of_search(name: str, broken: int, n: int) -> list[str]:
    """Square, the attack of that name, broke so many of n images after gradient attacks in the same ball had not."""
    if broken < 2 or wilson(broken, n)[0] <= LONE:  # one image is chance
        return []
    return [
        f"{name} breaks {broken} of {n} images that gradient attacks left: random search finds what gradients miss, so "
        "their number is too high, and so may this one be"
    ]


def of_parts(name: str, attack: Attack | None, fooled_by: Tensor) -> list[str]:
    """`of_search` within AutoAttack. fooled_by [n]: see `attacks.target.Target`."""
    if not isinstance(attack, AutoAttack):
        return []
    search = [place for place, part in enumerate(attack.parts) if isinstance(part, Square)]
    return of_search(f"Square in {name}", int(torch.isin(fooled_by, torch.tensor(search)).sum()), len(fooled_by))


def of_gradients(questions: Questions) -> list[str]:
    """Of images that the model gets right. Raises ModelError."""
    x = questions.x
    if len(x) < 2:
        return []
    plain = questions.ask(x)
    if _drift(plain, questions.ask(x)) > REPEATED:
        return []  # answers that move have a sign of their own
    loss, slope, seen = questions.climb(x, _log_odds)
    if seen.dtype != plain.dtype:  # of float64 a gradient pass shows each row without its largest
        plain = plain - plain.amax(1, keepdim=True)
    if (other := _drift(plain, seen)) > _rounding(questions.blank, plain):
        return [f"the model answers otherwise when gradients are asked for: logits differ by {other:.2g} of their "
                "spread, so gradient attacks see another function"]  # fmt: skip
    return _flat(questions) or _uphill(questions, loss, slope)


def _flat(questions: Questions) -> list[str]:
    """A gradient of the cross-entropy that is zero, at the image or at a point that an attack may start from."""
    near, n = questions.beside(), len(questions.images)
    here = questions.useless(questions.x, cross_entropy)
    there, margin = (questions.useless(near, loss) for loss in (cross_entropy, LOSSES["margin"]))
    if (zero := max(int(here.sum()), int(there.sum()))) <= FLAT * n:
        return []
    saturated = float(margin.sum()) < float(there.sum()) / 2
    cure = (
        "the softmax saturates: attack a margin, or scale the logits down" if saturated else "the model is flat there"
    )
    return [f"the gradient is zero on {zero} of {n} images: {cure}"]


def _uphill(questions: Questions, loss: Tensor, slope: Tensor) -> list[str]:
    """A gradient that does not say how the loss rises. loss [n] and slope: of `_log_odds`, at the images."""
    x, y, n = questions.x, questions.images.y, len(questions.images)
    errors = []
    for share in STEPS:
        there = step(x, slope, questions.ball, share)
        rise = _log_odds(questions.ask(there), y) - loss
        said = (slope.double() * (there.double() - x.double())).flatten(1).sum(1)
        errors.append(float(torch.nan_to_num(rise / said, nan=0.0).sub(1).abs().median()))
        rises = rise > 0
    up = int(rises.sum())
    if up < min(UPHILL * n, n - 1):
        return [
            f"a short step along the gradient raises the loss on {up} of {n} images only: it does not point uphill "
            "(shattered, replaced or a decoy)"
        ]
    if min(errors) > SLOPE:
        return [
            f"the loss rises otherwise than the gradient says, off by {min(errors):.0%} (median of {n} images): the "
            "backward pass is not the slope of the forward pass"
        ]
    return []


def _log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """In float64: the rise along a short step is small."""
    return log_odds(logits.double(), y)


def of_memory(blank: Blank, own: Tensor, afresh: Tensor) -> list[str]:
    """Logits [n, K] of adversarial images: of the model that was attacked, and of a copy that had seen nothing."""
    if _drift(own, afresh) <= _rounding(blank, afresh):
        return []
    changed = int((own.argmax(1) != afresh.argmax(1)).sum())
    return [_remembers(f"after the attack {changed} of {len(own)} adversarial images get another class")]


def _remembers(words: str) -> str:
    return f"the model remembers what it was asked: {words}; a copy that had seen nothing gave the verdicts"


def step(x: Tensor, grad: Tensor, ball: ThreatModel, share: float) -> Tensor:
    """x after a step up the gradient, of that share of the radius in the ball's norm, in [0, 1]."""
    grad = torch.nan_to_num(grad)
    if ball.norm == "Linf":
        return (x + share * ball.eps * grad.sign()).clamp(0, 1)
    longest = ball.eps if ball.norm == "L2" else ball.eps / x[0].numel() ** 0.5
    unit = grad / per_image(grad.flatten(1).norm(dim=1).clamp_min(torch.finfo(grad.dtype).tiny), grad)
    return (x + share * longest * unit).clamp(0, 1)


def _rounding(blank: Blank, logits: Tensor) -> float:
    """The drift that kernels of other batch sizes may make: more where a weight or the logits are in half precision."""
    model = blank.fresh()
    kinds = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    coarse = [kind for kind in ROUNDING if kind in kinds or torch.equal(logits.to(kind).to(logits.dtype), logits)]
    return max([ROUNDING[torch.float32], *(ROUNDING[kind] for kind in coarse)])


def _spread(logits: Tensor) -> Tensor:
    """[n, K] -> [n]: largest logit minus smallest, above 0."""
    return (logits.amax(1) - logits.amin(1)).clamp_min(torch.finfo(logits.dtype).tiny)


def _drift(first: Tensor, second: Tensor) -> float:
    """The largest difference of a logit, as a share of its image's spread. Infinite logits that agree do not drift."""
    apart = (first - second).abs().masked_fill(first == second, 0).amax(1)
    return float((apart / _spread(first)).max())
