"""ATTACKS: name in TOML -> dataclass. The only list of attacks."""

from __future__ import annotations

from attacks.cw import CarliniWagnerLinf
from attacks.elastic import Elastic
from attacks.fog import Fog
from attacks.gabor import Gabor
from attacks.pgd import FGSM, MIM, PGD

ATTACKS = {
    "fgsm": FGSM,
    "pgd": PGD,
    "mim": MIM,
    "cw": CarliniWagnerLinf,
    "fog": Fog,
    "gabor": Gabor,
    "elastic": Elastic,
}
