"""TRAINERS: name in TOML -> dataclass. The only list of methods."""

from __future__ import annotations

from trainers.act import ACT
from trainers.adaad import AdaAD
from trainers.adr import ADR
from trainers.alp import ALP
from trainers.ard import ARD
from trainers.at import AT
from trainers.at_ensemble import ATEnsemble
from trainers.at_multi import ATMSD, ATAvg, ATMax
from trainers.cat import CAT
from trainers.dd import DD
from trainers.dml import DML
from trainers.e_at import EAT
from trainers.igdm import IGDM
from trainers.ikl import IKL
from trainers.lbgat import LBGAT
from trainers.mart import MART
from trainers.mat import MAT
from trainers.mat_mp import MATMP
from trainers.mat_offline import MATOffline
from trainers.natural import Natural
from trainers.peeraid import PeerAiD
from trainers.ramp import RAMP
from trainers.regmix import RegMix
from trainers.rslad import RSLAD
from trainers.saad import SAAD
from trainers.trades import TRADES

TRAINERS = {
    "natural": Natural,
    "at": AT,
    "at-ensemble": ATEnsemble,
    "alp": ALP,
    "trades": TRADES,
    "mart": MART,
    "ikl": IKL,
    "adr": ADR,
    "dd": DD,
    "ard": ARD,
    "rslad": RSLAD,
    "adaad": AdaAD,
    "igdm": IGDM,
    "saad": SAAD,
    "peeraid": PeerAiD,
    "lbgat": LBGAT,
    "act": ACT,
    "dml": DML,
    "mat": MAT,
    "mat-offline": MATOffline,
    "at-avg": ATAvg,
    "at-max": ATMax,
    "at-msd": ATMSD,
    "e-at": EAT,
    "ramp": RAMP,
    "mat-mp": MATMP,
    "cat": CAT,
    "regmix": RegMix,
}
