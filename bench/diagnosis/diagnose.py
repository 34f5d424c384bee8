"""`bench diagnose`: can the robustness that attacks measure on one model be believed?

Evidence (`evidence.py`) -> findings (`masking.py`) -> a record beside the model's others, which tables show.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from attacks.contract import ThreatModel
from attacks.model import ModelError
from attacks.noise import derive_seed
from attacks.target import Target
from bench.diagnosis.evidence import STAGES, SUBSTITUTE_IMAGES, Witness, substitute
from bench.diagnosis.masking import findings
from bench.diagnosis.neighbours import held_out
from bench.ground.config import UserError, settings_of
from bench.ground.progress import Progress
from bench.ground.provenance import provenance
from bench.judge.inputs import of_inputs
from bench.ledger.budgets import radius
from bench.ledger.diagnoses import DiagnosisRecord, Effort, Finding, trust_of, write_diagnosis
from bench.ledger.folder import Source
from bench.ledger.runs import IMPORTED, RunRecord, read_run
from bench.running.clock import Clock
from bench.running.forecast import of_diagnosis
from bench.subjects import outside
from bench.subjects.chosen import Choice, Subject, choose_norm, named
from bench.subjects.data import Images
from bench.subjects.device import choose_device, describe
from trainers import TRAINERS
from trainers.contract import Inner, perturbations

IMAGES = 100


def diagnose_model(
    choice: Choice,
    *,
    eps: float | None = None,
    norm: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    effort: Effort | None = None,
    keep: bool = True,
) -> tuple[DiagnosisRecord, list[str]]:
    """Attack, check, write the record where one is kept; returns it and the lines to print. Raises UserError.

    choice.source: the model that the transfer attack is crafted on; None is a substitute trained for it.
    """
    where, effort, model = choose_device(choice.device), effort or Effort(), named(choice.model)
    threat = threat_of(choice, eps, norm)
    loaded = choice.load()
    subject, *origins = choice.subjects(loaded, where)
    origin = origins[0] if origins else None
    chosen = choice.pick(loaded, min(IMAGES, len(loaded.test)))
    network = subject.network.to(where)

    def crafted_on() -> nn.Module:
        if origin is not None:
            return origin.network
        return substitute(network, loaded, effort.epochs, derive_seed("substitute", seed), where)

    with Progress() as progress:
        advance = progress.count(f"diagnosing {model}", STAGES)
        witness = Witness(
            network,
            threat,
            chosen,
            loaded.classes,
            effort=effort,
            source=crafted_on,
            others={} if choice.indices else held_out(loaded, chosen),  # images that were picked are like no others
            flip=loaded.flip,
            seed=seed,
            batch_size=batch_size,
            on_attack=lambda name: advance(),
        )
        learned = 0 if origin is not None else min(SUBSTITUTE_IMAGES, len(loaded.train)) * effort.epochs
        for words in of_diagnosis(Clock(loaded, where), witness.attacks(), subject.blank, len(chosen), learned):
            progress.say(words)
        try:
            found = findings(witness.gather())
        except ModelError as error:
            raise UserError(f"{model}: {error}") from error
    record = _record(witness, found, subject, origin, loaded.name)
    kept = [f"record: {write_diagnosis(choice.results, record)}"] if keep else []
    return record, [*_lines(record), *_inputs(subject, chosen, where), f"data: {loaded.source}", *kept]


def glance(
    subject: Subject, threat: ThreatModel, images: Images, classes: int, seed: int = 0, batch_size: int | None = None
) -> list[Finding]:
    """The checks that cost few passes, as far as they can be made; of no record. subject: a copy that has seen nothing
    is looked at, where there is one. Raises UserError.
    """
    witness = Witness(
        subject.blank.fresh(), threat, images, classes,
        effort=Effort(), source=lambda: subject.network, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    return [finding for finding in findings(witness.glance()) if finding.verdict != "skip"]


def _inputs(subject: Subject, images: Images, device: torch.device) -> list[str]:
    """A line where the network expects other inputs than it is given: no check was of the network that is meant."""
    x, y, ids = images.x.to(device), images.y.to(device), images.ids.to(device)
    logits = Target(subject.blank.fresh()).true_logits(x)
    return [f"sign: {words}" for words in of_inputs(subject.blank, Images(x, y, ids), logits)]


def _record(
    witness: Witness, found: list[Finding], subject: Subject, origin: Subject | None, dataset: str
) -> DiagnosisRecord:
    return DiagnosisRecord(
        run_id=subject.run_id,
        norm=witness.threat.norm,
        eps=witness.threat.eps,
        settings=settings_of(witness.effort),
        seed=witness.seed,
        dataset=dataset,
        weights_sha256=subject.weights_sha256,
        images_sha256=witness.images.sha256,
        images=len(witness.images),
        source=None if origin is None else Source(origin.run_id, origin.weights_sha256),
        findings=found,
        trust=trust_of(found),
        cost=witness.cost,
        provenance=provenance(describe(witness.device), torch.get_num_threads()),
    )


def threat_of(
    choice: Choice, eps: float | None, norm: str | None, usual: Mapping[str, float] = MappingProxyType({})
) -> ThreatModel:
    """The threat model asked for; a registered run has that of its training, of several the first (in the norm asked
    for). usual: norm -> radius where nothing else says one. Raises UserError.
    """
    trained = () if choice.run_id is None else _trained_against(read_run(choice.results, choice.run_id))
    first = trained[0].norm if trained else "Linf"
    chosen: Any = first if norm is None else choose_norm(norm)
    if eps is None:
        eps = next((inner.eps for inner in trained if inner.norm == chosen), usual.get(chosen))
    if eps is None:
        raise UserError("say at which radius the model is claimed to be robust, as in --eps 8/255")
    try:
        threat = ThreatModel(chosen, eps)
    except ValueError as error:
        raise UserError(str(error)) from error
    if eps == 0:
        raise UserError("gradients lead nowhere at radius 0; give one above 0, as in --eps 8/255")
    return threat


def _trained_against(record: RunRecord) -> tuple[Inner, ...]:
    """What the network of a run was trained to withstand; for a naturally trained one, what it was measured with. Of
    an imported one nothing is known.
    """
    if record.trainer == IMPORTED or record.trainer not in outside.known("trainer", TRAINERS):
        return ()  # a record never decides what code runs
    settings = {key: value for key, value in record.settings.items() if key != "schedule"}
    trainer = outside.built_trainer(outside.trainer(record.trainer), settings, f"run {record.run_id}")
    return perturbations(trainer, record.member) or (trainer.inner,)


def _lines(record: DiagnosisRecord) -> list[str]:
    """One line per check, what to do under those that are not passed, and the verdict."""
    lines = [f"{record.run_id}: {record.norm} {radius(record.eps)}, {record.images} images of {record.dataset}"]
    for finding in record.findings:
        lines.append(f"{finding.verdict:5} {finding.check:18} {finding.figure}; {finding.meaning}")
    cost = record.cost
    passes = f"{cost.forward_passes} forward, {cost.backward_passes} backward passes"
    return [*lines, f"trust: {record.verdict}", f"passes: {passes} ({cost.seconds:.1f} s)"]
