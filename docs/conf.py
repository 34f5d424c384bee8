"""How Sphinx builds these pages: `python -m sphinx -W docs build/docs` (the extra `docs`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "bench"
author = "its contributors"
html_title = "bench"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["bench.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_dark_style = "github-dark"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
FIELD = re.compile(r"^(?=(?:[a-z_]\w*(?:, \w+)*: |Raises ))", re.M)
SINGLE = re.compile(r"(?<![`\w:])`([^`]+)`(?![`_\w])")


def plain_words(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain words with `code` in them: no other sign is markup, and a field begins a line."""
    text = re.sub(r"([*|\\])", r"\\\1", FIELD.sub("\n", "\n".join(lines)))
    text = SINGLE.sub(lambda found: "``" + re.sub(r"\\(.)", r"\1", found[1]) + "``", text)
    lines[:] = re.sub(r"(\w)_(?=[\s.,;:)\]]|$)", r"\1\\_", text).split("\n")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_words)
