"""What `bench diagnose` measures: probes of the forward and backward pass, and attacks whose order is known beforehand.

Every attack is run once, judged by `bench.judge.evaluate` like any other, and shared by the checks of `masking.py`. The
transfer attack is crafted on a substitute that learns the model's own answers (Papernot et al. 2017,
https://arxiv.org/abs/1602.02697; here on training images without their augmentation), unless another network is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.boundary import Boundary
from attacks.contract import Attack, ThreatModel
from attacks.ddn import DDN
from attacks.losses import LOSSES, cross_entropy, log_odds
from attacks.model import ModelError, out_of_memory
from attacks.norms import per_image
from attacks.pgd import FGSM, PGD
from attacks.square import Square
from attacks.target import Target, default_batch_size
from bench.diagnosis.measured import Drift, Elsewhere, Evidence, Slope
from bench.diagnosis.neighbours import OTHERS, changed
from bench.ground.config import UserError, first_line
from bench.ground.provenance import Cost
from bench.judge.evaluate import AttackError, Verdicts, check_logits, craft, evaluate, fingerprint
from bench.ledger.diagnoses import Effort
from bench.subjects import models
from bench.subjects.blank import Blank
from bench.subjects.data import Dataset, Images, check_images
from bench.subjects.quick import Arrangement
from trainers.contract import Inner
from trainers.health import TrainingError
from trainers.loop import fit
from trainers.natural import Natural
from trainers.schedule import Schedule
from trainers.validation import Split

GREY = ThreatModel("Linf", 0.5)  # every image can be made uniformly grey
SHORT = 0.05  # of the radius: the step at which slopes are compared
SUBSTITUTE_IMAGES, SUBSTITUTE_VALIDATION = 10_000, 100
REPEATS = 3
TARGETS = 9  # classes that the margin is run towards one by one, as in AutoAttack
LOW, ORDINARY, HIGH = 2.0**-4, 8.0, 64.0  # spread of an image's logits: slopes are taken as they are from LOW to HIGH
AT_A_GLANCE = ("fgsm", "pgd", "pgd-grey")  # attacks of a hundred gradients in all
STAGES = 28  # calls of on_attack, at most


class Witness:
    """Gathers evidence on one model. seed: of all noise. on_attack: called with the name of each attack before it runs.

    source: makes the network that the transfer attack is crafted on. others: part of the data set -> images of it
    that are not judged, one set or more; flip: a mirrored image keeps its label. Raises UserError for bad images and a
    bad source.
    """

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel,
        images: Images,
        classes: int,
        *,
        effort: Effort,
        source: Callable[[], nn.Module],
        others: Mapping[str, Sequence[Images]] | None = None,
        flip: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        on_attack: Callable[[str], None] | None = None,
    ) -> None:
        check_images(images.x, images.y, classes)
        self.model, self.threat, self.images, self.classes = model, threat, images, classes
        self.effort, self.source, self.seed, self.batch_size = effort, source, seed, batch_size
        self.others, self.flip = dict(others or {}), flip
        self.say = on_attack or (lambda name: None)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.x, self.y = images.x.to(self.device), images.y.to(self.device)
        self.evidence = Evidence(images.y.numpy(), np.zeros(len(images), dtype=bool))
        self.cost = Cost(0.0, 0, 0)
        self.unit = 1.0  # of the logits, see LOW
        self.crafted: dict[str, Tensor] = {}  # attack -> its images
        self.blank: Blank | None = None

    def gather(self) -> Evidence:
        """All that can be measured; where the model refuses to be, why."""
        self.blank = Blank(self.model)
        if not self.blank.copied:
            self._note(without={"memory": f"the model cannot be copied: {self.blank.why}"})
        self._probe()
        if not self.evidence.refused:
            with self._refusing():
                self._attack_all()
        return self.evidence

    def glance(self) -> Evidence:
        """The probes, the attacks of AT_A_GLANCE and whether the model remembers them; no others."""
        self.blank = Blank(self.model)
        self._probe()
        if not self.evidence.refused:
            with self._refusing():
                attacks = self._white_box()
                for name in AT_A_GLANCE:
                    self._run(name, attacks[name])
                self._unseen()
        return self.evidence

    def _note(self, **changes: object) -> None:
        self.evidence = replace(self.evidence, **changes)  # type: ignore[arg-type]

    def _refuse(self, check: str, why: object) -> None:
        self._note(refused=self.evidence.refused | {check: str(why)})

    def _probe(self) -> None:
        """Forward and backward passes without an attack."""
        self.say("probes")
        try:
            target = Target(self.model, self.batch_size)
        except ModelError as error:
            return self._refuse("evaluation-mode", error)
        before = fingerprint(self.model)
        clean = target.true_logits(self.x)
        try:
            check_logits(clean, self.classes)
        except ModelError as error:
            return self._refuse("logits", error)
        self._note(
            right=(clean.argmax(1) == self.y).cpu().numpy(),
            repeated=_widest([_drift(clean, target.true_logits(self.x)) for _ in range(REPEATS)]),
            regrouped=self._regrouped(clean),
            state_changed=fingerprint(self.model) != before,
        )
        spread = float((clean.double().amax(1) - clean.double().amin(1)).median())
        self.unit = 1.0 if LOW <= spread <= HIGH or spread == 0 else spread / ORDINARY
        try:
            reached = self._reached_by_gradients()
        except RuntimeError as error:  # such as a forward pass through numpy
            if out_of_memory(error):
                raise
            return self._refuse("differentiable", f"it fails where gradients are asked for ({first_line(error)})")
        if not reached:
            return self._refuse("differentiable", "autograd finds no way from the logits to the image")
        self._probe_gradients(target)

    def _regrouped(self, clean: Tensor) -> Drift:
        """Logits in reversed order and small batches of another size, against those of the usual batches."""
        small = Target(self.model, max(1, min(len(self.x), self.batch_size or default_batch_size(self.x)) // 3))
        return _drift(clean, small.true_logits(self.x.flip(0)).flip(0))

    def _reached_by_gradients(self) -> bool:
        """Whether the logits of an image hang on it, as far as autograd knows."""
        image = self.x[:1].clone().requires_grad_(True)
        with torch.enable_grad():
            answer = self.model(image.clone())  # a model may write into its input
        return answer.requires_grad and torch.autograd.grad(answer.sum(), image, allow_unused=True)[0] is not None

    def _probe_gradients(self, target: Target) -> None:
        """Gradients of the images that are right, and what steps along them do."""
        right = torch.from_numpy(self.evidence.right).to(self.device)
        x, y = self.x[right], self.y[right]
        if not len(x):
            return
        _, by_ce, _ = target.loss_grad(x, y, cross_entropy)
        _, by_margin, _ = target.loss_grad(x, y, LOSSES["margin"])
        loss, slope, _ = target.loss_grad(x, y, self._log_odds)
        zero = {"ce": _useless(by_ce), "margin": _useless(by_margin)}
        self._note(zero={name: flags.cpu().numpy() for name, flags in zero.items()})
        # the way of cross-entropy, without what float32 rounds off a confident one; none where it is flat
        uphill = slope * per_image((~zero["ce"]).to(slope), slope)
        near, far = (self._step(x, uphill, share) for share in (SHORT, 1.0))
        rise = [self._log_odds(target.true_logits(one), y) - loss for one in (near, far)]
        said = [(slope.double() * (one.double() - x.double())).flatten(1).sum(1) for one in (near, far)]
        ratio = [(up / forecast).cpu().numpy() for up, forecast in zip(rise, said, strict=True)]
        self._note(slope=Slope((rise[0] > 0).cpu().numpy(), *ratio))

    def _log_odds(self, logits: Tensor, y: Tensor) -> Tensor:
        """In float64, where the rise along a short step is seen, and in one unit: a model whose logits are multiplied
        by a number is the same classifier.
        """
        return log_odds(logits.double() / self.unit, y)

    def _step(self, x: Tensor, grad: Tensor, share: float) -> Tensor:
        """x after a step of that share of the radius, inside the threat model."""
        grad = torch.nan_to_num(grad)
        if self.threat.norm == "Linf":
            return (x + share * self.threat.eps * grad.sign()).clamp(0, 1)
        longest = self.threat.eps if self.threat.norm == "L2" else self.threat.eps / x[0].numel() ** 0.5
        unit = grad / per_image(grad.flatten(1).norm(dim=1).clamp_min(torch.finfo(grad.dtype).tiny), grad)
        return (x + share * longest * unit).clamp(0, 1)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """A model that the judge refuses in the middle is refused."""
        try:
            yield
        except ModelError as error:
            self._refuse("logits", error)
        except AttackError as error:  # these attacks keep their contract: the model changed under them
            self._refuse("deterministic", error)

    def _attack_all(self) -> None:
        """The attacks, cheap ones first."""
        for name, attack in self._white_box().items():
            self._run(name, attack)
        if self.threat.norm == "L1":
            self._note(without=self.evidence.without | {"square": "Square works in Linf and L2 only"})
        else:
            self._run("square", Square(self.threat, self.effort.queries))
        self._boundary()
        self._transfer()
        self._elsewhere()
        self._unseen()

    def _white_box(self) -> dict[str, Attack]:
        """The attacks of known order, and noise, which is PGD that draws starts and takes no step."""
        threat, effort = self.threat, self.effort
        double = ThreatModel(threat.norm, min(2 * threat.eps, 1.0) if threat.norm == "Linf" else 2 * threat.eps)
        return {
            "fgsm": FGSM(threat),
            "pgd-few": self._pgd(threat, effort.few),
            "pgd": self._pgd(threat, effort.steps),
            "pgd-many": self._pgd(threat, effort.many),
            "pgd-restarts": replace(self._pgd(threat, effort.steps), restarts=effort.restarts),
            "pgd-margin": replace(self._pgd(threat, effort.steps), loss="margin"),
            "pgd-targets": replace(self._pgd(threat, effort.few), targets=TARGETS),
            "pgd-double": self._pgd(double, effort.steps),
            "pgd-grey": self._pgd(GREY, effort.steps),
            "noise": PGD(threat, steps=1, step=0.0, restarts=effort.draws, stop="last"),
        }

    def attacks(self) -> dict[str, Attack]:
        """What is run at most, each on every image, for an estimate: radii that are found on the way are left open."""
        anywhere, pgd = ThreatModel("L2", self.x[0].numel() ** 0.5), self._pgd(self.threat, self.effort.steps)
        sets = sum(map(len, self.others.values())) + sum(1 for _ in changed(self.images, self.threat, self.flip))
        found = self._white_box() | dict.fromkeys(("pgd-l2", "pgd-l2-margin", "transfer"), pgd)
        if self.threat.norm != "L1":
            found["square"] = Square(self.threat, self.effort.queries)
        few = [(f"elsewhere-{number}", self._pgd(self.threat, self.effort.few)) for number in range(sets)]
        return found | {"boundary": Boundary(anywhere, self.effort.walk), "ddn": DDN(anywhere)} | dict(few)

    def _pgd(self, threat: ThreatModel, steps: int) -> PGD:
        """Cross-entropy, uniform start, last iterate; steps that can cross the ball, a tenth of the radius at least. In
        L1 a step goes to as large a share of the image's values as 5 to 20 are of the 3072 of CIFAR-10: of 64 values
        5 to 20 are so many that FGSM, which takes the steepest, alone broke 6 of 100 images of a MAT-MSD network.
        """
        values = self.x[0].numel()
        pixels = (max(1, round(5 * values / 3072)), max(1, round(20 * values / 3072)))
        return PGD(threat, steps, step=max(0.1, 2.5 / steps) * threat.eps, stop="last", l1_pixels=pixels)

    def _run(self, name: str, attack: Attack, **given: object) -> np.ndarray:
        """Judge the attack, note who stands, and return the distances in L2 [n], inf where nothing fooled."""
        self.say(name)
        verdicts = self._judged(attack, self.images, **given)
        table, self.crafted[name] = verdicts.table, verdicts.x_adv
        self._note(stands=self.evidence.stands | {name: table["robust"].to_numpy(dtype=bool)})
        fooled = table["adversarial_prediction"] != table["label"]
        return np.where(fooled, table["l2"], np.inf)

    def _judged(self, attack: Attack, images: Images, **given: object) -> Verdicts:
        """The judge's word, its cost counted."""
        verdicts = evaluate(
            self.model, attack, images, self.classes,
            name="diagnose", seed=self.seed, run=Arrangement(self.batch_size), blank=self.blank, look=False,
            **given,  # type: ignore[arg-type]
        )  # fmt: skip
        cost = verdicts.cost
        self.cost = Cost(
            self.cost.seconds + cost.seconds,
            self.cost.forward_passes + cost.forward_passes,
            self.cost.backward_passes + cost.backward_passes,
        )
        return verdicts

    def _boundary(self) -> None:
        """The boundary attack, and gradients at the median of the distances it needed; DDN as the closest they get."""
        anywhere = ThreatModel("L2", self.x[0].numel() ** 0.5)
        needed = self._run("boundary", Boundary(anywhere, self.effort.walk))
        found = self.evidence.right & np.isfinite(needed)
        if not found.any():
            stands = {name: flags for name, flags in self.evidence.stands.items() if name != "boundary"}
            reason = "the boundary attack found no image to start from"
            return self._note(stands=stands, without=self.evidence.without | {"boundary": reason})
        radius = float(np.median(needed[found]))
        self._note(stands=self.evidence.stands | {"boundary": self.evidence.right & (needed > radius)})
        pgd = self._pgd(ThreatModel("L2", radius), self.effort.steps)
        self._run("pgd-l2", pgd)
        self._run("pgd-l2-margin", replace(pgd, loss="margin"))
        closest = self._run("ddn", DDN(pgd.threat))
        self._note(stands=self.evidence.stands | {"ddn": self.evidence.right & (closest > radius)})

    def _transfer(self) -> None:
        """PGD on another network, judged on this one; also of other test images, before the model has seen these."""
        self.say("substitute")
        try:
            source = self.source().to(self.device)
        except TrainingError as error:
            return self._note(without=self.evidence.without | {"transfer": f"the substitute was not trained: {error}"})
        pgd = self._pgd(self.threat, self.effort.steps)
        given: Any = {"name": "diagnose", "seed": self.seed, "run": Arrangement(self.batch_size), "look": False}
        try:
            crafted = craft(source, pgd, self.images, self.classes, **given)
            first = [craft(source, pgd, part, self.classes, **given).x_adv for part in self.others.get(OTHERS, ())]
        except ModelError as error:
            raise UserError(f"the network to craft on: {error}") from error
        self._run("transfer", pgd, crafted=crafted)
        for x_adv in first:  # a memory that all copies share then holds these, and the clean ones come too late
            Target(self.model, self.batch_size).true_logits(x_adv.to(self.device))

    def _elsewhere(self) -> None:
        """The cheapest PGD on images that are not judged, and on the judged ones changed."""
        pgd = self._pgd(self.threat, self.effort.few)

        def there(name: str, images: Images) -> Elsewhere:
            self.say(name)
            table = self._judged(pgd, images).table
            clean = (table["clean_prediction"] == table["label"]).to_numpy(dtype=bool)
            return Elsewhere(clean, table["robust"].to_numpy(dtype=bool))

        self._note(others={name: [there(name, part) for part in parts] for name, parts in self.others.items()})
        images = changed(self.images, self.threat, self.flip)
        self._note(changed={name: there(name, part) for name, part in images})

    def _unseen(self) -> None:
        """The model, which has seen everything by now, against copies that see nothing but these images."""
        if self.blank is None or not self.blank.copied:
            return
        target = Target(self.model, self.batch_size)
        images = [self.x] + [self.crafted[name].to(self.device) for name in ("pgd", "transfer") if name in self.crafted]
        now = [target.true_logits(x) for x in images]
        then = [Target(self.blank.fresh(), self.batch_size).true_logits(x) for x in images]
        self._note(unseen=_widest([_drift(*pair) for pair in zip(then, now, strict=True)]))


def substitute(model: nn.Module, dataset: Dataset, epochs: int, seed: int, device: torch.device) -> nn.Module:
    """A CNN-A that has learned what the model answers on training images. Raises TrainingError."""
    if not len(dataset.train) or not len(dataset.validation):
        raise TrainingError("there are no training images; --source names another model to craft on")
    target = Target(model)

    def answers(images: Images) -> Split:
        x = images.x.to(device)
        return Split(x, target.true_logits(x).argmax(1), images.ids.to(device))

    train = dataset.train.some(min(SUBSTITUTE_IMAGES, len(dataset.train)))
    validation = dataset.validation.some(min(SUBSTITUTE_VALIDATION, len(dataset.validation)))
    network = models.create("cnn-a", dataset.image_shape, dataset.classes, seed).to(device)
    schedule = Schedule(epochs, batch_size=32, lr=0.05, kind="cyclic", augment=False, validation_steps=1)
    trainer: Any = Natural(Inner(0.0, steps=1, step=0.0))
    fit(trainer, [network], answers(train), answers(validation), schedule, seed)
    return network.eval()


def _useless(grad: Tensor) -> Tensor:
    """[N] bool: the gradient is 0 everywhere, or not finite somewhere."""
    flat = grad.flatten(1)
    return (flat == 0).all(1) | ~torch.isfinite(flat).all(1)


def _drift(first: Tensor, second: Tensor) -> Drift:
    spread = (first.amax(1) - first.amin(1)).clamp_min(torch.finfo(first.dtype).tiny)
    largest = ((first - second).abs().amax(1) / spread).max()
    return Drift(float(largest), int((first.argmax(1) != second.argmax(1)).sum()))


def _widest(drifts: list[Drift]) -> Drift:
    return Drift(max(drift.largest for drift in drifts), max(drift.changed for drift in drifts))
