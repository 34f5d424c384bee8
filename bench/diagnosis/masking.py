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

import numpy as np

from bench.diagnosis.measured import Drift, Elsewhere, Evidence, Flags
from bench.ground.stats import mcnemar, wilson
from bench.ledger.diagnoses import LEAST_IMAGES, LEAST_RIGHT, Finding, Verdict

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
HELD_OUT = (0.0, 0.10)  # warn, fail: how far apart the 95 % intervals of here and of other images lie, in shares
CHANGED = (0.40, 0.50)  # warn, fail: what the least harmful change costs; honest networks lost up to 28 points
HARMLESS = 0.10  # a change that costs clean accuracy more than this is one of the label, or too strange to compare
REPEAT_DRIFT = 1e-4  # AutoAttack's flag, as a share of the spread of an image's logits
BATCH_DRIFT = 1e-3  # other kernels for another batch size round differently; ten bits, as in TF32, are this
ZERO = (0.01, 0.10)
RISES = (0.99, 0.90)
SLOPE = (0.2, 0.5)
LINEAR = 0.1

NO_GRADIENT = "no gradient was measured: the model was refused, or no image is right"
ACCEPTED_IN_ORDER = ("evaluation-mode", "logits", "differentiable", "deterministic")
WHITE_BOX = ("pgd-restarts", "pgd-margin", "pgd-targets")


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


def memory(evidence: Evidence) -> Outcome:
    """Does it answer as a copy does that has not seen these images, nor those next to them?"""
    if "memory" in evidence.without:
        return _skip(evidence.without["memory"])
    if evidence.repeated is not None and not evidence.repeated.largest <= REPEAT_DRIFT:
        return _skip("its answers move from pass to pass anyway")
    advice = "it remembers what it was asked, outside of weights and buffers: an attacker's copy would not"
    return _drift(evidence.unseen, BATCH_DRIFT, "logits after the attacks and of a copy that saw none", advice)


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


def neighbours(evidence: Evidence) -> Outcome:
    """Is it as good on images that nobody judged, and on the judged ones moved, mirrored, darker or brighter?"""
    if not (evidence.others or evidence.changed) or evidence.lacking(["pgd-few"]):
        return _skip("the model was refused")
    here = Elsewhere(evidence.right, evidence.stands["pgd-few"])
    others = [_held_out(name, here, sets) for name, sets in evidence.others.items()]
    changed = _least_harmful(here, evidence.changed)
    told = others + changed
    if not told:
        return _skip("there are no other images, and every change makes the judged ones harder to recognise")
    doubted = all("warn" in [verdict for verdict, _ in kind] for kind in (others, changed))  # by both, which is sure
    verdict = "fail" if doubted else max((verdict for verdict, _ in told), key=_BADNESS.index)
    figure = f"{_shares(here)} here; {'; '.join(words for _, words in told)}"
    if verdict == "pass":
        return verdict, figure, "what is measured here is true of such images"
    return verdict, figure, "it knows or remembers the judged images: the number is true of them and of no others"


def sample(evidence: Evidence) -> Outcome:
    """Are there enough images for the comparisons?"""
    count, n = int(evidence.right.sum()), len(evidence.right)
    if count == 0 and evidence.refused:
        return _skip("the model was refused")
    figure = f"{count} of {n} images are right without an attack"
    if n >= LEAST_IMAGES and count >= LEAST_RIGHT:
        return "pass", figure, "enough for the paired tests"
    needed = f"{LEAST_IMAGES} images and {LEAST_RIGHT} that are right"
    return "warn", figure, f"too few to see a gap between attacks; it takes {needed} (--images)"


_CHECKS = (  # the names that records must hold are `bench.ledger.diagnoses.CHECKS`
    evaluation_mode, logits, differentiable, deterministic, batch_independent, memory, zero_gradients,
    loss_rises, true_slope, linearity, single_step, more_steps, restarts, margin_loss, larger_radius,
    half_the_range, noise, square, transfer, boundary, neighbours, sample,
)  # fmt: skip
CHECKS: dict[str, Check] = {check.__name__.replace("_", "-"): check for check in _CHECKS}
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


def _shares(there: Elsewhere) -> str:
    return f"{there.clean.mean():.0%} clean, {there.robust.mean():.0%} robust"


def _held_out(name: str, here: Elsewhere, sets: Sequence[Elsewhere]) -> tuple[Verdict, str]:
    """Other images cannot be paired: the two 95 % intervals must lie apart, clean or robust. Of several sets of them
    the one where they do so least.
    """

    def apart(there: Elsewhere) -> float:
        pairs = ((here.clean, there.clean), (here.robust, there.robust))
        return max(_low(own) - _high(other) for own, other in pairs)

    nearest = min(sets, key=apart)
    return _above(apart(nearest), HELD_OUT), f"{_shares(nearest)} on {len(nearest.clean)} {name}"


def _low(flags: Flags) -> float:
    return wilson(int(flags.sum()), len(flags))[0]


def _high(flags: Flags) -> float:
    return wilson(int(flags.sum()), len(flags))[1]


def _least_harmful(here: Elsewhere, changed: dict[str, Elsewhere]) -> list[tuple[Verdict, str]]:
    """The change that costs the least robustness, of those that the network sees through; [] where there is none.

    Some change hurts every honest network, so it takes all of them to say something.
    """
    harmless = {name: one for name, one in changed.items() if here.clean.mean() - one.clean.mean() <= HARMLESS}
    if not harmless:
        return []
    name, best = max(harmless.items(), key=lambda item: item[1].robust.mean())
    sure = mcnemar(here.robust, best.robust) < LEVEL
    verdict: Verdict = _above(float(here.robust.mean() - best.robust.mean()), CHANGED) if sure else "pass"
    return [(verdict, f"{_shares(best)} {name}")]
