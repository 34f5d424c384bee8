"""A result in a notebook: the words of `bench.api.screen` as HTML, and the images that fell as pictures.

Colours are those of the page around it (currentColor), so that it reads in dark mode too. No script, nothing loaded,
and everything that is not ours is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

from bench.api import screen
from bench.api.result import Result
from bench.ground.terminal import visible

SIDE = 64  # pixels of a picture on the page
CELL = "text-align:left;padding:0.15em 0.8em;border-top:1px solid rgba(128,128,128,0.35);background:none;color:inherit"


def page(result: Result) -> str:
    """One <div>, well-formed."""
    rows = "".join(_row(*line) for line in screen.numbers(result))
    trust = _row("trust", "", result.trust) + "".join(_row("", "", words) for words in screen.against(result))
    after = [f"<p>next: {'<br>'.join(f'<code>{_safe(one)}</code>' for one in result.next)}</p>"] if result.next else []
    return (
        f'<div style="color:inherit"><p><strong>{_safe(screen.title(result))}</strong></p>'
        f'<table style="border-collapse:collapse"><tbody>{rows}{trust}</tbody></table>'
        f"{_fallen(result)}{''.join(after)}</div>"
    ).replace("<br>", "<br/>")


def listing(title: str, rows: Sequence[tuple[str, str, str]], last: str) -> str:
    """A title, lines of three cells, and a last line: of a diagnosis."""
    table = "".join(_row(*row) for row in rows)
    return (
        f'<div style="color:inherit"><p><strong>{_safe(title)}</strong></p><table style="border-collapse:collapse">'
        f"<tbody>{table}</tbody></table><p>{_safe(last)}</p></div>"
    )


def _fallen(result: Result) -> str:
    """The images that fell, before and after, with their words."""
    cells = []
    for place, (row, words) in enumerate(zip(result.fallen.index, screen.examples(result), strict=False)):
        pair = f"{_picture(result.original[place])} {_picture(result.adversarial[row])}"
        cells.append(f'<td style="{CELL}">{pair}<br/>{_safe(words)}</td>')
    return f"<table><tbody><tr>{''.join(cells)}</tr></tbody></table>" if cells else ""


def _picture(image: Tensor) -> str:
    """[C, H, W] in [0, 1] -> an <img> that holds it; of other than 1 or 3 channels the first is shown."""
    levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    shown = Image.fromarray(levels if levels.shape[2] == 3 else levels[..., 0])
    shown.thumbnail((2 * SIDE, 2 * SIDE))
    file = io.BytesIO()
    shown.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" width="{SIDE}" style="image-rendering:pixelated" src="data:image/png;base64,{data}"/>'


def _row(head: str, number: str, words: str) -> str:
    cells = "".join(f'<td style="{CELL}">{_safe(one)}</td>' for one in (head, number, words))
    return f"<tr>{cells}</tr>"


def _safe(words: str) -> str:
    return escape(visible(words))
