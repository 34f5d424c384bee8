"""The time that is left is said from what was timed, and what was not is said too."""

from __future__ import annotations

from bench.pace import Pace


def test_it_says_what_it_knows_and_what_it_does_not():
    pace = Pace(["at", "mat", "pgd", "pgd", "cw"])
    assert pace.left() == "no time to go by yet"
    pace.done("at", 20.0)
    pace.done("pgd", 4.0)
    assert pace.left() == "at least 4 s left: 2 of 3 have no time to go by"
    pace.done("mat", 40.0)
    pace.done("pgd", 6.0)
    assert pace.left() == "no time to go by yet"
    pace.done("cw", 1.0)
    assert pace.left() == ""


def test_records_of_earlier_runs_count_and_the_mean_is_taken():
    pace = Pace(["pgd"] * 10, [("pgd", 20.0), ("pgd", 40.0), ("other", 1000.0)])
    assert pace.left() == "about 5 min left"
