"""The pages of the documentation: their code blocks with the marks above them, their links, headings and anchors.

A mark is an HTML comment directly above a block, which a code host and the built pages leave out:

    <!-- not run: REASON -->   needs hours, a GPU, a network, data or a package that tests do not have
    <!-- slow -->              run by `python -m pytest -m slow`
    <!-- exit: 1 -->           the commands end so
    <!-- file: NAME -->        what the page's commands find under NAME
    <!-- prints -->            what the block before prints, whatever the numbers
    <!-- ci:NAME -->           run by .ci/run
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^(`{3,})([^\n`]*)\n(.*?)^\2$", re.M | re.S)
MARK = re.compile(r"<!-- ([\w ]+?)(?:: ?(.*?))? -->")


class Block(NamedTuple):
    """A code block: `sh`, `python`, ..., its text, and the marks above it, by name."""

    language: str
    text: str
    marks: dict[str, str]

    @property
    def runs(self) -> bool:
        """Whether a test runs it, sooner or later."""
        return self.language in ("sh", "python") and not {"not run", "ci", "file"} & set(self.marks)

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command line; lines that end in a backslash are joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """In the order of the page."""
    found = BLOCK.findall(page.read_text())
    return [Block(language.strip(), text, dict(MARK.findall(marks))) for marks, _, language, text in found]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Where its links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower().replace("`", "")).replace(" ", "-") for head in heads}
