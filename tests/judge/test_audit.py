"""An audit by hand, its bound against the exact one, its record, and the planted defences that `strong` believes."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import broken_defences
import numpy as np
import pytest
import torch
from scipy.stats import beta
from test_union import HALF, FirstPixel, Turn, bright

from attacks import ATTACKS
from attacks.a3 import A3
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.contract import Attack, ThreatModel
from attacks.pgd import PGD
from attacks.strong import Strong
from bench.commands.cli import main
from bench.ground.stats import clopper_pearson
from bench.judge.audit import again, draw, evaluate_audited, kind_of, parts_of
from bench.ledger.audits import Audit
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results

NONE = {"attack_passes": [0, 0], "audit_passes": [0, 0], "rest_passes": [0, 0]}


@dataclass(frozen=True)
class Both:
    """An auditor of two parts."""

    parts: tuple[Attack, ...]


@dataclass(frozen=True)
class Cheap(Turn):
    """An attack that is audited."""

    audit: int = 0
    audited_by: Both | Turn | None = None


@pytest.fixture
def turns(monkeypatch):
    """Attacks of the tests, by names."""
    for name, cls in (("turn", Turn), ("both", Both)):
        monkeypatch.setitem(ATTACKS, name, cls)


def audited(attack, images, seed=0):
    return evaluate_audited(FirstPixel().eval(), attack, images, 2, name="cheap", seed=seed)


def drawn_of(ids, size, seed=0):
    return [one for one, chosen in zip(ids, draw(torch.tensor(ids), size, seed).tolist(), strict=True) if chosen]


def test_an_audit_that_finds_nothing_changes_no_verdict(turns):
    idle, other = Turn((99,), []), Turn((98,), [])
    attack = Cheap((11,), [], audit=4, audited_by=Both((idle, other)))
    found, images = audited(attack, bright(12)), bright(12)
    plain = audited(Cheap((11,), []), images)
    assert plain.audit is None and found.audit is not None
    assert found.table["robust"].equals(plain.table["robust"]) and torch.equal(found.x_adv, plain.x_adv)
    sample = drawn_of(list(range(12, 22)), 4)
    assert idle.shown == other.shown == sample
    assert (found.audit.standing, found.audit.sample, found.audit.broken, found.audit.broken_by) == (10, 4, 0, {})
    assert (found.audit.auditor, found.audit.parts) == ("both", ["turn", "turn-2"])


def test_what_breaks_one_is_run_on_all_that_stands_and_nothing_else_is(turns):
    standing = list(range(12, 22))
    sample = drawn_of(standing, 4)
    rest = [one for one in standing if one not in sample]
    finds, idle = Turn((sample[1], rest[0], rest[3], 11), []), Turn((rest[1],), [])
    attack = Cheap((11,), [], audit=4, audited_by=Both((idle, finds)), to=0.1)
    found = audited(attack, bright(12))
    assert idle.shown == sample and finds.shown == sample + rest
    fallen = found.table.loc[~found.table["robust"], "image"].tolist()
    assert fallen == sorted([10, 11, sample[1], rest[0], rest[3]])  # 10 is wrong without an attack
    assert found.audit.found == {"turn": 0, "turn-2": 1}
    assert found.audit.broken_by == {"turn-2": [sample[1], rest[0], rest[3]]}
    assert (found.audit.broken, found.audit.fallen) == (1, 3)
    pixel = dict(zip(found.table["image"], found.x_adv[:, 0, 0, 0].tolist(), strict=True))
    assert pixel[11] == pytest.approx(0.1) and pixel[sample[1]] == pixel[rest[0]] == 0 and pixel[rest[1]] > 0.3


def test_its_images_can_be_made_again_without_the_others(turns):
    standing = list(range(12, 22))
    sample = drawn_of(standing, 4)
    rest = [one for one in standing if one not in sample]
    finds = Turn((sample[1], rest[0]), [])
    attack = Cheap((11,), [], audit=4, audited_by=Both((Turn((rest[2],), []), finds)), to=0.1)
    found, model, images = audited(attack, bright(12)), FirstPixel().eval(), bright(12)
    made = again(model, attack, found.audit, images, 2, name="cheap")
    assert torch.equal(made, found.x_adv) and float(made[rest[0] - 10, 0, 0, 0]) == 0
    one = again(model, attack, found.audit, images.take(torch.tensor([rest[0] - 10, 5])), 2, name="cheap")
    assert torch.equal(one, found.x_adv[[rest[0] - 10, 5]])


def test_an_auditor_without_parts_is_its_own_and_where_nothing_stands_nothing_is_asked(turns):
    finds = Turn((12,), [])
    found = audited(Cheap((11,), [], audit=300, audited_by=finds), bright(6))
    assert finds.shown == [12, 13, 14, 15] and found.audit.broken_by == {"turn": [12]} and found.audit.bound == 0
    finds.shown.clear()
    found = audited(Cheap(tuple(range(11, 16)), [], audit=300, audited_by=finds), bright(6))
    assert finds.shown == [] and found.audit.words(6) == "nothing stands that could be audited"


def test_lots_belong_to_the_image():
    ids = torch.arange(1000, 1500)
    some, order = draw(ids, 60, 3), torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert int(some.sum()) == 60 and torch.equal(some[order], draw(ids[order], 60, 3))
    assert bool((draw(ids, 200, 3) | ~some).all()), "a larger sample holds the smaller"
    assert not torch.equal(some, draw(ids, 60, 4))
    often = sum(draw(ids, 60, seed).double() for seed in range(200)) / 200
    assert abs(float(often.mean()) - 0.12) < 1e-9 and float(often.max()) < 0.24, "each equally often"


@pytest.mark.parametrize("found, n", [(0, 300), (0, 1), (3, 50), (49, 50), (50, 50)])
def test_the_bound_is_the_exact_one(found, n):
    exact = 1.0 if found == n else float(beta.ppf(0.95, found + 1, n - found))
    assert clopper_pearson(found, n) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("one", [(-1, 3), (4, 3), (0, 0)])
def test_no_bound_of_no_share(one):
    with pytest.raises(ValueError, match="no share"):
        clopper_pearson(*one)


def test_bounds_hold_in_95_of_100_drawn_cases():
    """2,000 lots of images, of which up to four parts of an auditor break some; which are drawn is by chance. What is
    left to break afterwards is at most the bound as often as was promised.
    """
    rng, held, wide = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        standing, parts = int(rng.integers(30, 800)), int(rng.integers(1, 5))
        size = int(rng.integers(5, standing + 1))
        breaks = rng.random((parts, standing)) < rng.choice([0, 0.5, 1, 2, 3, 5], (parts, 1)) / size
        first = np.where(breaks.any(0), breaks.argmax(0), -1)  # the part that is the first to break an image
        sample = rng.permutation(standing)[:size]
        names = [f"part-{k}" for k in range(parts)]
        found = {name: int((first[sample] == k).sum()) for k, name in enumerate(names)}
        by = {name: [0] * found[name] for name in names if found[name]}
        audit = Audit("both", names, standing, size, found, by, **NONE)
        seen = breaks[[k for k, name in enumerate(names) if found[name]]].any(0)  # by parts that are run on all
        left = breaks.any(0) & ~seen
        left[sample] = False
        held += left.sum() <= audit.bound * standing
        wide += 0 < audit.bound < 0.5
    assert held >= 0.95 * 2000 and wide > 1000


def test_a_bound_that_is_chosen_by_looking_is_wider():
    asked = [f"p{k}" for k in range(4)]
    none, one, every = (
        Audit("both", asked, 1000, 300, found, {part: [1] for part in found if found[part]}, **NONE)
        for found in (dict.fromkeys(asked, 0), {"p0": 1}, dict.fromkeys(asked, 1))
    )
    assert none.bound == pytest.approx(1 - 0.05 ** (1 / 300))
    assert one.bound == pytest.approx(1 - (0.05 / (comb(4, 2) + 1)) ** (1 / 300)) and every.bound == 0
    assert (
        "0 of 300 drawn at random of the 1000 that stand; with 95 % confidence it would break at most 0.99 % of them"
        in (none.words(2000))
    )
    assert "(0.50 points of accuracy)" in none.words(2000)
    assert "1 of 300" in one.words(2000) and "(p0 1); run on the others too, these break 0 more" in one.words(2000)


@pytest.mark.parametrize("wrong", [{"sample": 11}, {"found": {"other": 1}}, {"audit_passes": [1]}])
def test_an_audit_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match=r"an audit of more images than stood|passes are two numbers"):
        Audit(
            **{
                "auditor": "both",
                "parts": ["p"],
                "standing": 10,
                "sample": 4,
                "found": {},
                "broken_by": {},
                **NONE,
                **wrong,
            }
        )


@dataclass(frozen=True)
class Quick(Strong):
    """The same of few passes, audited by an AutoAttack of few passes."""

    @property
    def parts(self):
        falling = PGD(self.threat, 10, self.threat.eps, step_schedule="cosine", targets=3)
        return (falling, APGD(self.threat, 10, targets=3), A3(self.threat, steps=5, rounds=3))

    @property
    def audited_by(self):
        return AutoAttack(self.threat, steps=5, targets=2, queries=150)


def test_the_passes_of_an_audit_are_counted():
    threat, model, images = ThreatModel("Linf", 0.05), FirstPixel().eval(), bright(6)
    alone, found = (evaluate_audited(model, Quick(threat, audit=n), images, 2, name="strong") for n in (0, 2))
    audit, passes = found.audit, ["forward_passes", "backward_passes"]
    assert audit.standing == 5 and audit.attack_passes == alone.table.loc[1:, passes].sum().tolist()
    assert found.cost.forward_passes == alone.cost.forward_passes + audit.audit_passes[0]
    assert audit.audit_passes[0] > 2 * 150, "each of the two goes through all of Square"
    both = sum(audit.attack_passes) + sum(audit.audit_passes)
    assert audit.saved == pytest.approx(1 - both / (2.5 * sum(audit.audit_passes)))


@pytest.mark.parametrize("name", ["quantisation", "dead ReLUs", "wrong gradient"])
def test_the_audit_notices_defences_that_only_hide_their_gradient(name):
    """Of the planted ones those that AutoAttack breaks and `strong` does not."""
    images, threat = broken_defences.digits().test.head(40), ThreatModel("Linf", broken_defences.EPS)
    found = evaluate_audited(
        broken_defences.planted(name), Quick(threat, audit=8), images, 10, name="strong", look=False
    )
    assert found.audit.standing > 0.3 * 40, "believed"
    assert found.audit.broken > 0 and found.robust_accuracy * 40 < 0.7 * found.audit.standing


def test_the_parts_of_autoattack_have_names():
    assert list(parts_of(AutoAttack(HALF))) == ["apgd", "apgd-2", "fab", "square"]
    assert (
        kind_of(Strong(HALF)) == "strong" and kind_of(Strong(HALF, auditor="pyautoattack").audited_by) == "pyautoattack"
    )
    assert kind_of(Strong(ThreatModel("L1", 1)).audited_by) == "pyautoattack"


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A model of one's own, by its import path."""
    (tmp_path / "mine.py").write_text(
        "from bench.subjects.models import create\n"
        "def make(*shape, **given):\n    return create('cnn-small', (1, 8, 8), 10, seed=0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "mine:make"


def record_of(folder):
    (path,) = (folder / "evals").glob("*/*.parquet")
    return read_eval(Results(folder), path.parent.name, path.stem)


@pytest.mark.slow
def test_the_command_says_what_the_audit_found_and_keeps_it(factory, tmp_path, capsys):
    arguments = ["attack", factory, "strong-digits", "--eps", "0.002", "--images", "40", "--results", str(tmp_path)]
    assert main([*arguments, "--audit", "1"]) == 0
    said, record = capsys.readouterr().out, record_of(tmp_path)
    assert record.audit.sample == 1 < record.audit.standing == int(record.images["robust"].sum()) + record.audit.fallen
    assert f"audit: {record.audit.words(40)}" in said and "passes for an image that stands: " in said
    assert record.settings["audit"] == 1


def test_without_an_audit_the_command_says_that(factory, tmp_path, capsys):
    arguments = ["attack", factory, "--eps", "0.002", "--images", "9", "--results", str(tmp_path)]
    assert main([*arguments, "strong-digits", "--audit", "0"]) == 0
    assert "audit: left out, so how much this number is too high is open" in capsys.readouterr().out
    assert record_of(tmp_path).audit is None
    assert main([*arguments, "pgd-20-digits", "--audit", "5"]) == 2
    assert "--audit is for attacks that are audited, such as strong, not for pgd-20-digits" in capsys.readouterr().err
