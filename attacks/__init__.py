"""ATTACKS: name in TOML -> dataclass. The only list of attacks."""

from __future__ import annotations

from attacks.a3 import A3
from attacks.adapters.autoattack import PyAutoAttack
from attacks.adapters.foolbox import Foolbox
from attacks.adapters.torchattacks import TorchAttacks
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.blur import Blur
from attacks.boundary import Boundary
from attacks.corruption import Corruption
from attacks.cw import CarliniWagnerLinf
from attacks.cw_l2 import CarliniWagnerL2
from attacks.ddn import DDN
from attacks.deepfool import DeepFool
from attacks.elastic import Elastic
from attacks.fab import FAB
from attacks.fbm import FBM
from attacks.fmn import FMN
from attacks.fog import Fog
from attacks.gabor import Gabor
from attacks.gaussian import GaussianNoise
from attacks.glitch import Glitch
from attacks.hsv import HSV
from attacks.jpeg import JPEG
from attacks.kaleidoscope import Kaleidoscope
from attacks.multi_steepest import MSD
from attacks.patterns import Patterns
from attacks.pgd import FGSM, MIM, PGD
from attacks.pixel import Pixel
from attacks.pma import PMA
from attacks.pointwise import Pointwise
from attacks.salt_and_pepper import SaltAndPepper
from attacks.sigma_zero import SigmaZero
from attacks.snow import Snow
from attacks.square import Square
from attacks.strong import Strong
from attacks.whirlpool import Whirlpool
from attacks.wood import Wood

ATTACKS = {
    "fgsm": FGSM,
    "pgd": PGD,
    "mim": MIM,
    "apgd": APGD,
    "cw": CarliniWagnerLinf,
    "cw-l2": CarliniWagnerL2,
    "ddn": DDN,
    "deepfool": DeepFool,
    "sigma-zero": SigmaZero,
    "fmn": FMN,
    "fog": Fog,
    "gabor": Gabor,
    "elastic": Elastic,
    "jpeg": JPEG,
    "blur": Blur,
    "fbm": FBM,
    "glitch": Glitch,
    "hsv": HSV,
    "kaleidoscope": Kaleidoscope,
    "pixel": Pixel,
    "snow": Snow,
    "whirlpool": Whirlpool,
    "wood": Wood,
    "salt-and-pepper": SaltAndPepper,
    "pointwise": Pointwise,
    "gaussian-noise": GaussianNoise,
    "boundary": Boundary,
    "foolbox": Foolbox,
    "torchattacks": TorchAttacks,
    "pyautoattack": PyAutoAttack,
    "fab": FAB,
    "autoattack": AutoAttack,
    "msd": MSD,
    "square": Square,
    "pma": PMA,
    "a3": A3,
    "strong": Strong,
    "patterns": Patterns,
    "corruption": Corruption,
}
