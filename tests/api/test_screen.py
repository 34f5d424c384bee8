"""One screen: the same words on a terminal, in Python and in a notebook, where names cannot do anything."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import linear
import pytest
import torch

import bench
from bench.api import screen

EVIL = "<script>alert(1)</script>\x1b[2J&\u202e"


@pytest.fixture(scope="module")
def result():
    x, y = linear.images()
    return bench.evaluate(linear.network(), x, y, norm="Linf", eps=0.03, settings=linear.CALM)


def cells(page: str) -> list[str]:
    return ["".join(cell.itertext()) for cell in ElementTree.fromstring(page).iter("td")]


def test_it_is_one_screen(result):
    lines = repr(result).splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 120
    assert lines[0] == "Linear on 60 images in memory, Linf 0.03"
    assert re.fullmatch(r"clean +90\.0 %  54 of 60 are right", lines[2])
    fell = result.attacks["fell"][0]
    assert re.fullmatch(rf"pgd-20 +\d+\.\d %  {fell} of the 54 that were right fell, \d+\.\d s", lines[3])
    assert any(re.match(rf"worst case +{100 * result.robust.value:.1f} %  95 % interval", line) for line in lines)
    assert "bench.diagnose(model, x, y, norm='Linf', eps=0.03)" in repr(result)
    first = result.fallen.iloc[0]
    words = f"image {first['image']}: {first['label']} -> {first['adversarial_prediction']} under pgd-20, Linf 0.03"
    assert words in repr(result) and len(screen.examples(result)) == 3


def test_what_to_run_next_is_the_same_radius_to_the_last_digit():
    x, y = linear.images(10)
    for eps, words in ((8 / 255, "eps=8/255"), (0.0123456789, "eps=0.0123456789")):
        assert f"{words})  # all checks" in repr(bench.attack(linear.network(), "fgsm", x, y, eps=eps))


def test_a_notebook_shows_the_same_words_as_the_terminal(result):
    page = result._repr_html_()
    words = " ".join(cells(page))
    for line in screen.numbers(result):
        assert line.number in words and line.words in words
    assert result.trust in words and page.count("<img") == 6


def test_a_notebook_in_dark_mode_keeps_its_colours(result):
    colours = re.findall(r"(?:color|background|fill):([^;\"]+)", result._repr_html_())
    assert colours and set(colours) <= {"inherit", "none"}


def test_hostile_names_do_nothing_anywhere():
    x, y = linear.images(20)
    model = type(EVIL, (type(linear.network()),), {})(linear.network().weight.detach(), torch.zeros(2)).eval()
    result = bench.attack(model, "pgd-20", x, y, norm="Linf", eps=0.03)
    page = result._repr_html_()
    assert "<script" not in page and "\x1b" not in page + repr(result) and "\u202e" not in page + repr(result)
    assert "&lt;script&gt;alert(1)" in page and ElementTree.fromstring(page).tag == "div"
    said = bench.diagnose(model, x[:4], y[:4], norm="Linf", eps=0.1)
    assert "<script" not in said._repr_html_() and ElementTree.fromstring(said._repr_html_()).tag == "div"
    assert "\x1b" not in repr(said) and said.checks["check"].tolist()[0] == "evaluation-mode" and said.trust


def test_a_masked_network_is_called_so_with_the_reasons():
    x, y = linear.images()
    result = bench.evaluate(linear.network(1e6), x, y, norm="Linf", eps=0.03, attacks=["fgsm", "pgd-20"])
    assert result.trust.startswith("masked: ") and "zero-gradients" in result.trust
    said = " ".join(repr(result).split())
    assert "fail zero-gradients: no gradient on" in said and "attack with a margin" in said


def test_signs_make_a_number_doubtful_and_are_listed():
    x, y = linear.images()
    result = bench.attack(linear.network(), "pgd-20", x, y, eps=0.03, settings={"pgd-20.step": 0.0001})
    assert result.trust == "doubtful: 1 sign against the number" and "take longer ones" in " ".join(
        repr(result).split()
    )
