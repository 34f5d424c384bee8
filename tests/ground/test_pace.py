"""The time that is left is said from what was timed, and what was not is said too."""

from __future__ import annotations

from bench.ground.pace import Pace


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
