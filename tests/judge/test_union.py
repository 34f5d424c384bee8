"""A union is the worst case image by image, whatever the order; what an attack no longer sees costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from oracles import saturated_images, small_cnn
from torch import nn

from attacks.autoattack import AutoAttack
from attacks.contract import ThreatModel
from attacks.ddn import DDN
from attacks.noise import Noise
from attacks.pgd import PGD
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.judge.evaluate import evaluate
from bench.judge.union import common_threat, evaluate_union
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.subjects.catalog import Catalog
from bench.subjects.data import Images

LINF, L2, L1 = ThreatModel("Linf", 0.03), ThreatModel("L2", 0.3), ThreatModel("L1", 3.0)
HALF = ThreatModel("Linf", 0.5)
ATTACKS = {"pgd": PGD(LINF, 4, 0.015), "ddn": DDN(L2, steps=20), "l1": PGD(L1, 20, 0.6)}


@dataclass(frozen=True)
class Turn:
    """Breaks the images of these ids by turning pixel 0 to `to`; counts the images that it was shown."""

    ids: tuple[int, ...]
    shown: list[int]
    threat: ThreatModel = HALF
    to: float = 0.0
    closest: bool = False
    version: int = 1

    def __call__(self, target, x, y, noise: Noise):
        self.shown.extend(noise.ids.tolist())
        x_adv = x.clone()
        chosen = torch.isin(noise.ids, torch.tensor(self.ids))
        x_adv[chosen, 0, 0, 0] = self.to
        return x_adv


class FirstPixel(nn.Module):
    """Class 1 where the first pixel is above 0.2."""

    def forward(self, x):
        score = x[:, 0, 0, 0] - 0.2
        return torch.stack([-score, score], 1)


def bright(count):
    """Images of class 1, each of two pixels; the first id is wrong without an attack."""
    x = torch.full((count, 1, 1, 2), 0.4)
    x[0] = 0.1
    return Images(x, torch.ones(count, dtype=torch.int64), torch.arange(10, 10 + count))


def test_a_union_by_hand():
    first, second = Turn((11, 13), []), Turn((13, 14, 10), [])
    union = evaluate_union(FirstPixel().eval(), {"first": first, "second": second}, bright(6), 2)
    assert union.broken_by == {"first": [11, 13], "second": [14]}
    assert union.table["robust"].tolist() == [False, False, True, False, False, True]
    assert (first.shown, second.shown) == ([11, 12, 13, 14, 15], [12, 14, 15])
    assert union.x_adv[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.0, 0.4, 0.0, 0.0, 0.4])
    assert union.table["l0"].tolist() == [0, 1, 0, 1, 1, 0]


def test_it_is_what_all_attacks_on_all_images_leave_and_costs_less():
    model, x = small_cnn(), saturated_images(40, (3, 12, 12), 3)
    images = Images(x, model(x).argmax(1), torch.arange(40))
    alone = {name: evaluate(model, attack, images, 10, name=name).table for name, attack in ATTACKS.items()}
    union = evaluate_union(model, ATTACKS, images, 10)
    assert union.table["robust"].tolist() == [all(t["robust"][i] for t in alone.values()) for i in range(40)]
    assert 0 < union.table["robust"].sum() < min(t["robust"].sum() for t in alone.values())
    for place, (name, broken) in enumerate(union.broken_by.items()):
        before = [t["robust"] for t in list(alone.values())[:place]]
        assert broken == [i for i in range(40) if not alone[name]["robust"][i] and all(r[i] for r in before)]
    backward = union.table["backward_passes"].sum()
    assert 0 < backward < sum(t["backward_passes"].sum() for t in alone.values())
    assert backward == union.cost.backward_passes


def test_far_images_of_a_minimal_norm_attack_do_not_count():
    model, x = small_cnn(), saturated_images(10, (3, 12, 12), 3)
    images = Images(x, model(x).argmax(1), torch.arange(10))
    near = {"ddn": DDN(ThreatModel("L2", 1e-4), steps=8)}
    union = evaluate_union(model, near, images, 10)
    assert union.table["robust"].all() and union.broken_by == {"ddn": []}
    assert torch.equal(union.x_adv, x)


def test_images_that_are_all_wrong_need_no_attack():
    attack = Turn((10,), [])
    union = evaluate_union(FirstPixel().eval(), {"one": attack}, bright(1), 2)
    assert not union.table["robust"].any() and attack.shown == [] and union.broken_by == {}


def test_the_threat_model_that_they_share():
    assert common_threat({"a": ATTACKS["ddn"], "b": PGD(L2, 8, 0.1)}) == L2
    assert common_threat(ATTACKS).norm == "own"


def test_every_suite_is_made_of_attacks_that_exist():
    catalog = Catalog()
    for name, suite in catalog.suites.items():
        parts = catalog.parts([name])
        assert len(parts) == len(suite.parts) > 1
        assert all(catalog.attack(part)[0] is not None for part in parts)
    whole, quick = (set(catalog.suites[f"mat-table5{tail}"].parts) for tail in ("", "-quick"))
    assert quick < whole
    assert {part + "-digits" for part in whole} == set(catalog.suites["mat-table5-digits"].parts)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("tail", ["", "-digits"])
def test_the_standard_suites_are_of_one_norm_and_end_with_an_attack_that_sees_no_gradient(norm, tail):
    catalog = Catalog()
    name = catalog.standard(norm, "digits" if tail else "cifar10")
    attacks = [catalog.attack(part)[0] for part in catalog.suites[name].parts]
    assert name == f"standard{'' if norm == 'Linf' else f'-{norm.lower()}'}{tail}"
    assert {attack.threat.norm for attack in attacks} == {norm} and len({attack.threat for attack in attacks}) == 1
    kinds = {type(attack).__name__ for attack in attacks}
    assert {"APGD", "FAB"} < kinds and type(attacks[-1]).__name__ == ("SaltAndPepper" if norm == "L1" else "Square")
    assert norm == "L1" or all(type(part) in map(type, attacks) for part in AutoAttack(attacks[0].threat).parts)


def test_names_are_attacks_and_suites_each_once():
    catalog = Catalog()
    parts = catalog.parts(["ddn", "mat-table5-quick", "ddn"])
    assert parts[0] == "ddn" and parts.count("ddn") == 1 and len(parts) == len(catalog.suites["mat-table5-quick"].parts)
    with pytest.raises(UserError, match="unknown attack or suite 'mat-tabel5'; did you mean 'mat-table5'"):
        catalog.parts(["mat-tabel5"])


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A model of one's own, by its import path."""
    (tmp_path / "mine.py").write_text(
        "from bench.subjects.models import create\n"
        "def make(*shape, **given):\n    return create('cnn-small', (1, 8, 8), 10, seed=0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "mine:make"


def test_the_command_says_what_each_attack_broke_and_keeps_the_record(factory, tmp_path, capsys):
    arguments = ["attack", factory, "--images", "60", "--results", str(tmp_path)]
    assert main([*arguments, "fgsm-digits", "pgd-20-digits", "ddn-digits"]) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "evals").glob("*/*.parquet")
    record = read_eval(Results(tmp_path), path.parent.name, path.stem)
    right = int((record.images["clean_prediction"] == record.images["label"]).sum())
    fallen = [len(ids) for ids in record.broken_by.values()]
    assert record.norm == "own" and next(iter(record.broken_by)) == "fgsm-digits"
    assert f"breaks {fallen[0]} of {right}; {right - fallen[0]} stand" in said
    right = record.images["clean_prediction"] == record.images["label"]
    fell = int((right & ~record.images["robust"]).sum())
    assert 0 < fell < 60 - int(record.images["robust"].sum()), "some were wrong before"
    assert f"{fell} of the {int(right.sum())} images that were right fall" in said


def test_a_step_scales_with_the_radius_unless_it_is_set(factory, tmp_path, capsys):
    arguments = ["attack", factory, "--images", "9", "--results", str(tmp_path), "pgd-20-digits", "cw-digits"]
    assert main([*arguments, "--eps", "0.3", "--set", "cw-digits.steps=3"]) == 0
    said = capsys.readouterr().out
    assert "pgd-20-digits: steps of 0.03, scaled with the radius from 0.015" in said and "cw-digits: steps" not in said
    assert main([*arguments, "--eps", "0.3", "--set", "cw-digits.steps=3", "--set", "pgd-*.step=0.015"]) == 0
    assert "scaled" not in capsys.readouterr().out
    twice = Catalog().attack("pgd-20", 0.5, "L2")[0]
    assert twice.threat == ThreatModel("L2", 0.5) and twice.step == pytest.approx(0.5 * 0.003 * 255 / 8)
    assert Catalog().attack("cw", 0.1)[0].step == Catalog().attack("cw")[0].step


@pytest.mark.parametrize(
    "names, given, message",
    [
        (["fog-digits"], ["--eps", "0.1"], "attack 'fog-digits' is bounded in parameters of its own and not in a norm"),
        (["msd-digits", "pgd-20-digits"], ["--norm", "L2"], "leave out --eps and --norm"),
        (["mat-table5-digits"], ["--eps", "0.1"], "one radius, but these attacks have theirs in L1, L2, Linf; attack"),
        (["pgd-20-digits"], ["--norm", "L2"], "has a radius in Linf; give the one in L2 with --eps"),
    ],
)
def test_a_radius_that_an_attack_cannot_have_is_refused(names, given, message, factory, tmp_path, capsys):
    assert main(["attack", factory, *names, *given, "--results", str(tmp_path)]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1] and not list(tmp_path.glob("evals"))


def test_a_suite_says_how_many_images_unless_the_user_does(factory, tmp_path, capsys):
    own = tmp_path / "own.toml"
    own.write_text('[suites.two]\nparts = ["fgsm-digits", "pgd-20-digits"]\nimages = 20\n')
    arguments = ["attack", factory, "two", "--recipes", str(own), "--results", str(tmp_path)]
    assert main(arguments) == 0 and "worst case of 2 attacks; 20 images" in capsys.readouterr().out
    assert main([*arguments, "--images", "7"]) == 0 and "; 7 images" in capsys.readouterr().out
    numbers = tmp_path / "numbers"
    numbers.write_text("\n".join(map(str, range(100, 130))))
    assert main([*arguments, "--indices", str(numbers)]) == 0 and "; 30 images" in capsys.readouterr().out
    own.write_text(own.read_text().replace("20\n", "1000\n"))
    assert main(arguments) == 0 and "; 450 images" in capsys.readouterr().out, "the digits have no more"
    assert main([*arguments, "--source", factory]) == 2
    assert "--source goes with one attack" in capsys.readouterr().err
