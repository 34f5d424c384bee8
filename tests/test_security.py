"""What SECURITY.md promises: no input is code, no path leaves the results folder, nothing in HTML is markup."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hand_made import fill, plan_2x2, run_record
from safetensors.torch import save_file

from attacks.adapters.torchattacks import TorchAttacks
from attacks.contract import ThreatModel
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ground.files import dump
from bench.ledger.folder import Results
from bench.ledger.plan import write_plan
from bench.ledger.runs import RunRecord, read_run, write_run
from bench.ledger.spec import Column
from bench.subjects import models, registry
from bench.tables import report
from bench.tables.cells import table

ROOT = Path(__file__).parents[1]
FILES = [path for room in ("attacks", "trainers", "bench") for path in sorted((ROOT / room).rglob("*.py"))]
# module:factory, which says so, and libraries, by names that stand in the code
IMPORTERS = {"bench/subjects/factories.py", "attacks/adapters/__init__.py"}
IMPORTERS |= {"bench/subjects/outside.py"}  # module:name, and entry points of installed packages
IMPORTERS |= {"bench/subjects/hubs.py", "bench/subjects/zoo.py", "bench/__init__.py"}  # names that stand there
CODE = {"eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module", "os.system", "os.popen"}
CODE |= {f"{module}.{name}" for module in ("pickle", "marshal", "dill", "joblib") for name in ("load", "loads")}
CODE |= {"shelve.open", "yaml.load", "pd.read_pickle", "pandas.read_pickle", "importlib.reload"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a file."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), node) for node in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_input_is_code(path):
    for name, call in calls(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in CODE, f"{path}:{call.lineno}: {name}"
        assert name != "torch.load" or given.get("weights_only") == "True", f"{path}:{call.lineno}"
        assert not name.endswith(("np.load", "numpy.load")) or given.get("allow_pickle", "False") == "False"
        assert given.get("shell", "False") == "False", f"{path}:{call.lineno}: a shell"
        if name.endswith("import_module"):
            assert str(path.relative_to(ROOT)) in IMPORTERS, f"{path}:{call.lineno}"


def test_a_factory_runs_and_says_so_on_standard_error(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    command = [sys.executable, "-m", "bench", "attack", "mine:make", "clean", "--images", "5", "--results", "results"]
    path = f"{ROOT}:{tmp_path}"
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "bench: running the code of mine:make\n", done.stderr


# --- records ----------------------------------------------------------------------------------------------------------

RUN = "at-digits-mine-s0-aaaaaaaa.best"


def registered(results: Results, tmp_path: Path, **changes: object) -> RunRecord:
    """A record of cnn-a on digits with these changes, and its weights."""
    record = replace(run_record(RUN), arch="cnn-a", **changes)
    results.training(record.training_id).mkdir(parents=True)
    network = models.create("cnn-a", (1, 8, 8), 10, seed=0)
    return registry.register(results, network.state_dict(), record)


def test_a_record_does_not_decide_what_code_runs(tmp_path, capsys, monkeypatch):
    """Its architecture is a module:factory that leaves a trace when it is imported."""
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\nfrom bench.subjects.models import cnn_a as make\nPath('sprung').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    results = Results(tmp_path / "results")
    write_run(results, replace(registered(results, tmp_path), arch="trap:make"))
    command = ["attack", RUN, "clean", "--dataset", "digits", "--images", "5", "--results", str(results.root)]
    assert main(command) == 2
    assert "if you trust it, say so with --arch trap:make" in capsys.readouterr().err
    assert not Path("sprung").exists() and "trap" not in sys.modules
    assert main([*command, "--arch", "trap:make"]) == 0 and Path("sprung").exists()
    verify = ["verify", RUN, "--results", str(results.root)]
    assert main(verify) == 2
    assert "if you trust it, say so with --arch trap:make" in capsys.readouterr().err
    assert main([*verify, "--arch", "trap:make"]) == 0


def test_an_ensemble_of_ones_own_code_loads_with_the_arch_that_the_message_names(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("from bench.subjects.models import cnn_a as make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    results = Results(tmp_path / "results")
    record = registered(results, tmp_path)
    states = [models.create("cnn-a", (1, 8, 8), 10, seed).state_dict() for seed in range(2)]
    registry.register(results, models.ensemble_state(states), replace(record, arch="mine:make+mine:make"))
    command = ["attack", RUN, "clean", "--dataset", "digits", "--images", "5", "--results", str(results.root)]
    assert main(command) == 2
    arch = capsys.readouterr().err.strip().rpartition("--arch ")[2]
    assert arch == "mine:make+mine:make" and main([*command, "--arch", arch]) == 0


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "best.pt", "last.safetensors", ""])
def test_a_record_does_not_decide_what_file_is_read(name, tmp_path):
    """Not even one whose seal is right."""
    results = Results(tmp_path)
    record = registered(results, tmp_path)
    forged = object.__new__(RunRecord)
    forged.__dict__.update(vars(record) | {"weights_file": name})
    with pytest.raises(UserError, match="is not the run's own safetensors file"):
        dump(results.run(RUN), forged)
    path = results.run(RUN)
    path.write_text(path.read_text().replace('"best.safetensors"', f'"{name}"'))
    with pytest.raises(UserError, match="is not the run's own safetensors file"):
        read_run(results, RUN)


def test_weights_are_read_only_with_their_hash(tmp_path):
    results = Results(tmp_path)
    record = registered(results, tmp_path)
    other = models.create("cnn-a", (1, 8, 8), 10, seed=1)
    save_file(other.state_dict(), registry.weights_path(results, record))
    with pytest.raises(UserError, match="is not the file that was registered"):
        registry.load(results, RUN)


# --- HTML -------------------------------------------------------------------------------------------------------------

EVIL = "<script>alert('x')</script><img src=x onerror=\"y()\">&"


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}


def test_html_escapes_everything(tmp_path):
    """Every text of a plan and of its records is hostile; the page has the same tags as without."""
    results = Results(tmp_path)
    plan = plan_2x2(more=[Column(EVIL, "ddn"), Column("worst" + EVIL, union=("C&W", EVIL))])
    fill(plan, results, {("AT", "Clean"): [True] * 4, ("AT", "C&W"): [True] * 4, ("AT", EVIL): [True] * 4})
    texts = dict.fromkeys(("title", "source", "note", "arch", "dataset", "reference"), EVIL)
    budgets = dict.fromkeys(plan.budgets, EVIL)
    recipes = {EVIL: {"trainer": EVIL, "settings": {"schedule": {"epochs": EVIL}}, "teacher": {"name": EVIL}}}
    cells = [replace(cell, recipe=EVIL) for cell in plan.cells]
    hostile = replace(plan, **texts, budgets=budgets, recipes=recipes, cells=cells)
    for cell in plan.cells[:1]:
        write_run(results, run_record(cell.run_id, health=[EVIL]))
    page = report.render(hostile, table(hostile, results), "html")
    plain = report.render(plan_2x2(), table(plan_2x2(), results), "html")
    assert "alert" in page and Tags(page).found == Tags(plain).found
    assert "<script" not in page and "<img" not in page


# --- without torchattacks ---------------------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["torchattacks"] = None
from bench.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where importing torchattacks fails, as where it is not installed."""
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_everything_but_its_attacks_works_without_torchattacks(tmp_path):
    assert without("list", "attacks").returncode == 0
    (tmp_path / "own.toml").write_text(
        '[attacks.theirs]\nattack = "torchattacks"\nname = "PGD"\nthreat = { norm = "Linf", eps = "8/255" }\n'
    )
    own = ["--recipes", str(tmp_path / "own.toml"), "--results", str(tmp_path)]
    done = without("attack", "a:b", "theirs", *own)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "torchattacks is not installed; `pip install torchattacks` adds its attacks" in done.stderr


def test_a_library_that_is_there_but_broken_is_not_called_missing(monkeypatch):
    """What it needs is missing: that is what the message must say."""
    from attacks.adapters import library

    for name in [name for name in sys.modules if name.split(".")[0] == "torchattacks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchattacks.attack", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchattacks\.attack"):
        library("torchattacks")
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ValueError, match="torchattacks is not installed"):
        TorchAttacks(ThreatModel("Linf", 0.1), "PGD")


@pytest.mark.parametrize("file", ["/etc/passwd", "../secret.csv", "sub/secret.csv", ".."])
def test_a_plan_names_no_file_elsewhere(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]):
    """The published numbers of a stranger's plan lie beside the others, or nowhere."""
    plan = replace(plan_2x2(), reference=f"{file}:2")
    fill(plan, Results(tmp_path), {})
    write_plan(Results(tmp_path), plan)
    assert main(["check", "--paper", "--results", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert not captured.out and f"{file!r} is no id" in captured.err
