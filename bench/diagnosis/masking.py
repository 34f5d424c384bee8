"""Signs of gradient masking: what a diagnosis measured -> one finding per check, with the figure behind it.

Sources: section 3.2.4 of MAT (Liu et al. 2021, https://arxiv.org/abs/2112.05005); Athalye, Carlini, Wagner 2018,
https://arxiv.org/abs/1802.00420, section 3.1; the checklist of Carlini et al. 2019, https://arxiv.org/abs/1902.06705;
the flags of AutoAttack (Croce & Hein 2020, https://arxiv.org/abs/2003.01690). Thresholds are ours where
docs/diagnose.md does not name a source.

No attack proves robustness, and neither do these checks: they find that attacks failed for reasons of their own.
Where two attacks are compared, they are compared on the same images, so that noise raises no alarm. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.ground.stats import mcnemar, wilson
from bench.ledger.diagnoses import Finding, Verdict

Flags = NDArray[np.bool_]

LEVEL = 0.01  # of the paired test: a dozen comparisons together stay below about one false alarm in ten diagnoses
GAP = 0.02  # smallest difference that counts, where the test is sure of less
# warn, fail: images that only the attack that should be weaker breaks. 0.2 % is AutoAttack's flag for Square; one
# gradient attack may beat a longer one on a few images by the luck of its last iterate
LONE_BLACK_BOX = (0.002, 0.05)
LONE_WHITE_BOX = (0.01, 0.10)
LONE_WALK = (0.10, 1.0)  # at its own distances, past the radius of training, a walk does find what gradients miss
LEFT_AT_HALF = 0.01
GAIN = (0.03, 0.10)  # warn, fail: what five times the steps or restarts find
MARGIN_GAIN = (0.06, 0.20)  # warn just above the 5.6 points between C&W and PGD-100 in Table 2 of MAT
REPEAT_DRIFT = 1e-4  # AutoAttack's flag, as a share of the spread of an image's logits
BATCH_DRIFT = 1e-3  # other kernels for another batch size round differently; ten bits, as in TF32, are this
ZERO = (0.01, 0.10)
RISES = (0.99, 0.90)
SLOPE = (0.2, 0.5)
LINEAR = 0.1
LEAST_IMAGES = 50  # right ones; with fewer a comparison needs a gap above 16 points to be significant

NO_GRADIENT = "no gradient was measured: the model was refused, or no image is right"
ACCEPTED_IN_ORDER = ("evaluation-mode", "logits", "differentiable", "deterministic")
WHITE_BOX = ("pgd-restarts", "pgd-margin")


class Drift(NamedTuple):
    """Two passes over the same images. largest: difference of a logit, as a share of the spread of that image's
    logits; changed: images whose prediction differs.
    """

    largest: float
    changed: int


class Slope(NamedTuple):
    """What a short and a long step up the gradient do, per image that is right. rises: the loss after the short step
    is higher. near, far: rise of the loss after the short and the long step, as a share of what the gradient says;
    NaN where it says nothing.
    """

    rises: Flags
    near: NDArray[np.float64]
    far: NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What was measured on n images. right [n]: correct without an attack. stands: attack -> [n], right with and
    without it. zero: loss -> [m], images that are right where its gradient is 0 or not finite. refused: check -> why
    the model cannot be measured at all; without: attack -> why it was not run.
    """

    labels: NDArray[np.int64]
    right: Flags
    stands: dict[str, Flags] = field(default_factory=dict)
    repeated: Drift | None = None
    regrouped: Drift | None = None
    state_changed: bool = False
    zero: dict[str, Flags] = field(default_factory=dict)
    slope: Slope | None = None
    refused: dict[str, str] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    def share(self, attack: str) -> float:
        """Accuracy under an attack."""
        return float(self.stands[attack].mean())

    def standing(self, attacks: Sequence[str]) -> Flags:
        """[n], right under every one of them."""
        return np.logical_and.reduce([self.stands[attack] for attack in attacks])

    def lacking(self, attacks: Sequence[str]) -> str:
        """Why an attack was not run; "" where all were."""
        reasons = [self.without.get(attack, "the model was refused") for attack in attacks if attack not in self.stands]
        return reasons[0] if reasons else ""


Outcome = tuple[Verdict, str, str]
Check = Callable[[Evidence], Outcome]


def findings(evidence: Evidence) -> list[Finding]:
    """One finding per check, in the order of CHECKS."""
    return [Finding(name, *check(evidence)) for name, check in CHECKS.items()]


def evaluation_mode(evidence: Evidence) -> Outcome:
    """Is the model in evaluation mode?"""
    return _accepted(evidence, "evaluation-mode", "batch norm and dropout are those of evaluation")


def logits(evidence: Evidence) -> Outcome:
    """Does it return finite logits, and not probabilities?"""
    return _accepted(evidence, "logits", "the losses see what they are made for")


def differentiable(evidence: Evidence) -> Outcome:
    """Does any gradient reach the image?"""
    return _accepted(evidence, "differentiable", "gradient attacks can be run")


def deterministic(evidence: Evidence) -> Outcome:
    """Do repeated passes give the same logits and leave the model as it was?"""
    if "deterministic" in evidence.refused:
        return "fail", evidence.refused["deterministic"], "the answers depend on what the model saw before"
    if evidence.state_changed:
        return (
            "fail",
            "a forward pass changed the model's weights or buffers",
            "its answers depend on what it saw before",
        )
    return _drift(
        evidence.repeated,
        REPEAT_DRIFT,
        "logits of repeated passes",
        "one gradient says nothing about the next pass: attack the mean of many passes, or take the randomness out",
    )


def batch_independent(evidence: Evidence) -> Outcome:
    """Does an image get the same logits in another batch?"""
    return _drift(
        evidence.regrouped,
        BATCH_DRIFT,
        "logits in other batches",
        "the other images of the batch leak into the answer (batch statistics?), which no deployed model can promise",
    )


def zero_gradients(evidence: Evidence) -> Outcome:
    """On how many images has cross-entropy no gradient?"""
    if not evidence.zero:
        return _skip(NO_GRADIENT)
    share, by_margin = (float(evidence.zero[loss].mean()) for loss in ("ce", "margin"))
    figure = f"no gradient on {share:.1%} of the images with cross-entropy, on {by_margin:.1%} with the margin"
    verdict = _above(share, ZERO)
    if verdict == "pass":
        return verdict, figure, "gradient attacks have something to follow"
    if by_margin < share / 2:
        return verdict, figure, "softmax saturates: attack with a margin or DLR loss, or scale the logits down"
    return verdict, figure, "the network is flat there: replace what has no slope (rounding, steps) by what has one"


def loss_rises(evidence: Evidence) -> Outcome:
    """Does a short step along the gradient raise the loss?"""
    if evidence.slope is None:
        return _skip(NO_GRADIENT)
    rises = evidence.slope.rises
    high = wilson(int(rises.sum()), len(rises))[1]
    figure = f"the loss rises on {rises.mean():.1%} of {len(rises)} images"
    verdict: Verdict = "fail" if high < RISES[1] else "warn" if high < RISES[0] else "pass"
    if verdict == "pass":
        return verdict, figure, "the gradient points uphill"
    return verdict, figure, "the gradient does not point uphill: gradient attacks prove nothing here"


def true_slope(evidence: Evidence) -> Outcome:
    """Is the gradient that of the function, by finite differences?"""
    if evidence.slope is None:
        return _skip(NO_GRADIENT)
    error = np.abs(np.nan_to_num(evidence.slope.near, nan=0.0, posinf=np.inf, neginf=-np.inf) - 1)
    middle = float(np.median(error))
    figure = f"rise over a short step is off from the gradient's by {middle:.1%} (median)"
    verdict = _above(middle, SLOPE)
    if verdict == "pass":
        return verdict, figure, "backward and forward pass are of one function"
    return verdict, figure, "the backward pass is not the slope of the forward pass: shattered, random or replaced"


def linearity(evidence: Evidence) -> Outcome:
    """Does the gradient still tell something at the edge of the ball?"""
    if evidence.slope is None or not np.isfinite(evidence.slope.far).any():
        return _skip(NO_GRADIENT)
    far = evidence.slope.far[np.isfinite(evidence.slope.far)]
    middle = float(np.median(far))
    figure = f"rise at the edge of the ball: {middle:.0%} of the gradient's forecast (median)"
    if middle >= LINEAR:
        return "pass", figure, "the surface is smooth enough for gradient steps"
    return "warn", figure, "the surface bends away from the gradient: trust only many steps and black-box attacks"


def single_step(evidence: Evidence) -> Outcome:
    """Is one step weaker than many (MAT 3.2.4)?"""
    return _weaker(evidence, "fgsm", ("pgd",), LONE_WHITE_BOX, "one step beats fifty: the surface misleads iterations")


def more_steps(evidence: Evidence) -> Outcome:
    """Are more steps stronger, and are these enough?"""
    shorter = _weaker(evidence, "pgd-few", ("pgd",), LONE_WHITE_BOX, "more steps make it weaker: gradients mislead")
    longer = _weaker(evidence, "pgd", ("pgd-many",), LONE_WHITE_BOX, "more steps make it weaker: gradients mislead")
    gained = _gain(evidence, "pgd", "pgd-many", GAIN, "PGD has not settled: run more steps before printing a number")
    return max(shorter, longer, gained, key=lambda outcome: _BADNESS.index(outcome[0]))


def restarts(evidence: Evidence) -> Outcome:
    """Do restarts gain little?"""
    advice = "where one starts decides: the surface is rough; run many restarts and black-box attacks"
    return _gain(evidence, "pgd", "pgd-restarts", GAIN, advice)


def margin_loss(evidence: Evidence) -> Outcome:
    """Does the margin loss find little more than cross-entropy?"""
    advice = "cross-entropy misses what the margin finds: print the margin's number (C&W, APGD-DLR), not the other"
    return _gain(evidence, "pgd-restarts", "pgd-margin", MARGIN_GAIN, advice)


def larger_radius(evidence: Evidence) -> Outcome:
    """Does twice the radius break at least as many images?"""
    advice = "a larger ball holds every point of a smaller one: the attack loses its way"
    return _weaker(evidence, "pgd", ("pgd-double",), LONE_WHITE_BOX, advice)


def half_the_range(evidence: Evidence) -> Outcome:
    """Is there nothing left at Linf 0.5, where every image can be made uniformly grey?"""
    if lacking := evidence.lacking(["pgd-grey"]):
        return _skip(lacking)
    left, n = int(evidence.stands["pgd-grey"].sum()), len(evidence.labels)
    chance = float(np.bincount(evidence.labels).max()) / n
    low = wilson(left, n)[0]
    figure = f"{left / n:.1%} of {n} images left at Linf 0.5; guessing has {chance:.1%}"
    if low > chance:
        return "fail", figure, "no model can be right on grey images: the attack fails, the model is not robust"
    if low > LEFT_AT_HALF:
        return "warn", figure, "a working attack leaves none at this radius"
    return "pass", figure, "with enough room the attack breaks everything"


def noise(evidence: Evidence) -> Outcome:
    """Is random noise weaker than gradients?"""
    return _black_box(evidence, "noise")


def square(evidence: Evidence) -> Outcome:
    """Is random search weaker than gradients?"""
    return _black_box(evidence, "square")


def transfer(evidence: Evidence) -> Outcome:
    """Are another network's adversarial images weaker than one's own (MAT 3.2.4)?"""
    return _black_box(evidence, "transfer")


def boundary(evidence: Evidence) -> Outcome:
    """Is a walk on predictions alone weaker than gradients, at its own median distance in L2?"""
    return _weaker(evidence, "boundary", ("pgd-l2", "pgd-l2-margin", "ddn"), LONE_WALK, BLACK_BOX_ADVICE)


def sample(evidence: Evidence) -> Outcome:
    """Are there enough images for the comparisons?"""
    count = int(evidence.right.sum())
    if count == 0 and evidence.refused:
        return _skip("the model was refused")
    figure = f"{count} of {len(evidence.right)} images are right without an attack"
    if count >= LEAST_IMAGES:
        return "pass", figure, "enough for the paired tests"
    return "warn", figure, f"too few to see a gap; take more images, so that {LEAST_IMAGES} are right"


CHECKS: dict[str, Check] = {
    "evaluation-mode": evaluation_mode,
    "logits": logits,
    "differentiable": differentiable,
    "deterministic": deterministic,
    "batch-independent": batch_independent,
    "zero-gradients": zero_gradients,
    "loss-rises": loss_rises,
    "true-slope": true_slope,
    "linearity": linearity,
    "single-step": single_step,
    "more-steps": more_steps,
    "restarts": restarts,
    "margin-loss": margin_loss,
    "larger-radius": larger_radius,
    "half-the-range": half_the_range,
    "noise": noise,
    "square": square,
    "transfer": transfer,
    "boundary": boundary,
    "sample": sample,
}
BLACK_BOX_ADVICE = "gradients miss what guessing finds: the robust accuracy of gradient attacks is not robustness"
_BADNESS = ("skip", "pass", "warn", "fail")


def _skip(reason: str) -> Outcome:
    return "skip", reason, "not checked"


def _above(value: float, limits: tuple[float, float]) -> Verdict:
    """limits: warn above the first, fail above the second."""
    return "fail" if value > limits[1] else "warn" if value > limits[0] else "pass"


def _accepted(evidence: Evidence, check: str, meaning: str) -> Outcome:
    if check in evidence.refused:
        return "fail", evidence.refused[check], "no attack can be trusted on it until this is mended"
    if any(ACCEPTED_IN_ORDER.index(other) < ACCEPTED_IN_ORDER.index(check) for other in evidence.refused):
        return _skip("the model was refused")
    return "pass", "yes", meaning


def _drift(drift: Drift | None, limit: float, what: str, advice: str) -> Outcome:
    if drift is None:
        return _skip("the model was refused")
    figure = f"{what} differ by {drift.largest:.1e} of their spread; {drift.changed} predictions change"
    if drift.largest <= limit:
        return "pass", figure, "the same image gets the same answer"
    return "fail", figure, advice


def _black_box(evidence: Evidence, attack: str) -> Outcome:
    return _weaker(evidence, attack, WHITE_BOX, LONE_BLACK_BOX, BLACK_BOX_ADVICE)


def _weaker(evidence: Evidence, attack: str, than: Sequence[str], lone: tuple[float, float], advice: str) -> Outcome:
    """The attack should break no image that the stronger ones (image by image) leave.

    fail: it breaks more, by GAP at least and by the exact paired test at LEVEL. lone: warn, fail where the 95 %
    interval of the share that it alone breaks lies above; one image never warns.
    """
    if lacking := evidence.lacking([attack, *than]):
        return _skip(lacking)
    ours, theirs = evidence.stands[attack], evidence.standing(than)
    alone, p = int((theirs & ~ours).sum()), mcnemar(ours, theirs)
    figure = (
        f"{attack} leaves {ours.mean():.1%}, {' with '.join(than)} {theirs.mean():.1%} of {len(ours)} images; "
        f"{attack} alone breaks {alone} (p = {p:.2g})"
    )
    verdict = _above(wilson(alone, len(ours))[0], lone)
    if verdict == "fail" or (theirs.mean() - ours.mean() >= GAP and p < LEVEL):
        return "fail", figure, advice
    if verdict == "warn" and alone > 1:
        return "warn", figure, f"{attack} finds images that {' with '.join(than)} should; count them in a worst case"
    return "pass", figure, "the stronger attack is the stronger one"


def _gain(evidence: Evidence, attack: str, more: str, limits: tuple[float, float], advice: str) -> Outcome:
    """What `more` finds beyond `attack`. limits: warn, fail; both only where the exact paired test is sure."""
    if lacking := evidence.lacking([attack, more]):
        return _skip(lacking)
    before, after = evidence.stands[attack], evidence.stands[more]
    gain, p = float(before.mean() - after.mean()), mcnemar(before, after)
    figure = f"{attack} leaves {before.mean():.1%}, {more} {after.mean():.1%} of {len(before)} images (p = {p:.2g})"
    verdict: Verdict = _above(gain, limits) if p < LEVEL else "pass"
    return verdict, figure, "little is left to find" if verdict == "pass" else advice
