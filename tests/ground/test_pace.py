"""The time that is left is said from what was timed, and what was not is said too."""

from __future__ import annotations

import pytest

from bench.ground.pace import Pace, duration


def test_it_says_what_it_knows_and_what_it_does_not():
    pace = Pace({1: "at", 2: "mat", 3: "pgd", 4: "pgd", 5: "cw"})
    assert pace.left() == "no time to go by yet"
    pace.done(1, 20.0)
    pace.done(3, 4.0)
    assert pace.left() == "at least 4 s left: 2 of 3 have no time to go by"
    pace.done(2, 40.0)
    pace.done(4, 6.0)
    assert pace.left() == "no time to go by yet"
    pace.done(5, 1.0)
    assert pace.left() == ""


def test_records_of_earlier_runs_count_and_the_mean_is_taken():
    pace = Pace(dict.fromkeys(range(10), "pgd"), [("pgd", 20.0), ("pgd", 40.0), ("other", 1000.0)])
    assert pace.left() == "about 5 min left"


def test_what_a_helper_did_counts_once_and_several_processes_share_the_rest():
    pace = Pace(dict.fromkeys(range(5), "pgd"), jobs=2)
    pace.done(0, 30.0)
    pace.done(0, 0.001)  # found done, later
    assert pace.left() == "about 60 s left"


def test_an_estimate_counts_until_one_of_the_name_was_timed_and_is_told():
    pace = Pace({1: "at", 2: "at", 3: "cw"}, expected={1: 100.0, 2: 100.0})
    assert pace.left() == "at least 3 min left (2 of 3 estimated): 1 of 3 have no time to go by"
    assert pace.of(1) == 100 and pace.of(3) is None and not pace.timed(1)
    pace.done(1, 20.0)
    assert pace.of(2) == 20 and pace.timed(2)
    assert pace.left() == "at least 20 s left: 1 of 2 have no time to go by"


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.2, "0 s"), (99, "99 s"), (101, "2 min"), (5990, "100 min"), (6100, "1.7 h"), (40 * 3600, "40 h"),
        (50 * 3600, "2.1 days"), (13 * 86400, "13 days"), (15 * 86400, "2 weeks"), (70 * 86400, "10 weeks"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_two_digits(seconds, words):
    assert duration(seconds) == words
