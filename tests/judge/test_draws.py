"""A model that answers at random: one draw is no verdict; many are a mean with an interval, and attacks see the mean.

Where answers do not move, several draws change no bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import linear
import numpy as np
import pytest
import torch
from hand_made import eval_record, frame
from torch import nn

from attacks.apgd import APGD
from attacks.contract import ThreatModel
from attacks.ddn import DDN
from attacks.fab import FAB
from attacks.model import ModelError
from attacks.pgd import PGD
from attacks.target import Target
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ground.stats import over_draws, over_seeds
from bench.judge.evaluate import craft, evaluate
from bench.judge.union import evaluate_union
from bench.judge.verify import verify
from bench.ledger.draws import COLUMNS, Draws
from bench.ledger.evals import accuracies, judge_at, read_eval, write_eval
from bench.ledger.folder import Results
from bench.regression.diff import between
from bench.running.card import _attacks
from bench.subjects.catalog import Catalog
from bench.subjects.data import Images
from bench.subjects.quick import Arrangement

BALL = ThreatModel("Linf", 0.05)
ONCE, TWICE, MANY = (Arrangement(draws=draws) for draws in (1, 2, 20))


def images(count: int = 40) -> Images:
    x, y = linear.images(count)
    return Images(x, y, torch.arange(count))


class Bent(nn.Module):
    """The linear network, whose slope is now another one at every image."""

    def forward(self, x):
        logits = linear.network()(x)
        return logits + 0.3 * (3 * logits).sin()


class Blurred(nn.Module):
    """The linear network, on pixels with noise."""

    def __init__(self, deviation: float = 0.5) -> None:
        super().__init__()
        self.network, self.deviation = linear.network(), deviation

    def forward(self, x):
        return self.network(x + self.deviation * torch.randn_like(x))


class Masked(nn.Module):
    """Logits behind a sine whose phase is drawn in every pass: the slope of one draw points anywhere, that of the mean
    uphill.
    """

    def __init__(self, height: float = 40.0) -> None:
        super().__init__()
        self.network, self.height = linear.network(), height

    def forward(self, x):
        sign = torch.where(torch.rand(len(x), 1) < 0.5, -1.0, 1.0)
        return self.network(x) + self.height * sign * (self.network(x) - self.network(x).detach())


class Coin(nn.Module):
    """Right with a chance of p, whatever the image: class 0 is right."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        wrong = (torch.rand(len(x)) >= self.p).float()
        return torch.stack([1 - 2 * wrong, 2 * wrong - 1], 1) + 0 * x.sum((1, 2, 3))[:, None]


class Turns(nn.Module):
    """Logits that are given in turn, and a slope that is the number of the turn."""

    def __init__(self, *logits: tuple[float, float]) -> None:
        super().__init__()
        self.logits, self.asked = logits, 0

    def forward(self, x):
        given = torch.tensor(self.logits[self.asked % len(self.logits)])
        self.asked += 1
        return given + self.asked * (x - x.detach()).flatten(1).sum(1)[:, None] * torch.tensor([-1.0, 1.0])


@dataclass(frozen=True)
class Nothing:
    """An attack that gives the images back."""

    threat: ThreatModel = BALL
    closest: bool = False
    version: int = 1

    def __call__(self, target, x, y, noise):
        return x.clone()


@pytest.mark.parametrize("attack", [PGD(BALL, 10, 0.01), APGD(BALL, 20, targets=1), FAB(BALL, 10, 1)])
def test_a_model_that_does_not_move_has_the_same_bits_from_one_draw_and_from_many(attack):
    model, some = Bent().eval(), images()
    plain, one, five = (
        evaluate(model, attack, some, 2, name="a", run=Arrangement(draws=draws)) for draws in (None, 1, 5)
    )
    assert 0 < plain.robust_accuracy < 1 and plain.cost.backward_passes > 0
    assert torch.equal(plain.x_adv, one.x_adv) and torch.equal(plain.x_adv, five.x_adv)
    assert plain.table.equals(one.table) and one.draws is None and not {*COLUMNS} & {*one.table}
    same = [name for name in plain.table if not name.endswith("passes")]
    assert plain.table[same].equals(five.table[same])
    assert five.cost.backward_passes == 5 * plain.cost.backward_passes
    assert five.robust_accuracy == plain.robust_accuracy and five.draws.robust_of(five.table)[1] == 0
    assert (five.table["robust_draws"] == 5 * plain.table["robust"]).all()


def test_ids_of_one_draw_are_those_of_before_and_of_many_others():
    assert Arrangement().identity == ONCE.identity == {"gradient_precision": "float32"}
    assert MANY.identity == {"gradient_precision": "float32", "draws": 20}


def test_one_draw_of_a_model_whose_answers_move_is_refused_unless_it_is_asked_for():
    for attack in (None, PGD(BALL, 2, 0.01)):
        with pytest.raises(ModelError, match=r"its answers move .* one draw is no verdict; .*--draws 20"):
            evaluate(Blurred().eval(), attack, images(), 2)
    with pytest.raises(ModelError, match="its answers move"):
        evaluate_union(Blurred().eval(), {"pgd": PGD(BALL, 2, 0.01)}, images(), 2)
    with pytest.raises(ModelError, match="its answers move"):
        craft(Blurred().eval(), PGD(BALL, 2, 0.01, stop="last"), images(), 2, name="pgd")
    told = evaluate(Blurred().eval(), PGD(BALL, 2, 0.01), images(), 2, run=ONCE)
    assert any("the answers move" in sign for sign in told.signs) and told.draws is None
    assert not any("the answers move" in s for s in evaluate(Blurred().eval(), None, images(), 2, run=MANY).signs)


def test_a_coin_is_right_as_often_as_it_is_made_to_be_and_its_draws_are_told_apart():
    some = replace(images(50), y=torch.zeros(50, dtype=torch.int64))
    found = evaluate(Coin(0.7).eval(), Nothing(), some, 2, run=MANY, look=False)
    assert found.clean_accuracy == pytest.approx(0.7, abs=5 * (0.21 / 1000) ** 0.5)
    assert found.robust_accuracy == pytest.approx(0.7, abs=5 * (0.21 / 1000) ** 0.5)
    share, spread = found.draws.robust_of(found.table)
    assert share.low < 0.7 < share.high and spread == pytest.approx((0.21 / 50) ** 0.5, rel=0.5)
    assert found.draws.clean != found.draws.robust, "clean and adversarial draws are not the same ones"
    assert found.table["robust_draws"].nunique() > 5 and found.table["robust_draws"].sum() == sum(found.draws.robust)


def test_the_same_seed_draws_the_same_and_leaves_the_callers_random_numbers_alone():
    state = torch.random.get_rng_state()
    first, again, other = (
        evaluate(Blurred().eval(), PGD(BALL, 4, 0.02), images(), 2, name="pgd", run=TWICE, seed=seed, look=False)
        for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.x_adv, again.x_adv) and first.table.equals(again.table) and first.draws == again.draws
    assert not torch.equal(first.x_adv, other.x_adv) and first.draws != other.draws


def test_an_attack_that_sees_the_mean_of_many_draws_finds_what_single_draws_do_not():
    model, some, attack = Masked().eval(), images(), PGD(BALL, 10, 0.01, start="none", stop="last")
    judged = []
    for run in (ONCE, MANY):
        crafted = craft(model, attack, some, 2, name="pgd", run=run, look=False)
        judged.append(evaluate(model, attack, some, 2, name="pgd", run=MANY, crafted=crafted, look=False))
    truth = float((linear.margins(some.x) > BALL.eps)[some.y == linear.network()(some.x).argmax(1)].float().mean())
    single, mean = (one.robust_accuracy for one in judged)
    assert single > mean + 0.1 and mean >= 0.9 * truth


def test_the_worst_of_several_attacks_is_judged_in_draws_that_did_not_choose_it():
    """Six attacks that do nothing to a coin: the least of six counts would say 0.3."""
    some = replace(images(100), y=torch.zeros(100, dtype=torch.int64))
    attacks = {f"nothing-{number}": Nothing() for number in range(6)}
    found = evaluate_union(Coin().eval(), attacks, some, 2, run=Arrangement(draws=10), look=False)
    assert found.robust_accuracy == pytest.approx(0.5, abs=5 * (0.25 / 1000) ** 0.5)
    right = found.table["clean_prediction"] == found.table["label"]
    fell = set(found.table.loc[right & ~found.table["robust"], "image"])
    assert {one for ids in found.broken_by.values() for one in ids} <= fell
    assert found.table["robust_draws"].sum() == sum(found.draws.robust)


def test_an_image_that_one_draw_in_twenty_holds_is_still_attacked_by_the_next():
    shown = []

    @dataclass(frozen=True)
    class Shown(Nothing):
        def __call__(self, target, x, y, noise):
            shown.append(len(x))
            return x.clone()

    some = replace(images(40), y=torch.zeros(40, dtype=torch.int64))
    evaluate_union(Coin(0.2).eval(), {"a": Shown(), "b": Shown()}, some, 2, run=MANY, look=False)
    assert shown[0] >= 35 and shown[1] >= 30, "most draws say that these are wrong, and some that they are not"


def test_a_minimal_norm_attack_beyond_its_radius_leaves_an_image_as_right_as_it_was():
    found = evaluate(Blurred(0.2).eval(), DDN(ThreatModel("L2", 1e-3), 20), images(), 2, run=TWICE, look=False)
    far = found.table[found.table["l2"] > 2e-3]
    assert len(far) > 5 and (far["adversarial_prediction"] != far["label"]).any()
    assert (far["robust_draws"] == far["clean_draws"]).all()


def test_a_pass_over_draws_has_the_mean_slope_and_the_logits_farthest_from_a_wrong_answer():
    x, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    target = Target(Turns((0.0, 5.0), (3.0, 1.0), (0.0, 2.0)).eval()).counting(1).over(3, y)
    value, grad, logits = target.loss_grad(x, y, lambda logits, _: logits[:, 1])
    assert (float(value), float(grad), logits.tolist()) == (pytest.approx(8 / 3), 2.0, [[3.0, 1.0]])
    assert target.logits(x).tolist() == target.true_logits(x).tolist() == [[3.0, 1.0]]
    margins, slopes = next(target.margin_gradients(x, y, torch.ones(1, 1, dtype=torch.int64)))[1:]
    assert (float(margins), float(slopes)) == (pytest.approx(5 / 3), pytest.approx(2 * (10 + 11 + 12) / 3))
    assert target.passes_per_image.tolist() == [[12], [6]] and target.forward_passes == 12
    assert target.module()(x).tolist() == [[0.0, 5.0]], "a library sees single draws"


def test_a_mean_of_draws_keeps_what_is_infinite():
    x, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    target = Target(Turns((0.0, torch.inf)).eval()).counting(1).over(3, y)
    assert float(target.loss_grad(x, y, lambda logits, _: logits[:, 1])[0]) == torch.inf


def test_the_interval_over_draws_is_that_of_as_many_networks_on_the_same_images():
    rng = np.random.default_rng(0)
    for draws, n in ((2, 1), (5, 30), (20, 200)):
        flags = rng.random((draws, n)) < rng.random(n)
        share, spread = over_draws(flags.sum(1), flags.sum(0))
        wanted, apart = over_seeds(flags)
        assert np.allclose(share, wanted, rtol=1e-12, atol=0) and spread == pytest.approx(apart)
    with pytest.raises(ValueError, match="whose counts do not agree"):
        over_draws([3, 4], [1, 1, 2])
    with pytest.raises(ValueError, match="1 draws"):
        over_draws([3], [1, 1, 1])


def kept(tmp_path):
    """A record of two draws of four images, and where it lies."""
    record = eval_record("run.best", "cw-n4-0000", frame([True, True, False, False]))
    table = record.images.assign(clean_draws=2, robust_draws=[2, 1, 1, 0])
    made = replace(record, images=table, draws=Draws([4, 4], [3, 1]))
    return made, Results(tmp_path), write_eval(Results(tmp_path), made)


def test_a_record_keeps_the_draws_of_every_image_and_one_without_draws_knows_nothing_of_them(tmp_path):
    made, results, path = kept(tmp_path)
    back = read_eval(results, made.run_id, made.eval_id)
    assert back == made and back.images.equals(made.images[back.images.columns])
    assert [share.value for share in accuracies(back)] == [1.0, 0.5]
    assert "| 4 | 100.00% | 50.00% |" in _attacks([back])
    plain = replace(made, draws=None, images=made.images.drop(columns=list(COLUMNS)))
    assert [share.value for share in accuracies(plain)] == [1.0, 0.5]
    assert b"draws" in path.read_bytes()
    assert b"draws" not in write_eval(results, plain).read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draws": Draws([4, 4], [3, 0])}, "its draws are not those of its images"),
        ({"draws": Draws([5, 3], [3, 1])}, "its draws are not those of its images"),
        ({"draws": None}, "needs exactly the columns"),
    ],
)
def test_draws_that_contradict_the_images_are_refused(tmp_path, change, words):
    made, results, _ = kept(tmp_path)
    with pytest.raises(UserError, match=words):
        write_eval(results, replace(made, **change))


def test_what_asks_for_one_verdict_of_an_image_refuses_draws(tmp_path):
    made, results, _ = kept(tmp_path)
    with pytest.raises(UserError, match="of 2 draws of a model that answers at random"):
        verify(results, made.run_id, made.eval_id)
    with pytest.raises(UserError, match="no image flips"):
        between("it", made, made)
    with pytest.raises(UserError, match="of 2 draws at its own radius alone"):
        judge_at(made, 0.1)


@pytest.mark.parametrize("tail", ["", "-digits"])
@pytest.mark.parametrize("norm", ["", "-l2", "-l1"])
def test_rand_is_apgd_on_two_losses_in_one_norm_and_twenty_draws(norm, tail):
    catalog = Catalog()
    suite = catalog.suites[f"rand{norm}{tail}"]
    parts = [catalog.attack(part)[0] for part in suite.parts]
    assert suite.draws == 20 and [part.loss for part in parts] == ["ce", "dlr"]
    assert all(type(part) is APGD and (part.steps, part.restarts, part.targets) == (100, 1, 0) for part in parts)
    assert len({part.threat for part in parts}) == 1 and parts[0].threat.norm == (norm[1:].title() or "Linf")


OWN = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer((x + 0.3 * torch.randn_like(x)).flatten(1))
"""


def test_the_command_asks_as_often_as_it_is_told_and_a_suite_by_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "drawing_model.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    short = [f"--set={name}-digits.steps=2" for name in ("apgd-ce", "apgd-dlr")]
    given = ["--dataset", "digits", "--images", "20", "--results", "r"]
    assert main(["attack", "drawing_model:Model", "apgd-ce-digits", *short[:1], *given]) == 2
    assert "its answers move" in capsys.readouterr().err
    assert main(["attack", "drawing_model:Model", "rand-digits", *short, *given]) == 0
    out = capsys.readouterr().out
    assert "mean of 20 draws" in out and "for new draws and new images" in out
    assert main(["attack", "drawing_model:Model", "rand-digits", *short, *given, "--draws", "2"]) == 0
    assert "mean of 2 draws" in capsys.readouterr().out
    records = [read_eval(Results(tmp_path / "r"), p.parent.name, p.stem) for p in tmp_path.glob("r/evals/*/*.parquet")]
    assert sorted(one.draws.count for one in records) == [2, 20]
