"""Estimates: what they are made of, what they say, what they lack. Never how long anything took."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch
from methods import method
from oracles import small_cnn

from attacks import ATTACKS
from attacks.contract import Budget, ThreatModel
from bench.commands.cli import main
from bench.ground.pace import Pace
from bench.running import clock as module
from bench.running import forecast, rates
from bench.running.clock import EARLY, NONE, Clock, Span, Standing, _of_budget, probed
from bench.running.forecast import Forecast, of_attacks, of_trainings
from bench.running.rates import Judging, Own, Rates
from bench.running.train import Training
from bench.subjects import data
from bench.subjects.blank import Blank
from bench.subjects.catalog import Catalog
from trainers.contract import Inner

CPU = torch.device("cpu")
RATES = Rates(forward=1.0, gradient=3.0, ascent=5.0, weights=7.0, step=0.5, activations=1e6, size=4, given=1.0)
LINF = ThreatModel("Linf", 0.1)
PGD = ATTACKS["pgd"](LINF, steps=100)


@pytest.fixture
def digits():
    return data.load("digits")


@pytest.fixture
def known(monkeypatch):
    """Rates that are numbers to reckon with, and nothing beside the network."""
    monkeypatch.setattr(module, "rates_of", lambda *given: RATES)
    monkeypatch.setattr(module, "own_of", lambda *given: Own(0.0))
    monkeypatch.setattr(module, "judging_of", lambda *given: Judging(0, 0, 0.0))
    monkeypatch.setattr(module, "RECORD", 0.0)


def training(digits, name="at-digits", **schedule):
    recipe = Catalog().recipe(name)
    recipe = replace(recipe, schedule=replace(recipe.schedule, **schedule))
    return Training(recipe, digits, "cnn-small", 0, CPU)


def test_an_attack_is_its_passes_times_the_rates(known, digits):
    """101 forward passes at 1 s, 100 backward at 2 s more, of an image that stands; one that falls leaves early."""
    clock, whole, early = Clock(digits, CPU), 101 + 200, EARLY * 3
    span = clock.attack("pgd", PGD, "cnn-small", 10, Standing(0.8, 0.5))
    assert span == pytest.approx((10 * 0.8 * early, 10 * 0.8 * (whole + early) / 2, 10 * whole))
    minimal = ATTACKS["ddn"](ThreatModel("L2", 0.5), steps=20, levels=256)
    assert clock.attack("ddn", minimal, "cnn-small", 10, Standing(0.5, 0.0)).about == pytest.approx(5 * (22 + 40))
    assert clock.attack("clean", None, "cnn-small", 10, Standing()) == NONE


def test_a_later_part_sees_what_the_first_left(known, digits):
    attack = ATTACKS["autoattack"](LINF)
    clock = Clock(digits, CPU)
    nothing, half = (clock.attack("aa", attack, "cnn-small", 10, Standing(1.0, stand)) for stand in (0.0, 0.5))
    first = clock.attack("ce", attack.parts[0], "cnn-small", 10, Standing(1.0, 0.0))
    assert nothing.about == pytest.approx(first.about) and half.about > 20 * first.about


def test_a_training_is_its_passes_times_the_rates(known, digits, monkeypatch):
    monkeypatch.setattr(Clock, "_validating", lambda *given: 0.0)
    step = module.step_of
    monkeypatch.setattr(module, "step_of", lambda *given: replace(step(*given), seconds=0.0))
    clock, images = Clock(digits, CPU), len(digits.train)
    steps = -(-images // 32)
    span = clock.training(training(digits, epochs=3))
    assert span.about == pytest.approx(3 * (images * (10 * 5 + 7) + steps * 0.5)) and span.low == span.high
    averaged = clock.training(training(digits, "trades-digits", epochs=2, ema=0.9, awp=0.01, awp_after=1))
    plain, more = 10 * 5 + 2 * 7 + 1, 2 * 7
    assert averaged.about == pytest.approx(2 * (images * plain + steps * 1.0) + images * more + steps * 1.0)
    rectified = Clock(digits, CPU).training(training(digits, "adr-digits", epochs=1))
    assert rectified.about == pytest.approx(images * (10 * 5 + 7 + 1) + steps * 1.0), "it keeps an average unasked"
    two = Clock(digits, CPU).training(training(digits, "mat-digits", epochs=1))
    assert two.about == pytest.approx(images * 2 * (10 * 5 + 2 * 7) + steps * 2 * 0.5)


def test_a_training_that_may_stop_early_is_at_most_so_long(known, digits):
    span = Clock(digits, CPU).training(training(digits, epochs=10, patience=2))
    assert span.low < span.about == span.high


def test_validation_counts(known, digits, monkeypatch):
    whole = Clock(digits, CPU).training(training(digits, epochs=1)).about
    monkeypatch.setattr(Clock, "_validating", lambda *given: 0.0)
    assert Clock(digits, CPU).training(training(digits, epochs=1)).about < whole


def test_what_cannot_be_estimated_is_named_with_the_reason(known, digits):
    clock = Clock(digits, CPU)
    pointwise = ATTACKS["pointwise"](ThreatModel("L1", 1.0))
    assert clock.attack("points", pointwise, "cnn-small", 10, Standing()) is None
    assert clock.lacks == {"points": "Pointwise does not say how many passes it makes"}

    @dataclass(frozen=True)
    class Broken:
        inner: Inner = method("at").inner
        version: int = 1
        members: int = 1

        def batch_loss(self, cohort, x, y):
            raise RuntimeError("no loss today\nat all")

    broken = training(digits)
    broken = replace(broken, recipe=replace(broken.recipe, name="mine", trainer=Broken()))
    assert clock.training(broken) is None and clock.lacks["mine"] == "no loss today"
    (line,) = of_trainings([broken])
    assert line == "no estimate for mine: no loss today"


def test_measuring_changes_nothing_and_is_kept_for_an_hour(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "WHOLE", 0.0)
    network, x = small_cnn(1, 4, 0).eval(), torch.rand(1, 1, 8, 8)
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in network.state_dict().items()}
    found = rates.rates_of(network, x, 8)
    assert torch.equal(before, torch.get_rng_state()) and not network.training
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert min(found.forward, found.gradient, found.ascent, found.weights, found.activations, found.size) > 0
    assert rates.rates_of(network, x, 8) == found, "read, not measured"
    assert rates.rates_of(network, x, 8, (True, False)) != found, "in bfloat16 it is another one"
    assert rates.rates_of(network, x, 0).weights == 0, "what is only attacked is not trained"
    monkeypatch.setattr(rates, "FRESH", -1.0)
    assert rates.rates_of(network, x, 8) != found, "too old"
    for file in (tmp_path / "clock").iterdir():
        file.write_text("{")
    monkeypatch.setattr(rates, "FRESH", 3600.0)
    assert rates.rates_of(network, x, 8).size == found.size, "a damaged one is measured anew"


@pytest.mark.parametrize("name", ["square", "boundary", "pgd", "fab"])
def test_an_attack_is_watched_for_a_moment_only(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "OWN", 0.0)
    threat = ThreatModel("L2", 0.5) if name == "boundary" else LINF
    assert rates.own_of(ATTACKS[name](threat), torch.rand(1, 1, 8, 8), 4, 4).seconds > 0
    assert (rates.LEAST, rates.OWN) == (3, 0.0)


def test_judging_is_counted_on_the_judge_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    few, many = (rates.judging_of(torch.rand(1, 1, 8, 8), count, 4) for count in (8, 1000))
    assert few.forward > 2 * 8 and many.forward > few.forward + 2 * 700 and few.seconds > 0


def test_a_network_that_is_there_is_probed(digits):
    network, images = small_cnn(1, 10, 0).eval(), digits.test.head(70)
    found = probed(network, images, {"pgd": PGD})
    assert 0 <= found.right <= 1 and 0 <= found.stand <= 1 and found.source == "of 64 images under PGD-10"
    assert probed(network, images, {"fog": None}).stand == Standing.stand


def plan_of(seconds: float) -> tuple[Forecast, Pace]:
    to_do = {"a": "at", "b": "trades"}
    spans = {one: Span(seconds / 2, seconds, 2 * seconds) for one in to_do}
    names = {"a": ("AT", "at"), "b": ("TRADES", "trades")}
    found = Forecast(spans, names, standing=Standing(), memory="1.0 GB")
    return found, Pace(to_do, jobs=1, expected=found.expected)


def test_an_hour_is_said_first_with_what_would_cut_it():
    def cuts(trained: float, attacked: float) -> list[str]:
        assert (trained, attacked) == (1.0, 0.0)
        return ["--fast", "fewer --seeds"]

    assert plan_of(1700)[0].warning(plan_of(1700)[1], cuts) == []
    found, pace = plan_of(7200)
    assert found.warning(pace, cuts) == [
        "this takes about 4.0 h on this machine: training at 2.0 h, training trades 2.0 h; "
        "shorter with --fast, fewer --seeds"
    ]


def test_a_measured_time_goes_before_an_estimate_and_both_are_told():
    found, pace = plan_of(600)
    pace.done("a", 60.0)
    again = Pace({"a": "at", "b": "trades"}, [("at", 60.0)], expected=found.expected)
    assert (
        pace.left() == "about 10 min left (1 of 1 estimated)" and again.left() == "about 11 min left (1 of 2 estimated)"
    )
    lines = found.lines(again)
    assert (
        "  AT                         60 s        0 s" in lines
        and "  TRADES                   10 min        0 s" in lines
    )
    assert "together about 11 min, between 6 min and 21 min; memory about 1.0 GB" in lines
    assert lines[-2] == "1 of 2 by what the same took here"
    assert lines[-1].endswith("75% of images right, 60% of these standing (assumed)")
    assert found.lines(Pace({})) == []


def test_short_things_get_no_line_and_long_ones_one(known, digits, monkeypatch):
    monkeypatch.setattr(forecast, "LONG", 1e12)
    assert of_trainings([training(digits)]) == [] and of_trainings([]) == []
    monkeypatch.setattr(forecast, "LONG", 60.0)
    (line,) = of_trainings([training(digits), training(digits, epochs=15)])
    assert re.fullmatch(r"training takes about [\d.]+ \w+, memory about [\d.]+ GB; shorter with .*", line)
    (line,) = of_trainings([training(digits, patience=1, compile="auto")])
    assert line.startswith("training takes at most about ") and "uncompiled" in line
    blank, images = Blank(small_cnn(1, 10, 0).eval()), digits.test.head(20)
    (line,) = of_attacks(Clock(digits, CPU), {"pgd": PGD}, blank, images)
    assert line.startswith("attacking takes about ") and "of 20 images under PGD-10" in line
    monkeypatch.setattr(forecast, "LONG", 1e12)
    assert of_attacks(Clock(digits, CPU), {"pgd": PGD}, blank, images) == []


def test_a_network_that_knows_no_gradient_is_still_attacked(known, digits):
    class Deaf(torch.nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :10]

    attacks = {"square": ATTACKS["square"](LINF)}
    (line,) = of_attacks(Clock(digits, CPU), attacks, Blank(Deaf().eval()), digits.test.head(20))
    assert line.startswith("attacking takes about") and "(assumed)" in line


def test_a_busy_machine_is_told(known, digits, monkeypatch):
    monkeypatch.setattr(module, "rates_of", lambda *given: replace(RATES, given=0.04))
    words = "measured on a busy machine, which gave this process 4% of a core"
    assert words in of_trainings([training(digits)])[0]
    blank = Blank(small_cnn(1, 10, 0).eval())
    assert words in of_attacks(Clock(digits, CPU), {"pgd": PGD}, blank, digits.test.head(20))[0]
    monkeypatch.setattr(module, "rates_of", lambda *given: RATES)
    assert "busy" not in of_trainings([training(digits)])[0] and Clock(digits, CPU).busy() == ""


def test_a_dry_run_tells_rows_columns_and_memory(tmp_path, capsys):
    assert main(["run", "table2", "--images", "9", "--seeds", "0,1", "--results", str(tmp_path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("time, of one process", "  AT  ", "  PGD-100  ", "together about", "memory about", "estimated)"):
        assert words in out
    assert "no time to go by" not in out and not list(tmp_path.iterdir())


def test_a_pass_on_the_few_that_stand_takes_as_long_as_the_least_pass():
    """An attack spends most of its passes on survivors: of 2 of them a pass is not 2 times what an image of many is."""
    rates = replace(RATES, least_forward=10.0, least_gradient=24.0)
    assert rates.of_pass(2) == (5.0, 12.0) and rates.of_pass(1000) == (1.0, 3.0) == RATES.of_pass(2)
    budget, stands = Budget(102, 100, leaves=True), Standing(right=1.0, stand=0.5)
    some, most = (5.0, 7.0), (1.0, 2.0)  # forward, and back
    span = _of_budget(budget, stands, some, most, first=True)
    early = min(EARLY, 102) * 1.0 + min(EARLY, 100) * 2.0
    assert span.about == 0.5 * (102 * 5.0 + 100 * 7.0) + 0.5 * early
    assert span.high == max(102 * 1.0 + 100 * 2.0, span.about) and span.low == early
