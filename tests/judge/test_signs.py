"""The signs that speak against a number: every planted trick has its sentence, and no honest network has any."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from broken_defences import EPS, HONEST, base, digits, planted
from hand_made import fill, plan_2x2
from slowly import slow
from torch import Tensor, nn

from attacks.autoattack import AutoAttack
from attacks.contract import ThreatModel
from attacks.model import ModelError
from attacks.pgd import FGSM, MIM, PGD
from attacks.square import Square
from bench.commands.cli import main
from bench.judge.evaluate import craft, evaluate
from bench.judge.signs import of_search
from bench.judge.union import evaluate_union
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.subjects.blank import Blank
from bench.subjects.data import Images
from bench.subjects.quick import Arrangement
from bench.tables.cells import table
from bench.tables.report import render

BALL = ThreatModel("Linf", EPS)
ATTACK = PGD(BALL, 10, 0.03)
COUNT = 60
SEEN: list[Tensor] = []  # the memory of `Remembers` that copies share


class Wrapped(nn.Module):
    """A natural network behind `front`, its logits behind `back`."""

    def __init__(self, front=lambda x: x, back=lambda z: z, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.front, self.back = network or base("natural"), front, back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.network(self.front(x)))


class Remembers(nn.Module):
    """Answers for the first image that it has seen nearby: in a plain attribute, or in a list that copies share."""

    def __init__(self, seen: list[Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.own = base("natural"), [] if seen is None else None

    def forward(self, x: Tensor) -> Tensor:
        seen, found = SEEN if self.own is None else self.own, []
        for image in x:
            near = [other for other in seen if float((other - image.detach()).abs().max()) <= 1.1 * EPS]
            if not near:
                seen.append(image.detach().clone())
            found.append(near[0] + (image - image.detach()) if near else image)
        return self.network(torch.stack(found))


class Counts(nn.Module):
    """Another network from its tenth pass on."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.passes = base("natural"), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.network(x if self.passes < 10 else x.roll(2, -1))


class Uncopied(Wrapped):
    """A network that holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Votes(Wrapped):
    """Counted, with a slope of 0 that is one number seen at every pixel (an expanded tensor, which takes no writes)."""

    def forward(self, x: Tensor) -> Tensor:
        counted = [F.one_hot(self.network((x * k).round() / k).argmax(1), 10).float() for k in (3, 4, 5)]
        return torch.stack(counted).sum(0) - (x[:, :1, 0, 0] > 0.5).float() + 0 * x.sum()


class WinnersTakeAll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class Decoy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, decoy):
        return logits.clone()

    @staticmethod
    def backward(ctx, slope):
        return None, slope


class WithDecoy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.decoy = base("natural"), base("trades").requires_grad_(False)
        nn.init.normal_(self.decoy[0].weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return Decoy.apply(self.network(x), self.decoy(x))


class Climbs(Wrapped):
    """Before it answers, an image takes a step to where the network is surer, and no gradient shows that."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            image = x.detach().requires_grad_(True)
            self.network(image).amax(1).sum().backward(inputs=[image])
        return self.network(x + 0.01 * image.grad.sign())


def climbed(x: Tensor) -> Tensor:
    """The same by torch.func, on the brightness."""
    return x + 0.01 * torch.func.grad(lambda image: image.square().sum())(x.detach()).sign()


def winners() -> nn.Module:
    return nn.Sequential(*[WinnersTakeAll() if isinstance(one, nn.ReLU) else one for one in base("natural")])


def gridded(x: Tensor) -> Tensor:
    return (x * 8).round() / 8


def images(count: int = COUNT) -> Images:
    return digits().test.head(count)


def said(model: nn.Module, attack=ATTACK, **given) -> str:
    """One draw is asked for, also of a model whose answers move."""
    return " | ".join(evaluate(model.eval(), attack, images(), 10, run=Arrangement(draws=1), **given).signs)


INNER, SEARCH = "the forward pass optimises", "random search finds what gradients miss"
MIXED, ZERO, MOVES, MEMORY = (
    "images of a batch mix",
    "the gradient is zero on",
    "the answers move",
    "the model remembers",
)
SWITCH, UPHILL, SLOPE = (
    "otherwise when gradients are asked for",
    "does not point uphill",
    "not the slope of the forward",
)
LONG = ("decoy", "sigmoid")  # of the planted
PLANTED = {
    "batch statistics": (lambda: planted("batch statistics"), MIXED),
    "batch mean of pixels": (lambda: Wrapped(lambda x: x - 0.3 * x.mean(0)), MIXED),
    "batch mean, a hundredth": (lambda: Wrapped(lambda x: x - 0.01 * x.mean(0)), MIXED),
    "largest pixel of the batch": (lambda: Wrapped(lambda x: x / x.max()), MIXED),
    "batch mean of logits": (lambda: Wrapped(back=lambda z: z - z.mean(0)), MIXED),
    "switch on the batch size": (lambda: Wrapped(lambda x: gridded(x) if len(x) > 50 else x), MIXED),
    "switch on one image": (lambda: Wrapped(lambda x: gridded(x) if len(x) == 1 else x), MIXED),
    "switch on gradients": (lambda: Wrapped(lambda x: x.roll(2, -1) if torch.is_grad_enabled() else x), SWITCH),
    "switch on the image": (lambda: Wrapped(lambda x: x.roll(2, -1) if x.requires_grad else x), SWITCH),
    "noise": (lambda: planted("noise"), MOVES),
    "dropout left on": (lambda: Wrapped(lambda x: F.dropout(x, 0.1, training=True)), MOVES),
    "noise on logits": (lambda: Wrapped(back=lambda z: z + 0.1 * torch.randn_like(z)), MOVES),
    "quantised": (lambda: planted("quantisation"), ZERO),
    "rounded logits": (lambda: Wrapped(back=lambda z: z.round()), ZERO),
    "dead ReLUs": (lambda: planted("dead ReLUs"), ZERO),
    "votes": (Votes, "the same to the last bit"),
    "purified": (lambda: Wrapped(lambda x: 0 * x + gridded(x).detach()), ZERO),
    "memory": (Remembers, MEMORY),
    "memory that copies share": (lambda: Remembers(SEEN), "the same to the last bit"),
    "another network later": (Counts, MEMORY),
    "winners take all": (winners, UPHILL),
    "wrong gradient": (lambda: planted("wrong gradient"), UPHILL),
    "decoy": (WithDecoy, UPHILL),
    "flipped gradient": (lambda: Wrapped(back=lambda z: 2 * z.detach() - z), UPHILL),
    "sawtooth": (lambda: Wrapped(lambda x: x + 0.05 * ((40 * x) % 1 - 0.5)), SLOPE),
    "sigmoid": (lambda: Wrapped(back=torch.sigmoid, network=base("at")), "[0, 1], as sigmoid"),
    "root of probabilities": (lambda: Wrapped(back=lambda z: z.softmax(1).sqrt()), "[0, 1], as sigmoid"),
    "tanh": (lambda: Wrapped(back=torch.tanh, network=base("at")), "as tanh"),
    "percentages": (lambda: Wrapped(back=lambda z: 100 * z.softmax(1)), "one sum (100)"),
    "counted votes": (lambda: Wrapped(lambda x: x, lambda z: z * 0 + F.one_hot(z.argmax(1), 10) * 5.0), "one sum (5)"),
    "shifted probabilities": (lambda: Wrapped(back=lambda z: (3 * z).softmax(1) - 0.1), "as far apart as they ever do"),
    "climbs inside": (Climbs, INNER),
    "climbs by torch.func": (lambda: Wrapped(climbed), INNER),
    "untrained": (lambda: Wrapped(back=lambda z: z.roll(1, 1)), "near guessing among 10 classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*(one for one in PLANTED if one not in LONG), *slow(LONG)])
def test_every_trick_has_its_sign(name):
    make, words = PLANTED[name]
    SEEN.clear()
    assert words in said(make())


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_probabilities_in_half_precision_are_refused_as_in_full(lower):
    with pytest.raises(ModelError, match="returns probabilities"):
        said(Wrapped(back=lambda z: z.to(lower).softmax(1), network=base("at")))


class Lower(nn.Module):
    """A network in half precision."""

    def __init__(self, network: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.network, self.kind = network.to(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.to(self.kind))


def autocast(network: nn.Module) -> nn.Module:
    class Cast(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    return Cast(network=network)


def smooth(kind: type[nn.Module]) -> nn.Module:
    """A natural network with another activation, trained for a few seconds."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 32, 3, 2, 1), kind(), nn.Flatten(), nn.Linear(512, 64), kind(), nn.Linear(64, 10)]
    network, train = nn.Sequential(*layers), digits().train
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(15):
        for rows in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(train.x[rows]), train.y[rows]).backward()
            optimizer.step()
    return network


LONG = ("decoy", "sigmoid")  # of PLANTED
FAIR = HONEST | {
    "with batch norm": lambda: base("natural", "cnn-small"),
    "AT with batch norm": lambda: base("at", "cnn-small"),
    "bfloat16": lambda: Lower(base("natural"), torch.bfloat16),
    "bfloat16, AT": lambda: Lower(base("at"), torch.bfloat16),
    "float16": lambda: Lower(base("at"), torch.float16),
    "float64": lambda: Lower(base("at"), torch.float64),
    "autocast": lambda: autocast(base("natural")),
    "log-probabilities": lambda: Wrapped(back=lambda z: z.log_softmax(1), network=base("at")),
    "centred logits": lambda: Wrapped(back=lambda z: z - z.mean(1, keepdim=True)),
    "ten times the logits": lambda: Wrapped(back=lambda z: 10 * z, network=base("at")),
    "a thousandth of the logits": lambda: Wrapped(back=lambda z: z / 1000, network=base("at")),
    "GELU": lambda: smooth(nn.GELU),
    "SiLU": lambda: smooth(nn.SiLU),
    "tanh units": lambda: smooth(nn.Tanh),
}


@pytest.mark.parametrize("name", [*(name for name in FAIR if name != "trades"), *slow(["trades"])])
def test_no_honest_network_has_a_sign(name):
    assert said(FAIR[name]()) == ""


def test_an_honest_network_has_none_in_any_norm_or_radius():
    for ball in (ThreatModel("L2", 1.0), ThreatModel("L1", 6.0), ThreatModel("Linf", 0.5), ThreatModel("Linf", 1e-4)):
        for method in ("natural", "at"):
            assert said(base(method), PGD(ball, 5, ball.eps / 2)) == "", (ball, method)
    assert said(base("at"), Square(BALL, 20)) == said(base("at"), FGSM(BALL)) == said(base("at"), None) == ""


@pytest.mark.parametrize(
    "attack, reach",
    [(PGD(BALL, 20, 0.003), "20 steps of 0.003 reach 0.06 of the radius 0.15"),
     (PGD(BALL, 10, 0.02, step_schedule="linear"), "reach 0.11 of"), (MIM(BALL, 5, 0.01), "reach 0.05 of"),
     (PGD(BALL, 10, 0.015), ""), (PGD(BALL, 1, 0.0, stop="last"), ""), (FGSM(BALL), "")],
)  # fmt: skip
def test_steps_that_cannot_reach_the_radius_are_said(attack, reach):
    found = said(base("at"), attack, name="mine")
    assert (f"mine: {reach}" if reach.startswith("20") else reach) in found and bool(found) == bool(reach)


def test_the_copy_that_has_seen_nothing_gives_the_verdicts():
    own, remembers = (evaluate(model.eval(), ATTACK, images(), 10) for model in (base("natural"), Remembers()))
    assert remembers.robust_accuracy < own.robust_accuracy + 0.2 < 0.6 < own.clean_accuracy


def test_a_short_step_hides_no_other_sign():
    assert "reach 0.03 of" in (found := said(Counts(), PGD(BALL, 20, 0.0015))) and MEMORY in found


def test_a_network_that_cannot_be_copied_is_made_again_or_it_is_said():
    model = Uncopied().eval()
    assert "cannot be copied" in said(model)
    assert said(model, blank=Blank(model, Uncopied)) == ""


def test_a_union_judges_clean_images_once_and_passes_its_signs_on():
    attacks = {"fgsm": FGSM(BALL), "short": PGD(BALL, 5, 0.01), "pgd": ATTACK}
    found = evaluate_union(planted("batch statistics"), attacks, images(), 10)
    once = evaluate(planted("batch statistics"), None, images(), 10)
    assert found.table["clean_prediction"].tolist() == once.table["clean_prediction"].tolist()
    assert MIXED in " ".join(found.signs) and "short: 5 steps of 0.01 reach 0.05" in " ".join(found.signs)
    assert evaluate_union(base("at"), {"fgsm": FGSM(BALL), "pgd": ATTACK}, images(), 10).signs == ()


def test_square_that_finds_what_gradients_left_is_said_once_it_is_more_than_chance():
    square = Square(BALL, 100)
    found = evaluate_union(planted("wrong gradient"), {"pgd": ATTACK, "square": square}, images(), 10)
    broken = len(found.broken_by["square"])
    assert broken > 10 and f"square breaks {broken} of {COUNT} images that gradient attacks left" in found.signs[-1]
    alone = evaluate_union(planted("wrong gradient"), {"square": square}, images(), 10)
    elsewhere = {"pgd": PGD(ThreatModel("L2", 0.3), 5, 0.1), "square": square}
    assert SEARCH not in " ".join(alone.signs), "nothing was left by gradients"
    assert SEARCH not in " ".join(evaluate_union(planted("wrong gradient"), elsewhere, images(), 10).signs)
    assert of_search("square", 1, 100) == [] and of_search("square", 2, 100) and of_search("square", 2, 1000) == []


def test_autoattack_says_so_of_its_own_square():
    auto = AutoAttack(BALL, steps=5, targets=2, queries=100)
    assert "of 60 images that gradient attacks left" in said(planted("wrong gradient"), auto)
    assert SEARCH not in said(base("at"), auto)


def test_looking_for_inner_steps_leaves_a_profiler_at_work():
    seen: list[str] = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        said(base("at"))
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)


def test_a_transfer_says_what_is_wrong_with_its_source():
    crafted = craft(planted("quantisation"), PGD(BALL, 5, 0.05, stop="last"), images(), 10, name="pgd")
    assert f"the network that it was crafted on: {ZERO}" in crafted.signs[0]
    assert said(base("at"), PGD(BALL, 5, 0.05, stop="last"), crafted=crafted) == crafted.signs[0]


def test_signs_cost_the_attack_no_pass_and_change_no_number():
    looked, not_looked = (evaluate(base("at"), ATTACK, images(), 10, look=look) for look in (True, False))
    assert looked.table.equals(not_looked.table) and looked.cost.forward_passes == not_looked.cost.forward_passes


def test_a_table_marks_a_number_whose_record_has_a_sign(tmp_path):
    """A mark at the number, the sentence below the table."""
    plan, results = plan_2x2(), Results(tmp_path)
    fill(plan, results, {(cell.row, cell.column): [True] * 4 for cell in plan.cells})
    cell = plan.cells[0]
    record = read_eval(results, cell.run_id, cell.eval_id)
    assert record.signs == [] and "(!)" not in render(plan, table(plan, results), "text")
    write_eval(results, replace(record, signs=["the answers move"]))
    text = render(plan, table(plan, results), "text")
    assert text.count("(!)") == 2 and f"(!) {cell.run_id} under {cell.attack}: the answers move." in text


def test_bench_attack_prints_the_signs_and_its_record_holds_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(
        "from bench.subjects.models import create\n\n\n"
        "def make():\n    net = create('cnn-small', (1, 8, 8), 10, seed=0)\n"
        "    net.register_forward_pre_hook(lambda module, given: ((given[0] * 8).round() / 8,))\n    return net\n"
    )
    short = ["--set", "pgd-20-digits.step=0.003", "--set", "pgd-20-digits.steps=4"]
    assert main(["attack", "steps:make", "pgd-20-digits", "--images", "30", "--results", "results", *short]) == 0
    said = [line.removeprefix("sign: ") for line in capsys.readouterr().out.splitlines() if line.startswith("sign: ")]
    (path,) = (tmp_path / "results" / "evals").glob("*/*.parquet")
    assert said == read_eval(Results(tmp_path / "results"), path.parent.name, path.stem).signs
    assert "4 steps of 0.003 reach 0.012 of the radius 0.15" in said[0] and "near guessing" in said[1]
