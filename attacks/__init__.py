"""ATTACKS: name in TOML -> dataclass. The only list of attacks."""

from __future__ import annotations

from attacks.pgd import FGSM, MIM, PGD

ATTACKS = {
    "fgsm": FGSM,
    "pgd": PGD,
    "mim": MIM,
}
