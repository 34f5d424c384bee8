"""Bounds hold for every image of a ball, are as tight as they promise, and agree with exact answers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from milp import least_margin
from torch import Tensor, nn

from attacks.contract import ThreatModel
from bench.bounds.ball import Ball
from bench.bounds.branching import Budget
from bench.bounds.certify import BRANCHING, LEAST_MARGIN, Effort, prove
from bench.bounds.graph import read
from bench.bounds.interval import intervals
from bench.bounds.linear import line
from bench.bounds.root import Problem, of_margins, start, tightened
from bench.ground.config import UserError
from bench.ledger.certificates import BROKEN, OPEN, PROVEN
from bench.subjects.data import Images
from bench.subjects.models import Normalize

EPS = (0.02, 0.1, 0.25)


class Residual(nn.Module):
    """Convolutions, batch norms, a sum, both kinds of pooling, functions and modules."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.normalize = Normalize([0.4, 0.5], [0.3, 0.2])
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, groups=2), nn.BatchNorm2d(4)
        self.short = nn.Conv2d(4, 4, 1)
        self.pool, self.relu = nn.AvgPool2d(2), nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 3)
        for norm in (self.bn1, self.bn2):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.2, 2.0)
            nn.init.uniform_(norm.weight, -1.0, 1.0)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        out = self.bn2(self.conv2(x))
        out += self.short(x)
        x = self.pool(torch.relu(out))
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.last(x.view(x.size(0), -1))


def perceptron(seed: int = 0, widths: tuple[int, ...] = (6, 10, 8, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def problem(model: nn.Module, shape: tuple[int, ...], norm: str, eps: float, count: int = 4) -> Problem:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    return start(read(model, x), Ball(norm, eps, x.double()), model(x).argmax(1))


def least_of(problem: Problem, steps: int | None) -> Tensor:
    """The least margin's bound [B]: by intervals and CROWN, by CROWN alone, or with slopes optimised."""
    if steps is None:
        return of_margins(problem, 0)[0].amin(1)
    problem = tightened(problem, 0)
    return of_margins(tightened(problem, steps) if steps else problem, steps)[0].amin(1)


def samples(ball: Ball, count: int) -> Tensor:
    """[count, B, C, H, W] in the ball: half of them on its border, corners of the box among them."""
    generator = torch.Generator().manual_seed(2)
    shape = (count, *ball.x.shape)
    steps = torch.randn(shape, generator=generator, dtype=torch.float64)
    if ball.norm == "Linf":
        steps = torch.where(torch.arange(count).view(-1, 1, 1, 1, 1) % 2 == 0, steps.sign(), steps.clamp(-1, 1))
    else:
        steps /= steps.flatten(2).norm(dim=2).view(count, -1, 1, 1, 1)
        steps[1::2] *= torch.rand(count // 2, 1, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (ball.x + ball.radius * steps).clamp(0, 1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("eps", EPS)
def test_no_image_of_the_ball_leaves_the_bounds(norm: str, eps: float):
    first = problem(Residual(), (2, 8, 8), norm, eps)
    best = tightened(tightened(first, 0), 3)
    margins = of_margins(best, 3)[0]
    between = intervals(best.graph, best.ball, best.known)
    for x in samples(best.ball, 20):
        for (low, high), value in zip(between, best.graph.values(x), strict=True):
            assert (low <= value).all() and (value <= high).all()
        assert (margins <= (best.margins @ best.graph.forward(x).unsqueeze(2)).squeeze(2)).all()
    width = [sum(float((high - low).sum()) for low, high in one.known.values()) for one in (best, first)]
    assert width[0] < width[1], "linear bounds tightened what intervals knew"


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "model", [Residual(), nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), perceptron(3, (108, 9, 3)))]
)
def test_what_takes_longer_is_tighter_and_a_larger_ball_is_looser(norm: str, model: nn.Module):
    by_eps = []
    for eps in EPS:
        one = problem(model.eval(), (2, 8, 8), norm, eps)
        low, high = intervals(one.graph, one.ball)[-1]
        of_y = low.gather(1, one.y.unsqueeze(1)).squeeze(1)
        interval = of_y - high.scatter(1, one.y.unsqueeze(1), -torch.inf).amax(1)
        ways = [interval, least_of(one, None), least_of(one, 0), least_of(one, 5)]
        for looser, tighter in pairwise(ways):
            assert (tighter >= looser - 1e-9).all()
        assert (ways[2] > ways[0]).all(), "CROWN gains over intervals"
        by_eps.append(ways)
    for smaller, larger in pairwise(by_eps):
        assert all((before > after).all() for before, after in zip(smaller, larger, strict=True))


def exact_margin(model: nn.Sequential, ball: Ball, y: int) -> float:
    """The least margin of one image in Linf."""
    layers = [
        (one.weight.detach().double().numpy(), one.bias.detach().double().numpy())
        for one in model
        if isinstance(one, nn.Linear)
    ]
    low, high = (side.flatten().numpy() for side in ball.box)
    rows = torch.eye(3, dtype=torch.float64)[y] - torch.eye(3, dtype=torch.float64)
    return min(least_margin(layers, low, high, row.numpy()) for k, row in enumerate(rows) if k != y)


def test_branch_and_bound_agrees_with_mixed_integer_programming():
    said = set()
    for seed in range(3):
        model = perceptron(seed)
        x = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(seed))
        images = Images(x, model(x).argmax(1), torch.arange(3))
        for eps in (0.1, 0.3):
            threat = ThreatModel("Linf", eps)
            found = prove(model, images, model(x), threat, Effort(5, Budget(2000)))
            bounds = least_of(problem_of(model, images, threat.limit), 5)
            for row, one in enumerate(found):
                exact = exact_margin(model, Ball("Linf", threat.limit, x[row : row + 1].double()), int(images.y[row]))
                assert float(bounds[row]) <= exact + 1e-7
                assert one.verdict == (PROVEN if exact > LEAST_MARGIN else BROKEN), (one, exact)
                said |= {one.verdict, one.by if one.verdict == PROVEN else ""}
    assert {PROVEN, BROKEN, BRANCHING} <= said, "all of them were met"


def problem_of(model: nn.Module, images: Images, eps: float) -> Problem:
    return start(read(model, images.x), Ball("Linf", eps, images.x.double()), images.y)


def test_a_budget_of_nothing_leaves_images_open_and_a_larger_one_proves_no_less():
    model = perceptron(1)
    x = torch.rand(12, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    images, threat = Images(x, model(x).argmax(1), torch.arange(12)), ThreatModel("Linf", 0.15)
    runs = [prove(model, images, model(x), threat, Effort(2, Budget(n, steps=2))) for n in (0, 4, 100)]
    proven = [{row for row, one in enumerate(run) if one.verdict == PROVEN} for run in runs]
    assert proven[0] <= proven[1] <= proven[2] and len(proven[0]) < len(proven[2])
    assert all(one.domains == 0 for one in runs[0]) and any(one.verdict == OPEN for one in runs[0])
    assert runs[2] == prove(model, images, model(x), threat, Effort(2, Budget(400, steps=2))), (
        "a second run is the same"
    )


def test_the_line_above_a_relu_touches_it_where_its_input_is_least_and_greatest():
    """A looser test does not see an intercept that is too small: other losses of the bound hide it."""
    low, high = torch.tensor([[-1.0, -3.0, -0.01, 0.0, 0.5, -2.0]]), torch.tensor([[2.0, 0.1, 5.0, 1.0, 3.0, -1.0]])
    above = line(low, high)
    for share in torch.linspace(0, 1, 11):
        z = (low + share * (high - low)).unsqueeze(1)
        over = above.slope * z + above.intercept - z.relu()
        assert (over > -1e-6).all()
        assert share not in (0, 1) or (over < 1e-6).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_linear_network_is_bounded_exactly(norm: str):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double().eval()
    x = torch.full((3, 1, 3, 4), 0.5)
    eps = 0.1  # far from black and white
    y = model(x.double()).argmax(1)
    bound = of_margins(start(read(model, x), Ball(norm, eps, x.double()), y), 0)[0]
    weight = model[1].weight
    for row in range(3):
        others = [k for k in range(4) if k != y[row]]
        slopes = weight[y[row]] - weight[others]
        logits = model(x[row : row + 1].double())[0]
        reach = slopes.abs().sum(1) if norm == "Linf" else slopes.norm(dim=1)
        assert torch.allclose(bound[row], logits[y[row]] - logits[others] - eps * reach, atol=1e-9)


def test_rounding_moves_no_bound_past_the_exact_value():
    """Huge weights that cancel: the value is computed in fractions."""
    torch.manual_seed(0)
    close = 0
    for _ in range(40):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
        with torch.no_grad():
            model[1].weight.copy_(torch.randn(2, 16) * 1e6)
            model[1].bias.copy_(-model[1].weight.sum(1) * 0.5 + torch.rand(2))
        x, eps = torch.rand(1, 1, 4, 4), 0.01
        y = model(x).argmax(1)
        bound = Fraction(float(of_margins(start(read(model, x), Ball("Linf", eps, x.double()), y), 0)[0]))
        row = [[Fraction(float(v)) for v in line] for line in model[1].weight.detach()]
        bias = [Fraction(float(v)) for v in model[1].bias.detach()]
        slopes = [a - b for a, b in zip(row[y], row[1 - y], strict=True)]
        low = [max(Fraction(float(v)) - Fraction(eps), Fraction(0)) for v in x.flatten()]
        high = [min(Fraction(float(v)) + Fraction(eps), Fraction(1)) for v in x.flatten()]
        ends = (s * (a if s > 0 else b) for s, a, b in zip(slopes, low, high, strict=True))
        exact = sum(ends, bias[y] - bias[1 - y])
        assert bound <= exact
        close += exact - bound < 1e-3
    assert close == 40, "and lies next to it"


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)), "MaxPool2d"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Sigmoid(), nn.Linear(4, 2)), "Sigmoid"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softmax(1)), "Softmax"),
    ],
)
def test_an_operation_without_bounds_is_named(model: nn.Module, named: str):
    with pytest.raises(UserError, match=f"the operation '{named}'"):
        read(model.eval(), torch.rand(2, 1, 8, 8))


def test_a_network_that_multiplies_values_is_refused():
    class Gate(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z * z

    with pytest.raises(UserError, match="multiplies two values"):
        read(Gate(nn.Flatten(), nn.Linear(64, 2)).eval(), torch.rand(2, 1, 8, 8))


def test_what_is_read_computes_what_the_network_does():
    model, x = Residual(3), torch.rand(5, 2, 8, 8)
    graph = read(model, x)
    assert {node.kind for node in graph.nodes} == {"input", "affine", "relu", "sum"}
    assert torch.allclose(graph.forward(x.double()).float(), model(x), atol=1e-5)
