"""docs/ builds without a warning, every page is reached, and what stands in docstrings arrives as words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    to = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(to)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to


@pytest.mark.slow
def test_every_page_is_there_and_linked_from_the_first(built):
    index = (built / "index.html").read_text()
    assert len(DOCS) > 15
    assert all(f'href="{name}.html' in index for name in DOCS if name != "index")


def test_no_page_loads_anything_from_elsewhere(built):
    for page in built.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, page.name


@pytest.mark.parametrize("name", ["ThreatModel", "Attack", "Trainer", "Inner", "Cohort", "Target", "UserError"])
def test_the_reference_has_the_contracts(built, name):
    page = (built / "api.html").read_text()
    assert re.search(rf'id="[\w.]+\.{name}"', page)


def test_docstrings_leave_no_markup(built):
    words = re.sub(r"<[^>]+>", "", (built / "api.html").read_text())
    assert "`" not in words and "problematic" not in (built / "api.html").read_text()
