"""Laws of `bench diagnose`: every planted defence is caught, by the checks that should; no honest network fails; each
check alone on made-up evidence; records, tables and exit codes.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import broken_defences
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from broken_defences import EPS, digits, planted
from hand_made import run_record
from honest_networks import linear
from slowly import slow

from attacks.contract import ThreatModel
from bench.commands.cli import main
from bench.diagnosis.diagnose import diagnose_model, threat_of
from bench.diagnosis.evidence import Witness, substitute
from bench.diagnosis.masking import CHECKS, findings
from bench.diagnosis.measured import Drift, Elsewhere, Evidence, Slope
from bench.diagnosis.neighbours import held_out
from bench.ground.config import UserError
from bench.ledger.diagnoses import Effort, Finding, read_diagnoses, trust_of
from bench.ledger.folder import Results
from bench.ledger.runs import write_run
from bench.subjects.catalog import Catalog
from bench.subjects.chosen import Choice
from bench.subjects.quick import quick

REAL = Path(os.environ.get("BENCH_DATA", ""))
EFFORT = Effort(few=5, steps=20, many=50, restarts=3, draws=20, queries=200, walk=50, epochs=4)
IMAGES = 60
MASKED_BY_FLATNESS = {"zero-gradients", "loss-rises", "square"}
FAILS = {  # at least these
    "temperature": {"zero-gradients", "loss-rises"},
    "temperature on AT": {"zero-gradients", "loss-rises"},
    "distillation": {"zero-gradients"},
    "quantisation": MASKED_BY_FLATNESS | {"true-slope", "half-the-range", "transfer", "boundary"},
    "quantisation on AT": {"zero-gradients", "loss-rises", "true-slope"},
    "dead ReLUs": MASKED_BY_FLATNESS,
    "noise": {"deterministic"},
    "state": {"deterministic"},
    "training mode": {"evaluation-mode"},
    "batch statistics": {"batch-independent"},
    "wrong gradient": {"true-slope", "square"},
    "no gradient": {"differentiable"},
    "softmax": {"logits"},
}

DAILY = ("dead ReLUs", "state", "training mode", "wrong gradient", "no gradient", "softmax")


def witness_of(network: torch.nn.Module, images: int = IMAGES, eps: float = EPS) -> Witness:
    """Of a network for digits, at the first test images."""
    judged = digits().test.head(images)
    return Witness(
        network,
        ThreatModel("Linf", eps),
        judged,
        digits().classes,
        effort=EFFORT,
        source=lambda: substitute(network, digits(), EFFORT.epochs, 0, torch.device("cpu")),
        others=held_out(digits(), judged),
    )


def examine(network: torch.nn.Module, images: int = IMAGES, eps: float = EPS) -> dict[str, Finding]:
    """The findings, by check."""
    return {finding.check: finding for finding in findings(witness_of(network, images, eps).gather())}


@cache
def examined(name: str) -> dict[str, Finding]:
    """The findings on a network of broken_defences."""
    return examine(planted(name))


def failed(found: dict[str, Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.verdict == "fail"}


@pytest.mark.parametrize("name", [*DAILY, *slow(name for name in broken_defences.BROKEN if name not in DAILY)])
def test_every_planted_defence_is_caught_by_the_checks_that_should(name):
    found = examined(name)
    assert list(found) == list(CHECKS)
    assert FAILS[name] <= failed(found), {n: f for n, f in found.items() if n in FAILS[name]}
    assert trust_of(found.values()).startswith("masked: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", broken_defences.HONEST)
def test_no_honest_network_fails(name):
    found = examined(name)
    assert not failed(found), {n: f for n, f in found.items() if f.verdict == "fail"}
    assert all(finding.verdict != "skip" for finding in found.values())


def test_every_check_fails_somewhere_or_is_tried_on_made_up_evidence():
    caught = set().union(*FAILS.values())
    assert caught | {case[0] for case in CASES} | {"sample"} == set(CHECKS)


# --- the checks alone -----------------------------------------------------------------------------------------------

N = 100
ALL = np.ones(N, dtype=bool)


def left(count: int) -> np.ndarray:
    """The first `count` of N images stand."""
    return np.arange(N) < count


def made(stands=(), **fields) -> Evidence:
    """Evidence on N images, all right; stands: attack -> how many of the first images stand, or [N] bool."""
    flags = {name: left(value) if isinstance(value, int) else value for name, value in dict(stands).items()}
    return Evidence(np.arange(N) % 10, ALL, flags, **fields)


def slope(rises: int, near: float, far: float) -> Slope:
    return Slope(left(rises), np.full(N, near), np.full(N, far))


WHITE = {"pgd-restarts": 50, "pgd-margin": 48, "pgd-targets": 48}
LAST = ~left(50)  # the other half: an attack that leaves these breaks what others leave
FEW = Evidence(np.zeros(20, dtype=np.int64), ALL[:20], {name: ALL[:20] for name in WHITE})


def on(*sets: tuple[np.ndarray, np.ndarray]) -> dict[str, list[Elsewhere]]:
    """Sets of other images, each clean and robust."""
    return {"other images": [Elsewhere(*pair) for pair in sets]}


SEEN_THROUGH = {"darker": Elsewhere(ALL, left(45))}
ONE_CHANGE_HURTS = {"moved": Elsewhere(ALL, left(9)), "darker": Elsewhere(ALL, left(80))}
CASES = [
    ("deterministic", made(repeated=Drift(0.0, 0)), "pass"),
    ("deterministic", made(repeated=Drift(1e-2, 0)), "fail"),
    ("deterministic", made(repeated=Drift(0.0, 0), state_changed=True), "fail"),
    ("deterministic", made(refused={"deterministic": "pgd changed the model"}), "fail"),
    ("batch-independent", made(regrouped=Drift(5e-4, 0)), "pass"),
    ("batch-independent", made(regrouped=Drift(5e-3, 0)), "fail"),
    ("zero-gradients", made(zero={"ce": left(0), "margin": left(0)}), "pass"),
    ("zero-gradients", made(zero={"ce": left(5), "margin": left(0)}), "warn"),
    ("zero-gradients", made(zero={"ce": left(20), "margin": left(0)}), "fail"),
    ("loss-rises", made(slope=slope(100, 1, 1)), "pass"),
    ("loss-rises", made(slope=slope(93, 1, 1)), "warn"),
    ("loss-rises", made(slope=slope(50, 1, 1)), "fail"),
    ("true-slope", made(slope=slope(100, 1.1, 1)), "pass"),
    ("true-slope", made(slope=slope(100, 0.7, 1)), "warn"),
    ("true-slope", made(slope=slope(100, -1.0, 1)), "fail"),
    ("true-slope", made(slope=slope(100, np.nan, 1)), "fail"),
    ("linearity", made(slope=slope(100, 1, 0.6)), "pass"),
    ("linearity", made(slope=slope(100, 1, -0.3)), "warn"),
    ("linearity", made(slope=slope(100, 1, np.nan)), "skip"),
    ("single-step", made({"fgsm": 52, "pgd": 50}), "pass"),
    ("single-step", made({"fgsm": 47, "pgd": 50}), "warn"),
    ("single-step", made({"fgsm": 40, "pgd": 50}), "fail"),
    ("more-steps", made({"pgd-few": 55, "pgd": 50, "pgd-many": 49}), "pass"),
    ("more-steps", made({"pgd-few": 40, "pgd": 50, "pgd-many": 49}), "fail"),
    ("more-steps", made({"pgd-few": 55, "pgd": 40, "pgd-many": 50}), "fail"),
    ("more-steps", made({"pgd-few": 55, "pgd": 50, "pgd-many": 42}), "warn"),
    ("more-steps", made({"pgd-few": 55, "pgd": 50, "pgd-many": 30}), "fail"),
    ("restarts", made({"pgd": 50, "pgd-restarts": 45}), "pass"),  # 5 points, but of 5 images only
    ("restarts", made({"pgd": 50, "pgd-restarts": 42}), "warn"),
    ("restarts", made({"pgd": 50, "pgd-restarts": 35}), "fail"),
    ("margin-loss", made({"pgd-restarts": 50, "pgd-margin": 45}), "pass"),
    ("margin-loss", made({"pgd-restarts": 50, "pgd-margin": 40}), "warn"),
    ("margin-loss", made({"pgd-restarts": 50, "pgd-margin": 20}), "fail"),
    ("larger-radius", made({"pgd": 50, "pgd-double": 20}), "pass"),
    ("larger-radius", made({"pgd": 50, "pgd-double": 60}), "fail"),
    ("half-the-range", made({"pgd-grey": 0}), "pass"),
    ("half-the-range", made({"pgd-grey": 10}), "warn"),
    ("half-the-range", made({"pgd-grey": 22}), "fail"),
    ("noise", made(WHITE | {"noise": 80}), "pass"),
    ("noise", replace(FEW, stands=FEW.stands | {"noise": left(19)[:20]}), "pass"),  # a single image never warns
    ("noise", made(WHITE | {"noise": 30}), "fail"),
    ("square", made(WHITE | {"square": 47}), "pass"),  # one image more
    ("square", made(WHITE | {"square": 46}), "warn"),
    ("square", made(WHITE | {"square": 38}), "fail"),
    ("square", made(WHITE | {"square": LAST}), "fail"),  # equally many images, but none of the same
    ("square", made(WHITE, without={"square": "not in L1"}), "skip"),
    ("transfer", made(WHITE | {"transfer": 60}), "pass"),
    ("transfer", made(WHITE | {"transfer": 20}), "fail"),
    ("boundary", made({"boundary": 50, "pgd-l2": 20, "pgd-l2-margin": 15, "ddn": 10}), "pass"),
    ("boundary", made({"boundary": 50, "pgd-l2": 90, "pgd-l2-margin": 80, "ddn": 90}), "fail"),
    ("boundary", made({"boundary": 50, "pgd-l2": 90, "pgd-l2-margin": 80, "ddn": 30}), "pass"),  # DDN alone finds them
    ("boundary", made({"boundary": 38, "pgd-l2": 90, "pgd-l2-margin": 80, "ddn": ~left(72)}), "pass"),  # 8 alone
    ("boundary", made({"boundary": LAST, "pgd-l2": 90, "pgd-l2-margin": 90, "ddn": 30}), "warn"),  # 30 alone
    ("neighbours", made({"pgd-few": 50}), "skip"),
    ("neighbours", made({"pgd-few": 50}, others=on((ALL, left(36)))), "pass"),
    ("neighbours", made({"pgd-few": 50}, others=on((ALL, left(28)))), "warn"),
    ("neighbours", made({"pgd-few": 50}, others=on((ALL, left(15)))), "fail"),
    ("neighbours", made({"pgd-few": 50}, others=on((left(60), left(50)))), "fail"),
    ("neighbours", made({"pgd-few": 50}, others=on((ALL, left(15)), (ALL, left(45)))), "pass"),  # it takes both sets
    ("neighbours", made({"pgd-few": 90}, others=on((ALL, left(75))), changed=SEEN_THROUGH), "fail"),  # warned twice
    ("neighbours", made({"pgd-few": 9}, others=on((left(96), left(2)))), "pass"),
    ("neighbours", made({"pgd-few": 90}, changed={"darker": Elsewhere(ALL, left(55))}), "pass"),
    ("neighbours", made({"pgd-few": 90}, changed={"darker": Elsewhere(ALL, left(45))}), "warn"),
    ("neighbours", made({"pgd-few": 90}, changed={"darker": Elsewhere(ALL, left(9))}), "fail"),
    ("neighbours", made({"pgd-few": 90}, changed={"moved": Elsewhere(left(60), left(9))}), "skip"),
    ("neighbours", made({"pgd-few": 90}, changed=ONE_CHANGE_HURTS), "pass"),
    ("memory", made(repeated=Drift(0.0, 0), unseen=Drift(0.0, 0)), "pass"),
    ("memory", made(repeated=Drift(0.0, 0), unseen=Drift(0.5, 9)), "fail"),
    ("memory", made(repeated=Drift(0.0, 0), unseen=Drift(np.nan, 9)), "fail"),
    ("memory", made(repeated=Drift(0.1, 0), unseen=Drift(0.5, 9)), "skip"),  # it moves anyway
    ("memory", made(without={"memory": "the model cannot be copied"}), "skip"),
    ("sample", made(), "pass"),
    ("sample", FEW, "warn"),
    ("sample", replace(made(), right=left(30)), "pass"),  # a weak network can lose no more than what it has
    ("sample", replace(made(), right=left(7)), "warn"),
    ("logits", made(refused={"logits": "probabilities"}), "fail"),
    ("differentiable", made(refused={"logits": "probabilities"}), "skip"),
    ("evaluation-mode", made(refused={"logits": "probabilities"}), "pass"),
    ("differentiable", made(refused={"deterministic": "pgd changed the model"}), "pass"),
]


@pytest.mark.parametrize("check, evidence, verdict", CASES)
def test_a_check_on_made_up_evidence(check, evidence, verdict):
    said, figure, meaning = CHECKS[check](evidence)
    assert said == verdict, figure
    assert figure and meaning


def test_figures_are_those_of_the_evidence():
    assert CHECKS["square"](made(WHITE | {"square": 38}))[1] == (
        "square leaves 38.0%, pgd-restarts with pgd-margin with pgd-targets 48.0% of 100 images; "
        "square alone breaks 10 (p = 0.002)"
    )


def test_a_gap_that_noise_makes_is_no_failure():
    """Two attacks that each break every image with the same chance, independently: far apart by luck at most."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        before, after = rng.random((2, N)) < 0.5
        verdicts.append(CHECKS["restarts"](made({"pgd": before, "pgd-restarts": after}))[0])
    assert verdicts.count("pass") >= 0.98 * len(verdicts)


@pytest.mark.slow
def test_pgd_in_l1_is_not_weaker_than_one_step():
    """On 64 values. With 5 to 20 of them a step, as on CIFAR-10, FGSM alone breaks images: honest ones are doubted."""
    threat, effort = ThreatModel("L1", 1.25), replace(TINY, steps=50)
    witness = Witness(planted("at"), threat, digits().test.head(60), 10, effort=effort, source=lambda: linear())
    stands = witness.gather().stands
    assert stands["pgd"].sum() < stands["fgsm"].sum() and witness._pgd(threat, 50).l1_pixels == (1, 1)


def test_the_worst_finding_gives_the_trust():
    def found(*verdicts):
        return [Finding(f"c{n}", verdict, "f", "m") for n, verdict in enumerate(verdicts)]

    assert trust_of(found("pass", "skip")) == "ok"
    assert trust_of(found("pass", "warn", "warn")) == "doubtful: c1, c2"
    assert trust_of(found("warn", "fail")) == "masked: c1"


# --- evidence -------------------------------------------------------------------------------------------------------


NEAR = ThreatModel("Linf", 0.03)
TINY = Effort(few=2, steps=6, many=12, restarts=2, draws=2, queries=10, walk=5, epochs=1)


def witness(network: torch.nn.Module, threat: ThreatModel = NEAR) -> Witness:
    return Witness(network, threat, digits().test.head(12), 10, effort=TINY, source=lambda: linear(), seed=0)


@pytest.mark.parametrize("norm, eps", [("Linf", 0.03), ("L2", 0.2), ("L1", 1.0)])
def test_the_slope_of_a_linear_model_is_exact_and_every_attack_is_noted(norm, eps):
    evidence = witness(linear(), ThreatModel(norm, eps)).gather()
    assert evidence.slope.rises.all() and not evidence.refused
    assert evidence.slope.near == pytest.approx(np.ones(len(evidence.slope.near)), abs=0.15)
    assert evidence.repeated == Drift(0.0, 0) and evidence.regrouped.largest < 1e-5
    attacks = {"fgsm", "pgd-few", "pgd", "pgd-many", "pgd-restarts", "pgd-margin", "pgd-double", "pgd-grey", "noise"}
    attacks |= {"pgd-targets"}
    attacks |= {"boundary", "pgd-l2", "pgd-l2-margin", "ddn", "transfer"} | ({"square"} if norm != "L1" else set())
    assert set(evidence.stands) == attacks and set(evidence.without) == ({"square"} if norm == "L1" else set())
    assert not evidence.stands["pgd-double"][~evidence.stands["pgd"]].any(), "a linear model, a larger ball"
    lone = evidence.stands["ddn"] & ~evidence.stands["boundary"]
    assert not lone.any() and evidence.stands["boundary"].any(), "on a linear model gradients go the shortest way"


def test_the_same_seed_gives_the_same_evidence_in_any_batch():
    first, second = (witness(linear()) for _ in range(2))
    second.batch_size = 5
    one, two = first.gather(), second.gather()
    assert all((one.stands[name] == two.stands[name]).all() for name in one.stands)
    assert first.cost.forward_passes == second.cost.forward_passes > 0


def test_a_model_that_is_never_right_is_no_success():
    network = linear()
    images = digits().test.head(12)
    with torch.no_grad():
        wrong = (network(images.x).argmin(1)).long()
    images = replace(images, y=wrong)
    gathered = Witness(network, ThreatModel("Linf", 0.03), images, 10, effort=TINY, source=lambda: linear()).gather()
    found = {finding.check: finding.verdict for finding in findings(gathered)}
    assert found["sample"] == "warn" and found["boundary"] == found["zero-gradients"] == "skip"


def test_a_bad_source_is_the_users_mistake_and_not_the_models():
    one = witness(linear())
    one.source = lambda: torch.nn.Sequential(linear(), torch.nn.Softmax(1)).eval()
    with pytest.raises(UserError, match=r"craft on.*probabilities"):
        one.gather()


def test_batch_norm_without_statistics_is_not_folded():
    network = planted("batch statistics")
    assert quick(network, digits().test.x[:8]) is network


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with models of one's own."""
    (tmp_path / "own_digits.py").write_text(
        "import torch\nfrom test_diagnose import linear\n"
        "def honest():\n    return linear()\n"
        "def soft():\n    return torch.nn.Sequential(linear(), torch.nn.Softmax(1))\n"
        "def numpy():\n    return Numpy()\n"
        "class Numpy(torch.nn.Module):\n"
        "    def forward(self, x):\n        return linear()(torch.from_numpy(x.numpy().round(1)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("bench.diagnosis.diagnose.Effort", lambda: TINY)
    return tmp_path / "results"


def test_a_forward_pass_through_numpy_is_not_differentiable(own, capsys):
    code = main(["diagnose", "own_digits:numpy", "--eps", "0.03", "--images", "20", "--results", str(own)])
    out, err = capsys.readouterr()
    assert code == 1, err
    assert re.search(r"^fail  differentiable +it fails where gradients are asked for \(", out, re.M), out


def test_the_command_prints_a_line_per_check_writes_a_record_and_exits_with_0(own, capsys):
    code = main(["diagnose", "own_digits:honest", "--eps", "0.03", "--images", "80", "--results", str(own)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert [line.split()[1] for line in out.splitlines()[1 : 1 + len(CHECKS)]] == list(CHECKS)
    (path,) = own.glob("diagnoses/own-digits-*/linf-0.03.json")
    (record,) = read_diagnoses(Results(own), path.parent.name)
    assert f"trust: {record.verdict}" in out and str(path) in out
    assert record.trust == "ok" and record.verdict.startswith(
        "not diagnosed with all checks (with less than the usual few"
    )
    assert record.images == 80 and record.settings["walk"] == TINY.walk and record.cost.backward_passes > 0


def test_the_command_exits_with_1_where_a_check_fails(own, capsys):
    code = main(["diagnose", "own_digits:soft", "--eps", "8/255", "--results", str(own)])
    out = capsys.readouterr().out
    assert code == 1 and "trust: masked: logits" in out and "probabilities" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["own_digits:honest"], "--eps 8/255"),
        (["own_digits:honest", "--eps", "8"], "8/255"),
        (["own_digits:honest", "--eps", "0"], "above 0"),
        (["own_digits:honest", "--eps", "0.1", "--norm", "L0"], "known: L1, L2, Linf"),
        (["own_digits:honest", "--eps", "0.1", "--norm", "L3"], "unknown norm"),
        (["own_digits:honest", "--eps", "0.1", "--images", "9999"], "there are 450"),
        (["no-such-run", "--eps", "0.1"], "no registered run"),
        (["own_digits:honest", "--eps", "0.1", "--source", "own_digits:soft"], "craft on"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, own, capsys):
    code = main(["diagnose", *arguments, "--results", str(own)])
    lines = capsys.readouterr().err.strip().splitlines()
    err = [line for line in lines if not line.startswith("bench: running the code of own_digits:")]
    assert code == 2 and len(err) == 1 and re.search(message, err[0]), lines


def test_a_registered_run_has_the_radius_of_its_training(own, tmp_path):
    from bench.running.recipe import train_recipe
    from bench.running.table import Options

    quick = ("at-digits.schedule.epochs=1", "at-digits.inner.steps=1", "at-digits.inner.eps=0.02")
    run_id = train_recipe("at-digits", Options(Results(own), arch="cnn-a", assignments=quick))[0]
    chosen = Choice(run_id, Results(own), images=10)
    record, _ = diagnose_model(chosen, effort=TINY)
    assert (record.run_id, record.norm, record.eps, record.dataset) == (run_id, "Linf", 0.02, "digits")
    assert diagnose_model(chosen, eps=0.2, norm="L2", effort=TINY)[0].norm == "L2"
    with pytest.raises(UserError, match="--eps"):
        diagnose_model(chosen, norm="L2", effort=TINY)


def test_a_run_of_several_norms_has_those_of_its_network(tmp_path):
    """of mat-max: network 0 withstands all, the others one norm each."""
    recipe, results = Catalog().recipe("mat-max-digits"), Results(tmp_path)
    for label, member in (("h1-best", 0), ("h3-best", 2)):
        run_id = f"mat-mp-digits-s0-aaaaaaaa.{label}"
        record = replace(
            run_record(run_id), trainer=recipe.trainer_name, settings=recipe.resolved("cnn-small")["settings"]
        )
        write_run(results, replace(record, member=member))
    threats = {
        (label, norm): threat_of(Choice(f"mat-mp-digits-s0-aaaaaaaa.{label}", results), None, norm)
        for label, norm in (("h1-best", None), ("h1-best", "L1"), ("h3-best", None))
    }
    assert list(threats.values()) == [ThreatModel("Linf", 0.15), ThreatModel("L1", 1.25), ThreatModel("L2", 0.36)]
    with pytest.raises(UserError, match="--eps"):
        threat_of(Choice("mat-mp-digits-s0-aaaaaaaa.h3-best", results), None, "L1")


# --- real checkpoints -----------------------------------------------------------------------------------------------


def few_rows(dataset: str, folder: Path) -> Path:
    """The first rows of a data set in its own format: decoding all of CIFAR-10 takes longer than a diagnosis."""
    (folder / dataset).mkdir()
    for part, count in (("train", 4000), ("test", 100)):
        shard = next((REAL / dataset).glob(f"{part}-00000-of-*.parquet"))
        pq.write_table(pq.read_table(shard).slice(0, count), folder / dataset / f"{part}-00000-of-00001.parquet")
    return folder


@pytest.mark.skipif(not (REAL / "checkpoints").is_dir(), reason="needs BENCH_DATA with the published checkpoints")
@pytest.mark.parametrize(
    "file, dataset, eps, normalize",
    [
        (
            "cifar10_cnn_a_adv.pt",
            "cifar10",
            2 / 255,
            ((125.3 / 255, 123 / 255, 113.9 / 255), (63 / 255, 62.1 / 255, 66.7 / 255)),
        ),
        ("mnist_wk17a_linf0.1.pt", "mnist", 0.1, (None, None)),
    ],
)
def test_no_published_checkpoint_fails(file, dataset, eps, normalize, tmp_path):
    mean, std = normalize
    choice = Choice(
        str(REAL / "checkpoints" / file),
        Results(tmp_path / "results"),
        dataset=dataset,
        arch="cnn-a",
        data_dir=few_rows(dataset, tmp_path),
        images=100,
        mean=mean,
        std=std,
    )
    record, lines = diagnose_model(choice, eps=eps, effort=replace(EFFORT, epochs=2))
    assert not record.trust.startswith("masked"), lines
