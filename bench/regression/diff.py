"""Two records, two networks or two folders of results: which images flipped, and whether it may be chance.

Two records are two networks (or two attacks) on the same images; p is the exact McNemar p of "equally robust".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ground.config import UserError
from bench.ground.stats import compare
from bench.ledger.evals import EvalRecord, read_eval
from bench.ledger.find import find
from bench.ledger.folder import Results
from bench.ledger.plan import Plan, list_plans, read_plan

SHOWN = 20  # ids of images in a line of text


@dataclass(frozen=True)
class Diff:
    """Two records of the same images. before, after: robust accuracy, in [0, 1]. lost, won: ids of the images that only
    the first, only the second is right on. low, high: interval of after - before. p: exact McNemar.
    """

    what: str
    images: int
    before: float
    after: float
    lost: list[int]
    won: list[int]
    low: float
    high: float
    p: float


def diff(first: str, second: str, results: Results) -> tuple[list[Diff], list[str]]:
    """first, second: two eval records (paths of .parquet files), two folders of results, or two run ids in `results`.

    Of folders the cells of the tables that both have are compared, of run ids the attacks that both have. Returns one
    Diff for each pair, and a sentence for each cell that has no pair. Raises UserError when there is none.
    """
    if first.endswith(".parquet") and second.endswith(".parquet"):
        return [between(_names(Path(first), Path(second)), _at(Path(first)), _at(Path(second)))], []
    if Path(first).is_dir() and Path(second).is_dir():
        return _folders(Results(Path(first)), Results(Path(second)))
    return _runs(first, second, results)


def between(what: str, first: EvalRecord, second: EvalRecord) -> Diff:
    """Two records of the same images. Raises UserError when they are of others."""
    if first.draws is not None or second.draws is not None:
        raise UserError(
            f"{what}: of a model that answers at random no image flips; compare the intervals over its draws"
        )
    a, b = (record.images.set_index("image")["robust"].sort_index() for record in (first, second))
    if first.images_sha256 != second.images_sha256 or not a.index.equals(b.index):
        raise UserError(
            f"{what}: the records are of different images ({len(a)} and {len(b)} of {first.dataset} and "
            f"{second.dataset}), so none of them flipped"
        )
    told = compare(b.to_numpy()[None], a.to_numpy()[None])
    lost, won = a.index[a & ~b].tolist(), a.index[b & ~a].tolist()
    return Diff(what, len(a), float(a.mean()), float(b.mean()), lost, won, told.low, told.high, told.p)


def tell(diffs: Sequence[Diff], without: Sequence[str], style: str) -> str:
    """style: "json" (every image's id), else text (the first SHOWN)."""
    if style == "json":
        return json.dumps({"diffs": [asdict(one) for one in diffs], "without": list(without)}, indent=1)
    lines = [line for one in diffs for line in _lines(one)]
    flipped = sum(bool(one.lost or one.won) for one in diffs)
    return "\n".join([*lines, *without, f"{len(diffs)} compared, {flipped} of them differ"])


def _lines(one: Diff) -> list[str]:
    moved, low, high = (100 * share for share in (one.after - one.before, one.low, one.high))
    head = (
        f"{one.what}: {100 * one.before:.2f} % -> {100 * one.after:.2f} % of {one.images} images, "
        f"{moved:+.2f} points [{low:+.2f}, {high:+.2f}]; {len(one.lost)} lost, {len(one.won)} won, "
        f"McNemar p = {one.p:.2g}"
    )
    return [head, *(f"  {kind}: {ids(flipped)}" for kind, flipped in (("lost", one.lost), ("won", one.won)) if flipped)]


def ids(images: Sequence[int]) -> str:
    """The first SHOWN numbers of images in words."""
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return ", ".join(map(str, images[:SHOWN])) + more


def _names(first: Path, second: Path) -> str:
    """What two records are of: the attack where it is the same, else both, and the networks where these differ."""
    if first.stem == second.stem:
        return first.stem
    networks = [path.resolve().parent for path in (first, second)]
    if networks[0] == networks[1]:
        return f"{first.stem} -> {second.stem}"
    return f"{networks[0].name}/{first.stem} -> {networks[1].name}/{second.stem}"


def _at(path: Path) -> EvalRecord:
    """The record in a file: FOLDER/evals/RUN_ID/EVAL_ID.parquet."""
    if len(path.resolve().parents) < 3 or path.resolve().parents[1].name != "evals":
        raise UserError(f"{path}: is no eval record; they lie in RESULTS/evals/RUN_ID/")
    return read_eval(Results(path.resolve().parents[2]), path.resolve().parent.name, path.stem)


def _runs(first: str, second: str, results: Results) -> tuple[list[Diff], list[str]]:
    """Two networks under every attack that both have a record of."""
    ids = [_evals(results, run_id) for run_id in (first, second)]
    both = sorted(ids[0] & ids[1])
    if not both:
        raise UserError(f"{first} and {second} have no record of the same attack on the same images in {results.root}")
    diffs = [between(one, read_eval(results, first, one), read_eval(results, second, one)) for one in both]
    return diffs, [f"{one}: only one of the two has it" for one in sorted(ids[0] ^ ids[1])]


def _evals(results: Results, run_id: str) -> set[str]:
    """The ids of all eval records of a network. Raises UserError where it has none."""
    found = {path.stem for path in results.eval(run_id, "x").parent.glob("[!.]*.parquet")}
    if not found:
        raise UserError(f"{run_id!r} has no eval record in {results.root}; give two run ids, .parquet files or folders")
    return found


def _folders(first: Results, second: Results) -> tuple[list[Diff], list[str]]:
    """The cells, seed by seed, of the tables that two folders have."""
    names = sorted(set(list_plans(first)) & set(list_plans(second)))
    if not names:
        raise UserError(f"{first.root} and {second.root} have no table in common")
    diffs, without = [], []
    for name in names:
        cells = [_records(read_plan(results, name), results) for results in (first, second)]
        for what in dict.fromkeys([*cells[0], *cells[1]]):
            a, b = (records.get(what, "not in this table") for records in cells)
            if isinstance(a, EvalRecord) and isinstance(b, EvalRecord):
                diffs.append(between(what, a, b))
            else:
                reasons = [f"{folder.root}: {one}" for folder, one in ((first, a), (second, b)) if isinstance(one, str)]
                without.append(f"{what}: not compared ({'; '.join(reasons)})")
    return diffs, without


def _records(plan: Plan, results: Results) -> dict[str, EvalRecord | str]:
    """Cell -> its record, or why there is none."""
    found: dict[str, EvalRecord | str] = {}
    for cell in plan.cells:
        one = find(plan, cell, results)
        found[f"{plan.name}: {cell.row} / {cell.column}, seed {cell.seed}"] = one.record or one.reason
    return found
