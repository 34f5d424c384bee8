"""What opens behind a number: its records, word by word, and the command that makes it again. One article for each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from bench.ground.provenance import Provenance
from bench.ledger.budgets import radius
from bench.ledger.diagnoses import DiagnosisRecord, read_diagnoses
from bench.ledger.evals import EvalRecord, read_eval
from bench.ledger.find import OK, find
from bench.ledger.folder import Results
from bench.ledger.ids import digest
from bench.ledger.plan import Cell, Plan
from bench.ledger.runs import RunRecord, read_run
from bench.tables.notation import percent

OURS = ("bench", "__main__.py", "bench.exe")


class Line(NamedTuple):
    """A term and what is said of it. code: as a command or a hash is written. to: the article that the value opens."""

    term: str
    value: str
    code: bool = False
    to: str = ""


class Part(NamedTuple):
    """Lines below a heading, or a table of checks: head, rows."""

    heading: str
    lines: list[Line]
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Article(NamedTuple):
    """kind: "number", "attack", "network", "diagnosis". id: what a link names."""

    id: str
    kind: str
    title: str
    lead: str
    parts: list[Part]


@dataclass
class Shelf:
    """The articles of one folder of results, each once, in the order in which they were asked for."""

    results: Results
    articles: dict[tuple[str, ...], Article] = field(default_factory=dict)
    made: dict[tuple[str, str], Provenance] = field(default_factory=dict)  # of the evaluations' records

    def number(self, plan: Plan, line: Mapping[Any, Any]) -> str:
        """The id of the article of a cell. line: of `cells.table`."""
        key = ("number", plan.name, line["row"], line["column"])
        if key not in self.articles:
            made_of = plan.attacked(line["column"])
            cells = [c for c in plan.cells if c.row == line["row"] and c.column in made_of]
            parts = [Part("", _about_number(plan, line)), Part("Made of", self._made_of(plan, cells, line["state"]))]
            made = [self.made[one] for c in cells if (one := (c.run_id, c.eval_id)) in self.made]
            parts.append(Part("Make it again", _again(made, [c.run_id for c in cells])))
            self._put("n", key, f"{line['row']}, {line['column']}", plan.title, parts)
        return self.articles[key].id

    def attack(self, run_id: str, eval_id: str) -> str:
        """The id of the article of an evaluation's record. Raises UserError."""
        key = ("attack", run_id, eval_id)
        if key not in self.articles:
            record = read_eval(self.results, run_id, eval_id)
            self.made[run_id, eval_id] = record.provenance
            network = Line("Network", run_id, to=self.network(run_id))
            parts = [
                Part("", [network, *_about_attack(record)]),
                Part("Settings", _settings(record.settings)),
                *_made_by(record.provenance),
                Part("Make it again", _again([record.provenance], [run_id])),
            ]
            self._put("a", key, f"{record.attack} on {run_id}", f"Record {eval_id}", parts)
        return self.articles[key].id

    def network(self, run_id: str) -> str:
        """The id of the article of a trained network, "" where there is none. Raises UserError."""
        key = ("network", run_id)
        if key not in self.articles and self.results.run(run_id).exists():
            record = read_run(self.results, run_id)
            lines = _about_network(record)
            if record.teacher is not None:
                lines.append(Line("Teacher", record.teacher.run_id, to=self.network(record.teacher.run_id)))
            parts = [Part("", lines), Part("Settings", _settings(record.settings)), *_made_by(record.provenance)]
            parts.append(Part("Make it again", _again([record.provenance], [])))
            self._put("r", key, run_id, f"{record.trainer} on {record.dataset}, seed {record.seed}", parts)
        return self.articles[key].id if key in self.articles else ""

    def trust(self, plan: Plan, row: str) -> str:
        """The id of the article with all diagnoses of a row's networks, "" where there is none. Raises UserError."""
        runs = dict.fromkeys(cell.run_id for cell in plan.cells if cell.row == row)
        found = [one for run_id in runs for one in read_diagnoses(self.results, run_id)]
        key = ("diagnosis", *runs)
        if key not in self.articles and found:
            parts = [part for one in found for part in self._diagnosed(one)]
            self._put("d", key, f"May {row} be believed?", "Checks for gradient masking, by bench diagnose", parts)
        return self.articles[key].id if found else ""

    def _put(self, letter: str, key: tuple[str, ...], title: str, lead: str, parts: list[Part]) -> None:
        """The id is made of the names, so that a link to an article outlives the page."""
        self.articles[key] = Article(f"{letter}{digest(*key)}", key[0], title, lead, parts)

    def _made_of(self, plan: Plan, cells: list[Cell], state: str) -> list[Line]:
        """A link to the record of each seed and part, or why there is none. state: of the number."""
        lines = []
        for cell in cells:
            found = None if state == OK else find(plan, cell, self.results)
            value, to = cell.eval_id, ""
            if found is None or found.record is not None:
                to = self.attack(cell.run_id, cell.eval_id)
            else:
                value = f"{found.state}: {found.reason}"
            lines.append(Line(f"{cell.column}, seed {cell.seed}", value, to=to))
        return lines

    def _diagnosed(self, record: DiagnosisRecord) -> list[Part]:
        lines = [
            Line("Network", record.run_id, to=self.network(record.run_id)),
            Line("Verdict", record.verdict),
            Line("Threat model", f"{record.norm} {radius(record.eps)}"),
            Line("Images", str(record.images)),
            Line("Weights, SHA-256", record.weights_sha256, code=True),
        ]
        rows = tuple((one.verdict, one.check, one.figure, one.meaning) for one in record.findings)
        checks = Part("Checks", [], ("Verdict", "Check", "Figures", "What it means"), rows)
        return [Part(f"{record.norm} {radius(record.eps)}", lines), checks, *_made_by(record.provenance)]


def command_of(made: Provenance) -> str:
    """The command that made a record, as it is typed; "" where it was none of ours."""
    try:
        words = shlex.split(made.command)
    except ValueError:
        return ""
    return shlex.join(["bench", *words[1:]]) if words and words[0] in OURS and len(words) > 1 else ""


def _again(made: list[Provenance], runs: list[str]) -> list[Line]:
    """Commands, each once, and the commit to check out first."""
    lines = [Line("Command", one, code=True) for one in dict.fromkeys(command_of(one) for one in made) if one]
    if others := list(dict.fromkeys(one.command for one in made if not command_of(one))):
        lines.append(Line("Not by a command of this suite", "; ".join(others), code=True))
    if commits := list(dict.fromkeys(one.git_commit for one in made)):
        lines.append(Line("At commit", ", ".join(commits), code=True))
    lines += [Line("Check it", f"bench verify {run_id}", code=True) for run_id in dict.fromkeys(runs)]
    return (
        [*lines, Line("Note", "Records that are there are kept: give another folder with --results.")] if made else []
    )


def _about_number(plan: Plan, line: Mapping[Any, Any]) -> list[Line]:
    """What a cell says, in words."""
    if line["state"] != OK:
        return [Line("State", str(line["state"])), Line("Reason", str(line["error"]))]
    n = int(line["n"])
    value, low, high = (percent(line[name], n) for name in ("accuracy", "low", "high"))
    over = "over seeds and images" if line["seeds"] > 1 else "Wilson"
    lines = [
        Line("Accuracy", f"{value} % [{low}, {high}] (95 %, {over})"),
        Line("Counts", f"{n} {plan.split} images of {plan.dataset}, right without and with the attack"),
        Line("Attack", plan.budgets[line["column"]]),
        Line("Seeds", ", ".join(map(str, plan.seeds))),
    ]
    if line["seeds"] > 1:
        lines.append(Line("Spread over seeds (sd)", f"{percent(line['seed_spread'], n)} points"))
    if line["reach"] == line["reach"]:
        lines.append(Line("Farthest image", f"{line['reach']:.3f} of the radius"))
    if line["broken_by"]:
        told = [f"{part} {first} ({only} by it only)" for part, first, only in line["broken_by"]]
        lines.append(Line("First broken by", ", ".join(told)))
    if line["audit"]:
        lines.append(Line("Audit", "; ".join(line["audit"].told)))
    return lines + _compared(plan, line) + [Line("Mark (!)", f"{k}: {words}") for k, words in line["health"].items()]


def _compared(plan: Plan, line: Mapping[Any, Any]) -> list[Line]:
    lines = []
    if line["p_baseline"] == line["p_baseline"]:
        points = [f"{100 * line[name]:+.2f}" for name in ("difference", "difference_low", "difference_high")]
        words = f"{points[0]} points [{points[1]}, {points[2]}], adjusted p = {line['p_baseline']:.3g}"
        lines.append(Line(f"Against {plan.baseline}", words))
    if line["best"] is not None:
        told = "the best, or as good as the best" if line["best"] else "below it"
        p = "" if line["p_best"] != line["p_best"] else f", adjusted p = {line['p_best']:.3g}"
        lines.append(Line("Against the best of the column", told + p))
    return lines


def _about_attack(record: EvalRecord) -> list[Line]:
    """All of an evaluation's record but its settings and images."""
    n = len(record.images)
    right = (record.images["clean_prediction"] == record.images["label"]).mean()
    lines = [
        Line("Attack", record.attack),
        Line("Threat model", "no attack" if record.norm == "none" else f"{record.norm} {radius(record.eps)}"),
        Line("Clean accuracy", f"{percent(right, n)} % of {n}"),
        Line("Robust accuracy", f"{percent(record.images['robust'].mean(), n)} % of {n}, at the attack's own radius"),
        Line("Seconds", f"{record.cost.seconds:.1f}"),
        Line("Passes", f"{record.cost.forward_passes} forward, {record.cost.backward_passes} backward (images)"),
        Line("Seed", str(record.seed)),
        Line("Weights, SHA-256", record.weights_sha256, code=True),
        Line("Images, SHA-256", record.images_sha256, code=True),
    ]
    if record.source is not None:
        lines.append(Line("Crafted on", record.source.run_id))
    if record.adversarial_sha256 is not None:
        lines.append(Line("Kept images, SHA-256", record.adversarial_sha256, code=True))
    if record.audit is not None:
        lines.append(Line("Audit", record.audit.words(n)))
    return lines + [Line("Sign", words) for words in record.signs]


def _about_network(record: RunRecord) -> list[Line]:
    """All of a network's record but its settings."""
    cost, names = record.cost, {"clean": "clean", "robust": "under PGD"}
    told = [f"{100 * value:.1f} % {names.get(name, name)}" for name, value in record.validation.items()]
    return [
        Line("Recipe", record.recipe),
        Line("Architecture", record.arch),
        Line("Network", f"{record.member + 1} of its cohort, {record.checkpoint} checkpoint, epoch {record.epoch}"),
        Line("Validation", ", ".join(told) or "not measured"),
        Line("Health", "; ".join(record.health) or "nothing found"),
        Line("Seconds", f"{cost.seconds:.1f} ({cost.images_per_second:.0f} images a second)"),
        Line("Passes", f"{cost.forward_passes} forward, {cost.backward_passes} backward (images)"),
        Line("Peak memory", f"{cost.peak_memory_bytes / (1 << 20):.0f} MiB"),
        Line("Weights, SHA-256", record.weights_sha256, code=True),
        Line("Training images, SHA-256", record.images_sha256, code=True),
    ]


def _settings(settings: Mapping[str, Any], before: str = "") -> list[Line]:
    """A line for each setting, nested ones by their path: "schedule.epochs"."""
    lines: list[Line] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            lines += _settings(value, f"{before}{name}.")
        else:
            lines.append(Line(f"{before}{name}", str(value), code=True))
    return lines


def _made_by(made: Provenance) -> list[Part]:
    """Code, machine and time."""
    about = asdict(made)
    packages = about.pop("packages")
    dirty = " (with changes that are not in it)" if made.git_dirty else ""
    lines = [
        Line("Command", made.command, code=True),
        Line("Commit", made.git_commit + dirty, code=True),
        Line("Started (UTC)", made.started_utc),
        Line("Device", f"{made.device}, {made.threads} thread{'s' if made.threads != 1 else ''}"),
        Line("Python", made.python),
        Line("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    return [Part("Made by", lines)]
