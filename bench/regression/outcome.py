"""What came out of `bench check`, told as text, JUnit XML, JSON or GitHub's workflow commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from xml.etree import ElementTree

from bench.ground.config import choose


@dataclass(frozen=True)
class Checked:
    """A cell that was compared with its reference. words: what failed, or what there is to say."""

    row: str
    column: str
    ok: bool
    words: str = ""


@dataclass(frozen=True)
class CheckResult:
    """A table that was compared with a reference: its cells, and a sentence on all of them."""

    table: str
    reference: str
    cells: list[Checked]
    summary: str

    @property
    def ok(self) -> bool:
        """Whether no cell failed."""
        return all(cell.ok for cell in self.cells)

    @property
    def lines(self) -> list[str]:
        """One for every cell that there is something to say of, then the summary."""
        told = [f"{self.table}: {cell.row} / {cell.column}: {cell.words}" for cell in self.cells if cell.words]
        return [*told, f"{self.table}: {self.summary} ({self.reference})"]


def tell(outcomes: Sequence[CheckResult], style: str) -> str:
    """The outcomes in one of FORMATS. Raises UserError for another format."""
    return FORMATS[choose(style, FORMATS, "format")](outcomes)


def _text(outcomes: Sequence[CheckResult]) -> str:
    return "\n".join(line for outcome in outcomes for line in outcome.lines)


def _json(outcomes: Sequence[CheckResult]) -> str:
    """{"ok", "tables": [{"table", "reference", "summary", "ok", "cells": [{"row", "column", "ok", "words"}]}]}."""
    tables = [asdict(outcome) | {"ok": outcome.ok} for outcome in outcomes]
    return json.dumps({"ok": all(outcome.ok for outcome in outcomes), "tables": tables}, indent=1)


def _junit(outcomes: Sequence[CheckResult]) -> str:
    """A test suite for each table, a test case for each cell."""
    root = ElementTree.Element("testsuites")
    for outcome in outcomes:
        failed = str(sum(not cell.ok for cell in outcome.cells))
        about = {"name": outcome.table, "tests": str(len(outcome.cells)), "failures": failed}
        suite = ElementTree.SubElement(root, "testsuite", about)
        for cell in outcome.cells:
            name = {"classname": outcome.table, "name": _xml(f"{cell.row} / {cell.column}")}
            case = ElementTree.SubElement(suite, "testcase", name)
            if not cell.ok:
                ElementTree.SubElement(case, "failure", {"message": _xml(cell.words)})
            elif cell.words:
                ElementTree.SubElement(case, "system-out").text = _xml(cell.words)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode()


def _xml(text: str) -> str:
    """Without the signs that XML cannot hold, escaped or not; an attack's error may contain any."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _github(outcomes: Sequence[CheckResult]) -> str:
    """Workflow commands, which GitHub shows as annotations of a run."""

    def command(kind: str, title: str, words: str) -> str:
        escaped = words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        title = title.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
        return f"::{kind} title={title}::{escaped}"

    lines = []
    for outcome in outcomes:
        for cell in outcome.cells:
            if cell.words:
                kind = "notice" if cell.ok else "error"
                lines.append(command(kind, f"{outcome.table}: {cell.row} / {cell.column}", cell.words))
        lines.append(command("notice" if outcome.ok else "error", outcome.table, outcome.summary))
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Sequence[CheckResult]], str]] = {
    "text": _text,
    "junit": _junit,
    "json": _json,
    "github": _github,
}
