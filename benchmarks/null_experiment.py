"""How often intervals and tests are right: with nothing to find, and with gaps of 1, 2 and 5 points.

Simulated verdicts: an image has a difficulty that all networks share, a network adds noise of its own to it and, where
seeds are drawn, a seed adds a shift, so that networks agree on most images as real ones do. With `--results` also
records of several seeds: those of one method against each other, and with each image's verdicts swapped at random. With
`--train N` N networks of one recipe that differ in their seed alone, and one of them attacked with other noise: pairs
of equals that no simulation made. docs/statistics.md has what this printed.

    python benchmarks/null_experiment.py --results results --table table2-digits
    python benchmarks/null_experiment.py --trials 0 --train 40
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri
from torch import nn

from attacks.noise import Noise, derive_seed
from attacks.target import Target
from bench.ground.progress import Progress
from bench.ground.stats import compare, compare_apart, mcnemar, over_seeds, p_equal, wilson
from bench.ledger.find import find
from bench.ledger.folder import Results
from bench.ledger.plan import read_plan
from bench.running.train import Training
from bench.subjects import registry
from bench.subjects.catalog import Catalog
from bench.subjects.data import load
from bench.tables.compare import Robust, between_rows

LEVEL = 0.05
OWN = 0.5  # a network's own noise, as a share of the deviation of difficulty
MIDDLE = 0.55  # accuracy between two networks
ROWS, COLUMNS = 5, 7  # of a table, as in table2
Flags = NDArray[np.bool_]
Random = np.random.Generator


def main() -> None:
    """Run all experiments and print their tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000, help="with nothing to find")
    parser.add_argument("--pairs", type=int, default=200, help="for each gap")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", default="table2-digits")
    parser.add_argument(
        "--train", type=int, default=0, metavar="N", help="networks; nothing is simulated with --trials 0"
    )
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    if given.trials:
        nothing_to_find(rng, given.trials)
        tables_of_equals(rng, given.trials // 10)
        intervals(rng, given.trials)
        gaps(rng, given.pairs)
        nothing_to_find_apart(np.random.default_rng(1), given.trials)
    if given.train:
        trained(rng, given.train, given.pairs)
    if given.results:
        real(rng, Results(given.results), given.table, given.trials)


def verdicts(rng: Random, n: int, gap: float, seeds: int = 1, columns: int = 1, spread: float = 0.0) -> list[Flags]:
    """Two methods [seeds, n, columns] whose accuracies are MIDDLE -+ gap / 2; spread: a seed's shift, a share."""
    easy = rng.normal(0, 1, (1, n, columns)) + rng.normal(0, 0.5, (1, n, 1))
    scale = np.sqrt(1.25 + OWN**2)
    density = 0.396 / scale  # of the scores at the threshold: a shift of the score by d is one of the share by this x d
    found = []
    for share in (MIDDLE + gap / 2, MIDDLE - gap / 2):
        shift = rng.normal(0, spread / density, (seeds, 1, 1)) if spread else 0.0
        score = easy + rng.normal(0, OWN, (seeds, n, columns)) + shift
        found.append(score > quantile(1 - share) * scale)
    return found


def quantile(p: float) -> float:
    """Of the standard normal distribution."""
    return float(ndtri(p))


def share(hits: int, trials: int) -> str:
    """ "4.9 % [4.0, 5.9]"."""
    low, high = wilson(hits, trials)
    return f"{100 * hits / trials:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def nothing_to_find(rng: Random, trials: int) -> None:
    """Pairs that are equally robust: how often p is at most 5 %, and how often the interval of the difference has 0."""
    print(f"**Nothing to find**, {trials} pairs each\n")
    print("| verdicts | n | p at most 0.05 | interval of the difference holds 0 |\n|---|---|---|---|")
    for words, seeds, columns, spread in (
        ("one seed, one column", 1, 1, 0.0),
        ("one seed, mean of 3 columns", 1, 3, 0.0),
        ("2 seeds, seeds differ by sd 1 point", 2, 1, 0.01),
        ("3 seeds, seeds do not differ", 3, 1, 0.0),
        ("3 seeds, seeds differ by sd 1 point", 3, 1, 0.01),
        ("5 seeds, seeds differ by sd 1 point", 5, 1, 0.01),
    ):
        for n in (1000, 10_000):
            found = [compare(*verdicts(rng, n, 0.0, seeds, columns, spread)) for _ in range(trials)]
            wrong, held = sum(one.p <= LEVEL for one in found), sum(one.low <= 0 <= one.high for one in found)
            print(f"| {words} | {n} | {share(wrong, trials)} | {share(held, trials)} |", flush=True)
    n, wrong = 10_000, 0
    for _ in range(trials):
        first, second = verdicts(rng, n, 0.0, 1, 1, 0.01)
        wrong += p_equal(first, second) <= LEVEL
    print(f"| one seed, taken for its method; seeds differ by sd 1 point | {n} | {share(wrong, trials)} | |\n")


def nothing_to_find_apart(rng: Random, trials: int) -> None:
    """Pairs of equals on other images, or with other numbers of seeds on the same images."""
    print(f"**Nothing to find, not paired**, n = 1000, {trials} pairs each\n")
    print("| verdicts | p at most 0.05 | interval of the difference holds 0 |\n|---|---|---|")
    for words, other_images, first_seeds, second_seeds, spread in (
        ("other images, one seed each", True, 1, 1, 0.0),
        ("other images, 3 seeds each, seeds differ by sd 1 point", True, 3, 3, 0.01),
        ("same images, 3 and 5 seeds, seeds differ by sd 1 point", False, 3, 5, 0.01),
    ):
        found = []
        for _ in range(trials):
            first, second = verdicts(rng, 1000, 0.0, 5, 1, spread)
            second = verdicts(rng, 1000, 0.0, 5, 1, spread)[1] if other_images else second
            found.append(compare_apart(first[:first_seeds], second[:second_seeds]))
        wrong, held = sum(one.p <= LEVEL for one in found), sum(one.low <= 0 <= one.high for one in found)
        print(f"| {words} | {share(wrong, trials)} | {share(held, trials)} |", flush=True)
    print()


def tables_of_equals(rng: Random, trials: int) -> None:
    """Tables whose rows are equally robust: how many have any mark, with Holm's correction and without."""
    rows, columns = [f"row {k}" for k in range(ROWS)], [f"column {k}" for k in range(COLUMNS)]
    baseline = best = plain = 0
    for _ in range(trials):
        cells = {}
        for column in columns:
            easy = rng.normal(0, 1, (1, 1000, 1))
            for row in rows:
                cells[row, column] = Robust(np.arange(1000), easy + rng.normal(0, OWN, easy.shape) > 0)
        found = between_rows(rows, columns, cells, rows[0]).values()
        baseline += any(one.get("p_baseline", 1.0) <= LEVEL for one in found)
        best += any(not one["best"] for one in found)
        plain += any(
            p_equal(cells[row, c].robust, cells[rows[0], c].robust) <= LEVEL for row in rows[1:] for c in columns
        )
    print(f"**Tables of {ROWS} equal rows and {COLUMNS} columns**, n = 1000, {trials} tables\n")
    print("| tables in which | share |\n|---|---|")
    print(f"| a row is marked as above or below the baseline | {share(baseline, trials)} |")
    print(f"| a row is marked as told apart from the best | {share(best, trials)} |")
    print(f"| without Holm's correction: p against the baseline at most 0.05 | {share(plain, trials)} |\n", flush=True)


def intervals(rng: Random, trials: int) -> None:
    """95 % intervals of one share: how often they hold the truth."""
    print(f"**Intervals of one share**, {trials} each\n")
    print("| interval | n | truth | holds it |\n|---|---|---|---|")
    for n, truth in ((450, 0.5), (450, 0.98), (1000, 0.5), (10_000, 0.5)):
        held = 0
        for _ in range(trials):
            low, high = wilson(int(rng.binomial(n, truth)), n)
            held += low <= truth <= high
        print(f"| Wilson, one seed | {n} | {100 * truth:.0f} % | {share(held, trials)} |", flush=True)
    for seeds in (2, 3, 5):
        held = 0
        for _ in range(trials):
            one, _ = over_seeds(verdicts(rng, 1000, 0.0, seeds, 1, 0.01)[0])
            held += one.low <= MIDDLE <= one.high
        print(f"| {seeds} seeds, sd 1 point | 1000 | {100 * MIDDLE:.0f} % | {share(held, trials)} |", flush=True)
    print()


def gaps(rng: Random, pairs: int) -> None:
    """Networks that do differ: how often it is found, paired and by two intervals that do not overlap."""
    print(f"**Power**, {pairs} pairs each, one seed\n")
    print("| gap | n | images on which they differ | exact McNemar | 3 seeds, sd 0.5 points | Wilson intervals apart |")
    print("|---|---|---|---|---|---|")
    for gap in (0.01, 0.02, 0.05):
        for n in (1000, 10_000):
            differ = paired = seeded = apart = 0.0
            for _ in range(pairs):
                first, second = (one[0, :, 0] for one in verdicts(rng, n, gap))
                differ += float((first != second).mean()) / pairs
                paired += mcnemar(first, second) <= LEVEL
                seeded += p_equal(*verdicts(rng, n, gap, 3, 1, 0.005)) <= LEVEL
                apart += wilson(int(first.sum()), n)[0] > wilson(int(second.sum()), n)[1]
            shares = (f"{100 * found / pairs:.0f} %" for found in (paired, seeded, apart))
            print(f"| {100 * gap:.0f} points | {n} | {100 * differ:.1f} % | {' | '.join(shares)} |", flush=True)
    print()


def real(rng: Random, results: Results, name: str, trials: int) -> None:
    """Records of several seeds: seeds of one method against each other; two networks with their verdicts swapped."""
    plan, robust = read_plan(results, name), {}
    for cell in plan.cells:
        found = find(plan, cell, results).record
        if found is not None and found.attack != "clean":
            robust[cell.row, cell.column, cell.seed] = found.images.sort_values("image")["robust"].to_numpy()
    same = [(a, b) for a, b in combinations(robust, 2) if a[:2] == b[:2]]
    rows = [(a, b) for a, b in combinations(robust, 2) if a[1:] == b[1:]]
    ps = [mcnemar(robust[a], robust[b]) for a, b in same]
    swapped = 0
    for k in range(trials):
        a, b = (robust[key] for key in rows[k % len(rows)])
        swap = rng.random(len(a)) < 0.5
        swapped += mcnemar(np.where(swap, b, a), np.where(swap, a, b)) <= LEVEL
    differ = np.mean([(robust[a] != robust[b]).mean() for a, b in rows])
    print(f"**Records of {name}**: {len(robust)} attacked networks, n = {plan.images}\n")
    print("| pairs | McNemar p at most 0.05 |\n|---|---|")
    print(f"| verdicts of two rows, swapped at random ({100 * differ:.1f} % differ) | {share(swapped, trials)} |")
    print(f"| two seeds of one method, {len(ps)} pairs | {share(sum(p <= LEVEL for p in ps), len(ps))} |")


def with_ties_drawn(rng: Random, first: Flags, second: Flags) -> float:
    """McNemar's p with a random share of the chance of the very result found (Stevens 1950): of equals at most 5 % in
    5 %, where the exact p, which counts all of that chance, stays below 5 % when few images differ.
    """
    differ, least = int((first != second).sum()), int(min((first & ~second).sum(), (~first & second).sum()))
    p, beyond = mcnemar(first, second), 2 * float(bdtr(least - 1, differ, 0.5)) if least else 0.0
    return beyond + float(rng.random()) * (p - beyond)


def trained(rng: Random, count: int, pairs: int) -> None:
    """Networks of at-digits that differ in their seed alone, under PGD-20: random pairs of them, random groups of five
    against five others, and one network attacked twice with other noise.
    """
    dataset, recipe = load("digits"), Catalog().recipe("at-digits")
    attack = Catalog().attack("pgd-20-digits")[0]
    with TemporaryDirectory() as folder:
        results, networks = Results(Path(folder)), []
        for seed in range(count):
            training = Training(recipe, dataset, "cnn-small", seed, torch.device("cpu"))
            training.run(results, Progress(quiet=True))
            networks.append(registry.load(results, training.run_ids[0])[0])

    def robust(network: nn.Module, seed: int) -> Flags:
        target, (x, y, ids) = Target(network), (dataset.test.x, dataset.test.y, dataset.test.ids)
        right = target.logits(x).argmax(1) == y
        found = attack(target, x, y, Noise(derive_seed("null", seed), ids))
        return (right & (target.logits(found).argmax(1) == y)).numpy()

    seeds = np.stack([robust(network, 0) for network in networks])
    noises = np.stack([robust(networks[0], seed) for seed in range(count)])
    pair = [rng.choice(count, 2, replace=False) for _ in range(pairs)]
    groups = [np.split(rng.choice(count, 10, replace=False), 2) for _ in range(pairs)]
    swap = rng.random((pairs, seeds.shape[1])) < 0.5
    of_networks = {
        "one network, other noise of the attack: McNemar": [noises[[a, b]] for a, b in pair],
        "other training seeds, verdicts swapped at random: McNemar": [
            np.where(swap[k], seeds[[a, b]], seeds[[b, a]]) for k, (a, b) in enumerate(pair)
        ],
        "other training seeds, one against one: McNemar": [seeds[[a, b]] for a, b in pair],
    }
    spread = 100 * seeds.mean(1).std(ddof=1)
    print(f"**{count} trainings of at-digits** under PGD-20, n = {seeds.shape[1]}; sd of seeds {spread:.2f} points\n")
    print(f"| {pairs} random pairs of | p at most 0.05 | the same, ties drawn |\n|---|---|---|")
    for words, both in of_networks.items():
        found = sum(mcnemar(*one) <= LEVEL for one in both)
        drawn = sum(with_ties_drawn(rng, *one) <= LEVEL for one in both)
        print(f"| {words} | {share(found, pairs)} | {share(drawn, pairs)} |")
    found = sum(p_equal(seeds[a], seeds[b]) <= LEVEL for a, b in groups)
    print(f"| other training seeds, five against five | {share(found, pairs)} | |")
    print()


if __name__ == "__main__":
    main()
