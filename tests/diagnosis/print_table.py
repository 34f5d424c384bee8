"""Prints the table of docs/diagnose.md: what each check says of every planted and every honest network of the tests.

PYTHONPATH=tests:tests/diagnosis python tests/diagnosis/print_table.py [NAME ...]
"""

from __future__ import annotations

import sys

from broken_defences import BROKEN, HONEST
from further_defences import FURTHER
from honest_networks import HONEST as MORE_HONEST
from test_diagnose import witness_of

from bench.diagnosis.masking import findings
from bench.ledger.diagnoses import trust_of

NETWORKS = HONEST | MORE_HONEST | BROKEN | FURTHER
ATTACKS = ("pgd", "pgd-restarts", "pgd-margin", "pgd-targets", "square", "transfer")
HEAD = ("network", "right", "PGD", "with restarts", "on the margin", "class by class", "Square", "transfer", "held out")


def main(names: list[str]) -> None:
    """One line a network. names: of NETWORKS; all where there is none."""
    print(f"| {' | '.join(HEAD)} | trust | warns as well |")
    print(f"|---|{'--:|' * (len(HEAD) - 1)}---|---|")
    for name in names or NETWORKS:
        witness = witness_of(NETWORKS[name]().eval())
        found, evidence = findings(witness.gather()), witness.evidence
        shares = [evidence.right, *(evidence.stands.get(attack) for attack in ATTACKS)]
        sets = [one.robust for parts in evidence.others.values() for one in parts]
        shares.append(min(sets, key=lambda flags: flags.mean(), default=None))
        trust = trust_of(found)
        warned = ", ".join(one.check for one in found if one.verdict == "warn") if trust.startswith("masked") else ""
        figures = " | ".join("-" if flags is None else f"{flags.mean():.1%}".rstrip("%") for flags in shares)
        print(f"| {name} | {figures} | {trust} | {warned} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
