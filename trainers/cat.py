"""CAT, collaborative adversarial training: Liu et al. 2023, https://arxiv.org/abs/2303.14922.

Two networks, each with a method of its own (an arm), each taught by the other's logits on its own adversarial images.
The paper's example is AT with TRADES; the released code (https://github.com/liuxingbin/CAT) pairs TRADES with ALP.
The formula is that of the code: the formulas of the paper were not seen.

Differs from the code: passes of a teacher carry no graph, and the pass that it makes only for its log is left out, so
that batch norm counts the same images in both networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from attacks.losses import kl_divergence
from attacks.pgd import Start
from trainers.alp import ALP
from trainers.at import AT
from trainers.contract import Cohort, Inner, Mode
from trainers.mart import MART
from trainers.trades import TRADES


@dataclass(frozen=True)
class Arm:
    """What one network does by itself.

    method: its loss and its attack. weight: TRADES' beta, MART's or ALP's weight; None is that method's default, and
    the only choice for AT, which has none. start: of its attack; None is the start of CAT's inner. Raises ValueError.
    """

    method: Literal["at", "trades", "mart", "alp"]
    weight: float | None = None
    start: Start | None = None

    def __post_init__(self) -> None:
        if self.method == "at" and self.weight is not None:
            raise ValueError(f"AT has no weight; got weight = {self.weight:g}: leave it out")

    def build(self, inner: Inner) -> AT | TRADES | MART | ALP:
        """The method with CAT's attack."""
        inner = replace(inner, start=self.start or inner.start)
        if self.method == "at":
            return AT(inner)
        if self.method == "trades":
            return TRADES(inner) if self.weight is None else TRADES(inner, beta=self.weight)
        kind = MART if self.method == "mart" else ALP
        return kind(inner) if self.weight is None else kind(inner, weight=self.weight)


@dataclass(frozen=True)
class CAT:
    """min sum_n [(1 - alpha) L_n + alpha KL(p_m(x'_n) || p_n(x'_n))], m the other network and constant.

    L_n, x'_n: loss and adversarial images of arm n. inner: the attack of both arms. alpha in [0, 1]: 19/20 in the
    code. peer_bn: mode of the teacher's pass; "train", as in the code, lets batch norm count the other's images too.
    Raises ValueError.
    """

    inner: Inner
    arms: tuple[Arm, Arm] = (Arm("at"), Arm("trades", start="gaussian"))
    alpha: float = 0.95
    peer_bn: Mode = "train"
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"CAT needs alpha in [0, 1]; got alpha = {self.alpha:g}")
        for arm in self.arms:
            arm.build(self.inner)

    @property
    def members(self) -> int:
        """One network for each arm."""
        return 2

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        alone = [arm.build(self.inner).alone(cohort, n, x, y) for n, arm in enumerate(self.arms)]
        peers = [cohort.logits(1 - n, alone[n].x_adv, self.peer_bn, grad=False) for n in range(2)]
        return [self.loss(own.loss, own.logits, peer) for own, peer in zip(alone, peers, strict=True)]

    def loss(self, own: Tensor, logits: Tensor, peer: Tensor) -> Tensor:
        """The arm's own loss, its logits [B, K] and its peer's on the same images -> scalar."""
        return (1 - self.alpha) * own + self.alpha * kl_divergence(logits, peer).mean()
