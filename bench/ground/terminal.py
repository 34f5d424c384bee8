"""What is printed moves nothing but the cursor: a name in a record, a plan or a file may hold anything."""

from __future__ import annotations

import sys
import unicodedata

import click

LONGEST = 1500  # characters of a sentence; what was given may be of any length
KEPT = "\n\t"
# control characters, formats that show nothing or turn the line around, separators of lines, halves of characters
HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")

TOLD: set[object] = set()  # what warn_once has said in this process


def visible(text: str) -> str:
    """The text with every sign that a terminal would obey, or not show, in the words of Python: "\\x1b", "\\u202e"."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(sign) for sign in text)


def _visible(sign: str) -> str:
    if sign in KEPT or unicodedata.category(sign) not in HIDDEN:
        return sign
    return sign.encode("unicode_escape", "surrogatepass").decode()


def tell(text: object, err: bool = False) -> None:
    """A line on standard output, or on standard error."""
    click.echo(visible(str(text)), err=err)


def warn(sentence: str) -> None:
    """A line on standard error that is about what was given: one, and no longer than a screen, whatever that was."""
    line = " ".join(sentence.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 :]}"
    print(f"bench: {visible(line)}", file=sys.stderr)


def warn_once(sentence: str, about: object = None) -> None:
    """The same, if this process has not said it yet; about: what it is told once of, where not of its own words."""
    if (what := about or sentence) not in TOLD:
        TOLD.add(what)
        warn(sentence)
