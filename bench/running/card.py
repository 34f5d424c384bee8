"""A model card made from the records: what the network is, how it was trained, what every attack on it came to.

Every text in it was written by somebody else and may hold anything: what Markdown or YAML would read is taken out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.ground.terminal import visible
from bench.ledger.diagnoses import DiagnosisRecord, read_diagnoses
from bench.ledger.evals import EvalRecord, accuracies, read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import IMPORTED, RunRecord

NOTHING = "No attack on this network has a record. Its robustness is not known.\n"


def card(results: Results, record: RunRecord, form: str, how: str, parameters: int) -> str:
    """Markdown with YAML in front, as model hubs show it. form: of the export; how: code that loads it."""
    names = sorted(path.stem for path in results.evals(record.run_id).glob("[!.]*.parquet"))
    evals = [read_eval(results, record.run_id, name) for name in names]
    same = [one for one in evals if one.weights_sha256 == record.weights_sha256]
    found = [one for one in read_diagnoses(results, record.run_id) if one.weights_sha256 == record.weights_sha256]
    size = ", ".join(map(str, record.image_shape))
    parts = [
        _front(record),
        f"# {_plain(record.run_id)}\n",
        f"An image classifier, `{_plain(record.arch)}`, of {record.classes} classes: images [N, {size}] in [0, 1] -> "
        f"logits [N, {record.classes}]; {parameters:,} parameters. Normalisation, where there is any, is inside. "
        f"Exported as {form}.\n",
        f"## Use\n\n```python\n{how}\n```\n",
        f"## Training\n\n{_training(record)}",
        f"## Robustness\n\n{_attacks(same)}{_trust(found)}",
        f"## Where the numbers come from\n\n{_source(record)}",
    ]
    return "\n".join(parts)


def _front(record: RunRecord) -> str:
    tags = ["adversarial-robustness", *([] if record.trainer == IMPORTED else [_plain(record.trainer)])]
    lines = ["---", "library_name: robustness-bench", "pipeline_tag: image-classification"]
    lines += [
        "datasets:",
        f"- {json.dumps(_plain(record.dataset))}",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    return "\n".join([*lines, "---", ""])


def _training(record: RunRecord) -> str:
    if record.trainer == IMPORTED:
        file = _plain(str(record.settings.get("file", "a file")))
        return f"It was imported from `{file}`; how it was trained is not in the records.\n"
    settings = json.dumps(record.settings, indent=1, sort_keys=True)
    checks = ", ".join(f"{_plain(name)} {value:.2%}" for name, value in record.validation.items()) or "none"
    lines = [
        f"Method `{_plain(record.trainer)}`, recipe `{_plain(record.recipe)}`, on {_plain(record.dataset)}, seed "
        f"{record.seed}; network {record.member + 1} of its cohort; checkpoint `{record.checkpoint}` (epoch "
        f"{record.epoch}), on validation images: {checks}.",
        f"It took {record.cost.seconds:.0f} s on {_plain(record.provenance.device)}: {record.cost.forward_passes:,} "
        f"forward and {record.cost.backward_passes:,} backward passes of one image, of all its networks together.",
        *(f"**{_plain(words)}**" for words in record.health),
    ]
    return (
        "\n\n".join(lines)
        + f"\n\n<details><summary>Settings</summary>\n\n```json\n{_code(settings)}\n```\n\n</details>\n"
    )


def _attacks(evals: Sequence[EvalRecord]) -> str:
    """A table, of the records that are of these weights."""
    if not evals:
        return NOTHING
    rows = ["| attack | threat | images | clean | robust | 95 % interval | what speaks against it |", "|---" * 7 + "|"]
    for one in sorted(evals, key=lambda one: (one.norm, one.eps, one.attack)):
        n = len(one.images)
        clean, robust = accuracies(one)
        threat = "none" if one.norm == "none" else f"{one.norm} {one.eps:.6g}" if one.norm != "own" else "its own"
        crafted = [] if one.source is None else [f"crafted on {one.source.run_id}"]
        signs = _plain("; ".join([*crafted, *one.signs])) or "nothing seen"
        rows.append(
            f"| {_plain(one.attack)} | {threat} | {n} | {clean.value:.2%} | {robust.value:.2%} | "
            f"[{robust.low:.2%}, {robust.high:.2%}] | {signs} |"
        )
    return "\n".join(rows) + "\n"


def _trust(found: Sequence[DiagnosisRecord]) -> str:
    """What `bench diagnose` said."""
    lines = [
        f"\nChecked for gradient masking at {one.norm} {one.eps:.6g}: **{_plain(one.verdict)}**.\n" for one in found
    ]
    return "".join(lines) or "\nIt was not checked for gradient masking (`bench diagnose`).\n"


def _source(record: RunRecord) -> str:
    made = record.provenance
    packages = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in made.packages.items())
    commit = f"commit `{_plain(made.git_commit)}`"
    dirty = " with changes that are not in it" if made.git_dirty else ""
    return (
        f"Weights SHA-256 `{_plain(record.weights_sha256)}`. Command `{_plain(made.command)}`, "
        f"{_plain(made.started_utc)}, {commit}{dirty}, Python {_plain(made.python)}, {packages}.\n"
    )


def _plain(text: str) -> str:
    """One line without what Markdown, HTML or a table's columns would read."""
    line = visible(" ".join(str(text).split()))
    return "".join({"`": "'", "|": "/", "<": "&lt;", ">": "&gt;", "[": "(", "]": ")"}.get(sign, sign) for sign in line)


def _code(text: str) -> str:
    return visible(text).replace("```", "'''")
