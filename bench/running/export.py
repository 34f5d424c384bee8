"""`bench export`: a registered network as files that others load, with a model card made from its records.

safetensors: one file, whose head says what it is. huggingface: a folder with config.json; a network of timm in timm's
own layout. robustbench: models/DATASET/THREAT/NAME.pt under the names of the zoo's networks. torch-export: a program
that needs none of our code. What was written is loaded again, and has to give the same logits.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from attacks.target import Target
from bench.ground.config import UserError, first_line
from bench.ground.files import write_atomic, write_text
from bench.ledger.folder import Results
from bench.ledger.ids import slug
from bench.ledger.runs import RunRecord
from bench.running.card import card
from bench.subjects import folders, models, own, registry, zoo
from bench.subjects.normalization import Statistics
from bench.subjects.outputs import Mapped

FORMATS = ("safetensors", "robustbench", "huggingface", "torch-export")
IMAGES = 4  # that are asked before and after
CLOSE = 1e-4  # of the logits' spread: another layout of the same sums rounds otherwise
USE = """from bench.subjects import own
model = own.find({model!r}, own.About(), {shape}, {classes}).make()   # or: bench attack {model} pgd-20"""
LOADER = """from robustbench.utils import load_model{entry}
model = load_model({name!r}, model_dir={folder!r}, dataset={dataset!r}, threat_model={threat!r})"""
ENTRY = """
from robustbench.model_zoo import model_dicts
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
# a name that the zoo does not have: say which of its networks it is
model_dicts[BenchmarkDataset({dataset!r})][ThreatModel({threat!r})][{name!r}] = dict(model=MODEL, gdrive_id="")"""
PROGRAM = """import torch
model = torch.export.load("model.pt2").module()   # images [N, {c}, {h}, {w}] in [0, 1] -> logits"""


@dataclass(frozen=True)
class Job:
    """One export. network: in evaluation mode; out: the folder; name: NAME or THREAT/NAME of the zoo, "" is made of
    the run's id and of the threat that it was trained against, else Linf."""

    record: RunRecord
    network: nn.Module
    out: Path
    name: str = ""

    @property
    def shape(self) -> models.Shape:
        """(C, H, W)."""
        c, h, w = self.record.image_shape
        return c, h, w


def export(results: Results, run_id: str, form: str, out: Path | None, arch: str | None, name: str = "") -> list[str]:
    """Writes the files and the card -> what to print. arch: of a run whose architecture is a module:factory, to say
    that its code may run. Raises UserError, also where the files do not give the network's logits.
    """
    network, record = registry.load(results, run_id, () if arch is None else (arch,))
    job = Job(record, network, out or Path(f"{run_id}-{form}"), name)
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise UserError(f"{job.out} is there already; give another folder with --out")
    writers: Mapping[str, Callable[[Job], tuple[Path, str, Callable[[], nn.Module]]]] = {
        "safetensors": _safetensors, "robustbench": _robustbench, "huggingface": _huggingface, "torch-export": _program,
    }  # fmt: skip
    path, how, load = writers[form](job)
    _check_same(job, path, load)
    parameters = sum(value.numel() for value in network.parameters())
    page = write_text(job.out / "README.md", card(results, record, form, how, parameters))
    return [f"wrote {path}", f"model card: {page}"]


def apart(network: nn.Module) -> tuple[nn.Module, Statistics | None]:
    """The network without its normalisation, and that."""
    if isinstance(network, nn.Sequential) and len(network) == 2 and isinstance(network[0], models.Normalize):
        return network[1], (network[0].mean.flatten().tolist(), network[0].std.flatten().tolist())
    return network, None


def _check_same(job: Job, path: Path, load: Callable[[], nn.Module]) -> None:
    """Raises UserError where what lies there is another network."""
    x = torch.rand(IMAGES, *job.shape, generator=torch.Generator().manual_seed(0))
    before = Target(job.network).true_logits(x)
    try:
        after = Target(load()).true_logits(x)
    except ValueError as error:
        raise UserError(f"{path} was written, and cannot be loaded again: {error}") from error
    spread = (before.amax(1) - before.amin(1)).max()
    if not (before - after).abs().max() <= CLOSE * spread:
        raise UserError(f"{path} was written, and loaded again it gives other logits; do not use it")


def _saved(path: Path, state: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    content = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return write_atomic(path, lambda file: file.write(save(content, {"format": "pt", **about})))


def _said(job: Job) -> dict[str, str]:
    """What the head of the file says of the network."""
    record = job.record
    said = {"arch": record.arch, "dataset": record.dataset, "run_id": record.run_id}
    return {own.EXPORTED: json.dumps(said, sort_keys=True)}


def _safetensors(job: Job) -> tuple[Path, str, Callable[[], nn.Module]]:
    path = _saved(job.out / folders.WEIGHTS, job.network.state_dict(), _said(job))
    return path, _use(job, folders.WEIGHTS), partial(_found, job, str(path))


def _huggingface(job: Job) -> tuple[Path, str, Callable[[], nn.Module]]:
    """Of timm's networks timm's layout, if what is around them has a place in it; of others ours."""
    inner, statistics = apart(job.network)
    record, timms = job.record, job.record.arch.startswith("timm:") and not isinstance(inner, Mapped)
    if timms:
        mean, std = statistics or ([0.0] * job.shape[0], [1.0] * job.shape[0])
        cfg: dict[str, Any] = {"mean": list(mean), "std": list(std), "input_size": record.image_shape}
        name = record.arch.partition(":")[2]
        config: dict[str, Any] = {"architecture": name, "num_classes": record.classes, "pretrained_cfg": cfg}
        config["model_args"] = {"in_chans": job.shape[0]}
    else:
        config = {"bench_arch": record.arch, "image_shape": record.image_shape, "num_classes": record.classes}
    _saved(job.out / folders.WEIGHTS, (inner if timms else job.network).state_dict(), {} if timms else _said(job))
    write_text(job.out / folders.CONFIG, json.dumps(config | {"dataset": record.dataset}, indent=1) + "\n")
    if models.is_own(record.arch):  # whose folder names code, which nobody runs
        return job.out, _use(job, folders.WEIGHTS), partial(_found, job, str(job.out / folders.WEIGHTS))
    how = f'import timm\nmodel = timm.create_model("local-dir:{job.out.name}", pretrained=True)   # wants x normalised'
    return job.out, how if timms else _use(job, f"hf:{job.out.name}"), partial(_found, job, f"hf:{job.out}")


def _robustbench(job: Job) -> tuple[Path, str, Callable[[], nn.Module]]:
    record = job.record
    inner, statistics = apart(job.network)
    threat, slash, name = job.name.rpartition("/")
    entry = zoo.entry(record.dataset, threat if slash else _norm(record), name or slug(record.training_id))
    if isinstance(inner, Mapped):
        raise UserError(f"{record.run_id} maps a larger head to {record.dataset}, for which the zoo has no place")
    state = zoo.state_of(entry, record.arch, inner.state_dict(), statistics)
    path = write_atomic(job.out / entry.file, lambda file: torch.save(state, file))
    about = {"name": entry.name, "dataset": entry.dataset, "threat": entry.threat}
    how = LOADER.format(**about, folder="models", entry="" if entry.ours else ENTRY.format(**about))
    if entry.ours:
        named = f"robustbench:{entry.dataset}/{entry.threat}/{entry.name}"
        return path, how, partial(_found, job, named, weights=path)
    return path, how, partial(_found, job, str(path), arch=record.arch)


def _program(job: Job) -> tuple[Path, str, Callable[[], nn.Module]]:
    path = job.out / "model.pt2"
    x = torch.rand(2, *job.shape, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                job.network, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=65536)},)
            )
            torch.export.save(program, content := io.BytesIO())
    except Exception as error:  # whatever the exporter cannot trace
        raise UserError(
            f"{job.record.run_id} cannot be exported as a program ({type(error).__name__}: {first_line(error)})"
        ) from error
    write_atomic(path, lambda file: file.write(content.getvalue()))
    c, h, w = job.shape
    return path, PROGRAM.format(c=c, h=h, w=w), lambda: torch.export.load(str(path)).module()


def _use(job: Job, model: str) -> str:
    return USE.format(model=model, shape=job.shape, classes=job.record.classes)


def _found(job: Job, model: str, arch: str | None = None, weights: Path | None = None) -> nn.Module:
    """The exported network, as a stranger finds it. arch: of a module:factory, whose code is trusted as it was here."""
    arch = job.record.arch if models.is_own(job.record.arch) else arch
    return own.find(model, own.About(arch=arch, weights=weights), job.shape, job.record.classes).make()


def _norm(record: RunRecord) -> str:
    """The norm of the threat that it was trained against, else Linf."""
    inner = record.settings.get("inner")
    norm = inner.get("norm") if isinstance(inner, dict) else None
    return norm if norm in zoo.THREATS else "Linf"
