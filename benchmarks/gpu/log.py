"""Figures as they come, as JSON lines; at the end all of them as one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.ground.files import make_folder


class Log:
    """Of one measurement. facts: what stands beside every figure. Raises UserError where it cannot write."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.path = make_folder(folder) / "figures.jsonl"
        self.facts, self.rows = facts, list[tuple[str, str, str, str]]()
        self.failed = False

    def add(self, section: str, row: str, value: str, note: str = "", **figures: Any) -> None:
        """value: as the table has it. figures: in full, with their units in their names."""
        self.rows.append((section, row, value, note))
        line = {"section": section, "row": row, "value": value, "note": note, **figures, **self.facts}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"  {section}: {row}: {value} {note}".rstrip(), flush=True)

    def fails(self, section: str, row: str, error: Exception) -> None:
        """A row that should have a figure, and why it has none."""
        self.failed = True
        self.add(section, row, "-", f"failed: {' '.join(f'{type(error).__name__}: {error}'.split())[:160]}")

    def table(self) -> str:
        """Everything, the facts above it."""
        head = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return f"{head}\n\n" + tabulate(self.rows, ("what", "row", "figure", "note"), "github", disable_numparse=True)
