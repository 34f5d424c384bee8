"""PeerAiD, a peer that is trained beside the student: Jung et al., CVPR 2024, https://arxiv.org/abs/2403.06668.

Of MAT's family the one in which the teacher does not defend itself: it learns the student's adversarial images, and the
student learns from it on them. The formulas are those of the authors' code (https://github.com/jaewonalive/PeerAiD, and
its script for CIFAR-10); of the paper only the abstract was read. Differs from the code: the student sees x' once a
step, not twice, so batch norm counts it once; weight averaging (theirs begins with the first drop of the learning rate)
is `schedule.ema` here and no part of the method. In the code the student's answers that the peer and the student's own
clean output are compared with are no constants, so that the peer's KL moves the student too (`teacher_grad`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner

STUDENT, PEER = 0, 1


@dataclass(frozen=True)
class PeerAiD:
    """Student S: min lambda1 CE(S(x'), y) + T^2 [lambda2 KL(p_P(x') || p_S(x')) + lambda3 KL(p_S(x) || p_S(x'))];
    peer P: min gamma1 CE(P(x'), y) + gamma2 KL(p_S(x') || p_P(x')).

    Network 0 is the student, network 1 the peer, whose best epoch is that of the highest clean accuracy: nothing makes
    it withstand attacks on itself. x' is against the student and maximises KL(p_P(x) || p_S(x')), the peer in
    evaluation mode. temperature: T > 0 of the student's KL divergences alone. gamma1 to lambda3 >= 0: of the script. In
    the student's loss the peer is a constant; teacher_grad: "flow" differentiates the other two KL through their first
    argument too, as the code does; "detach" holds it constant. reduction: "mean" also divides each KL by the number of
    classes, as the code does, whose weights stand beside a cross-entropy. Raises ValueError.
    """

    inner: Inner
    gamma1: float = 1.0
    gamma2: float = 0.1
    lambda1: float = 0.0
    lambda2: float = 1.0
    lambda3: float = 1.0
    temperature: float = 5.0
    teacher_grad: Literal["flow", "detach"] = "flow"
    reduction: Literal["batchmean", "mean"] = "mean"
    version: int = 1

    def __post_init__(self) -> None:
        weights = ("gamma1", "gamma2", "lambda1", "lambda2", "lambda3")
        given = {name: float(getattr(self, name)) for name in (*weights, "temperature")}
        if not (all(given[name] >= 0 for name in weights) and self.temperature > 0):
            told = ", ".join(f"{name} = {value:g}" for name, value in given.items())
            raise ValueError(f"PeerAiD needs gamma1 to lambda3 >= 0 and temperature > 0; got {told}")

    @property
    def members(self) -> int:
        """Student and peer."""
        return 2

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return (self.inner,) if n == STUDENT else ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`. With "flow" the peer's loss also has a gradient in the student."""
        goal = cohort.once(lambda: cohort.logits(PEER, x, "eval", grad=False))
        x_adv = cohort.attack(STUDENT, x, goal, self.inner, kl_divergence)
        flow = self.teacher_grad == "flow"
        student, peer = cohort.logits(STUDENT, x_adv), cohort.logits(PEER, x_adv)
        clean = cohort.logits(STUDENT, x, grad=flow)
        return [
            self.student_loss(student, peer.detach(), clean, y, cohort.label_smoothing),
            self.peer_loss(peer, student if flow else student.detach(), y, cohort.label_smoothing),
        ]

    def student_loss(self, student: Tensor, peer: Tensor, clean: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Logits [B, K] of student and peer on x', of the student on x; y [B] -> the student's scalar loss."""
        label, cold = cross_entropy(student, y, smoothing).mean(), self.temperature
        taught = self._kl(student / cold, peer / cold)
        steady = self._kl(student / cold, clean / cold)
        return self.lambda1 * label + cold**2 * (self.lambda2 * taught + self.lambda3 * steady)

    def peer_loss(self, peer: Tensor, student: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Logits [B, K] of peer and student on x', y [B] -> the peer's scalar loss."""
        return self.gamma1 * cross_entropy(peer, y, smoothing).mean() + self.gamma2 * self._kl(peer, student)

    def _kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """KL(softmax(reference) || softmax(logits)), reduced."""
        value = kl_divergence(logits, reference).mean()
        return value / logits.shape[1] if self.reduction == "mean" else value
