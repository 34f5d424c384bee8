"""The gallery: images that an attack turned, their perturbation, and what the network said. From kept images alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.ledger.adversarial import Pair, read_pairs
from bench.ledger.evals import DISTANCES, EvalRecord
from bench.ledger.find import find
from bench.ledger.folder import Results
from bench.ledger.plan import Cell, Plan

RECORDS = 24  # of which pictures are shown; each is read whole
EACH = 2  # images of a record
BYTES = 800_000  # of all pictures of a table; each is there twice, small and opened
LARGEST = 96  # pixels of a side


class Item(NamedTuple):
    """One image. original, perturbation: data URLs, None where the original was not kept; scale: what black and white
    stand for in the perturbation, in image units. distances: norm -> in image units.
    """

    network: str
    attack: str
    run_id: str
    eval_id: str
    image: int
    label: int
    before: int
    after: int
    distances: dict[str, float]
    adversarial: str
    original: str | None
    perturbation: str | None
    scale: float

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(one) for one in (self.adversarial, self.original, self.perturbation) if one)


def gallery(plan: Plan, results: Results) -> list[Item]:
    """At most EACH images of at most RECORDS records, those of the attacks that broke most first, network by network;
    no more than BYTES. Empty where no images were kept. Raises UserError.
    """
    chosen: list[Item] = []
    spent = 0
    for cell, record in _records(plan, results):
        for item in islice(_items(cell, record, results), EACH):
            if (spent := spent + item.size) > BYTES:
                return chosen
            chosen.append(item)
    return chosen


def _records(plan: Plan, results: Results) -> list[tuple[Cell, EvalRecord]]:
    """Those with kept images: of every row the attack that broke most, then of every row the next; row by row."""
    ranked: list[tuple[int, int, Cell, EvalRecord]] = []
    for place, row in enumerate(plan.rows):
        cells = [c for c in plan.cells if c.row == row and c.seed == plan.seeds[0] and c.at is None]
        found = [(cell, record) for cell in cells if (record := find(plan, cell, results).record) is not None]
        kept = [(cell, record) for cell, record in found if record.adversarial_sha256 is not None]
        kept.sort(key=lambda one: float(one[1].images["robust"].mean()))
        ranked += [(rank, place, *one) for rank, one in enumerate(kept)]
    first = sorted(ranked, key=lambda one: one[:2])[:RECORDS]
    return [(cell, record) for _, _, cell, record in sorted(first, key=lambda one: (one[1], one[0]))]


def _items(cell: Cell, record: EvalRecord, results: Results) -> Iterator[Item]:
    """The images that count as fallen, in the order of their numbers."""
    table = record.images[record.images["clean_prediction"] == record.images["label"]].set_index("image")
    for number, pair in sorted(read_pairs(results, record).items()):
        if number in table.index and not table.loc[number, "robust"]:
            about = table.loc[number]
            yield Item(
                cell.row,
                cell.column,
                record.run_id,
                record.eval_id,
                number,
                int(about["label"]),
                int(about["clean_prediction"]),
                int(about["adversarial_prediction"]),
                {norm: float(about[norm]) for norm in DISTANCES},
                *_drawn(pair),
            )


def _drawn(pair: Pair) -> tuple[str, str | None, str | None, float]:
    """The adversarial image, the original, the perturbation, and its scale."""
    if pair.x is None:
        return _png(pair.x_adv), None, None, 0.0
    delta = pair.x_adv - pair.x
    scale = float(np.abs(delta).max())
    return _png(pair.x_adv), _png(pair.x), _png(0.5 + delta / (2 * scale or 1.0)), scale


def _png(image: NDArray[np.float32]) -> str:
    """[C, H, W] in [0, 1] as a data URL; of other than 1 or 3 channels their mean. Large images are made smaller."""
    from PIL import Image

    channels = image if len(image) in (1, 3) else image.mean(0, keepdims=True)
    levels = (np.nan_to_num(channels).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
