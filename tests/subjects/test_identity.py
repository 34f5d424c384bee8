"""Which model it is: the same weights in other code are another; what is run is found."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.commands.cli import main
from bench.ledger.folder import Results
from bench.subjects import models
from bench.subjects.chosen import Choice
from bench.subjects.fingerprint import fingerprint

NETWORK = """
import torch
from torch import nn
{before}

class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
    def forward(self, x):
        return {forward}


def make():
    net = Net()
    {after}
    return net

{more}
"""
PLAIN = {"before": "", "forward": "super().forward(x)", "after": "pass", "more": ""}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, where nothing is imported yet; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, name: str = "zoo", **changes: str) -> None:
    """A module with a factory `make`; what was imported under its name is forgotten, as in another process."""
    (folder / f"{name}.py").write_text(NETWORK.format(**PLAIN | changes))
    for loaded in [one for one in sys.modules if one.partition(".")[0] in (name, "front")]:
        del sys.modules[loaded]


def identity(folder: Path, model: str = "zoo:make", **given) -> tuple[str, str]:
    """(run id, hash) of a model."""
    choice = Choice(model, Results(folder / "results"), dataset="digits", device="cpu", **given)
    (subject,) = choice.subjects(choice.load(), torch.device("cpu"))
    return subject.run_id, subject.weights_sha256


DIFFERENT = {
    "another forward": {"forward": "super().forward(x.round())"},
    "a hook": {"after": "net.register_forward_pre_hook(lambda module, given: (given[0].round(),))"},
    "an attribute": {"after": "net.sigma = 0.5"},
    "a tensor that is no buffer": {"after": "object.__setattr__(net, 'mean', torch.ones(3))"},
    "a forward put on the network": {"after": "net.forward = lambda x: net[1](x.round().flatten(1))"},
    "a function that the forward calls": {"before": "from front import clean", "forward": "super().forward(clean(x))"},
    "a setting of a layer": {"after": "net.append(nn.Threshold(0.5, 0.0))"},
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_the_same_weights_in_other_code_are_another_model(change, here):
    (here / "front.py").write_text("def clean(x):\n    return x\n")
    write(here)
    plain = identity(here)
    assert plain == identity(here), "the same model is the same twice"
    write(here, **DIFFERENT[change])
    other = identity(here)
    assert other[0] != plain[0] and other[1] != plain[1]


def test_what_imported_functions_do_and_what_layers_and_closures_hold_is_the_models(here, monkeypatch):
    found = set()
    for shift, p, held in (("x", 0.1, 1), ("x + 0.1", 0.1, 1), ("x", 0.2, 1), ("x", 0.1, 2)):
        (here / "front.py").write_text(f"def clean(x):\n    return {shift}\n")
        monkeypatch.setenv("HELD", str(held))
        hold = "import os\n    held = int(os.environ['HELD'])\n    net.register_forward_hook(lambda m, x, z: z * held)"
        write(here, before="import front", forward=f"super().forward(front.clean(x)) + 0 * {p}", after=hold)
        found.add(identity(here))
    assert len(found) == 4


def test_two_factories_of_one_module_are_two_models_with_two_records(here, capsys):
    more = "class Rounded(Net):\n    def forward(self, x):\n        return super().forward(x.round())\n"
    write(here, more=more + "\n\ndef other():\n    return Rounded()\n")
    Path("house").mkdir()
    Path("zoo.py").rename("house/zoo.py")
    for factory in ("make", "other"):
        assert main(["attack", f"house.zoo:{factory}", "fgsm-digits", "--images", "20", "--results", "results"]) == 0
    assert len(list(Path("results/evals").glob("*/*.parquet"))) == 2
    given = [
        "--images",
        "20",
        "--results",
        "results",
        "--set",
        "pgd-100-last-digits.steps=2",
        "--source",
        "house.zoo:other",
    ]
    capsys.readouterr()
    assert main(["attack", "house.zoo:make", "pgd-100-last-digits", *given]) == 0
    source, judged = re.search(r"crafted on (\S+), judged on (\S+)", capsys.readouterr().out).groups()
    assert source != judged and source.startswith("house-zoo-other-") and judged.startswith("house-zoo-make-")


def test_code_without_source_is_told_apart_by_its_answers(here):
    """The class comes from a text that no module holds."""
    write(
        here,
        before="from pathlib import Path",
        more="exec(Path('hidden').read_text())\n\n\ndef hidden():\n    return Hidden()\n",
    )
    found = []
    for inner in ("x", "x.round()", "x"):
        body = f"    def forward(self, x):\n        return super().forward({inner})\n"
        Path("hidden").write_text(f"class Hidden(Net):\n{body}")
        sys.modules.pop("zoo", None)
        found.append(identity(here, "zoo:hidden"))
    assert found[0] == found[2] != found[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_network_is_told_apart_by_its_code(here):
    """Both have the weights of one layer, and no class that says what is done with them."""
    found = []
    write(here, more="def scripted():\n    return torch.jit.load('net')\n")
    for rounded in (False, True):
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(64, 10)]).requires_grad_(False)

        class Inner(nn.Module):
            def __init__(self, layers=layers) -> None:
                super().__init__()
                self.layers = layers

            def forward(self, x: torch.Tensor, rounded: bool = rounded) -> torch.Tensor:
                return self.layers[0]((x.round() if rounded else x).flatten(1))

        torch.jit.trace(Inner().eval(), torch.rand(2, 1, 8, 8)).save("net")
        found.append(identity(here, "zoo:scripted"))
    assert found[0] != found[1]


def test_a_record_of_another_model_is_not_overwritten(here, capsys):
    """What no hash sees: the network reads a file when it is asked."""
    reads = "super().forward(x) * float(Path('sign').read_text())"
    write(here, before="from pathlib import Path", forward=reads)
    command = ["attack", "zoo:make", "fgsm-digits", "--images", "20", "--results", "results"]
    Path("sign").write_text("1")
    assert main(command) == main(command) == 0, "the same model may be judged again"
    (path,) = Path("results/evals").glob("*/*.parquet")
    before = path.read_bytes()
    Path("sign").write_text("-1")
    assert main(command) == 2 and "is of another model of the same name" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_weights_of_our_own_architectures_keep_their_id(here):
    network = models.create("cnn-small", (1, 8, 8), 10, seed=0)
    torch.save(network.state_dict(), "weights.pt")
    assert identity(here, "weights.pt", arch="cnn-small") == (
        f"weights-{fingerprint(network)[:8]}.last",
        fingerprint(network),
    )


@pytest.mark.parametrize(
    "model, files, message",
    [
        ("gone:make", {}, "there is no module 'gone', neither in the current folder"),
        ("zoo.py:make", {"zoo": ""}, "write it as Python does, zoo:make"),
        ("./zoo:make", {"zoo": ""}, "is no module; write it as Python does, zoo:make"),
        ("needs:make", {"needs": "import not_there"}, "needs needs the module 'not_there', which is not installed"),
        ("half:make", {"half": "def make(:"}, "importing half raises SyntaxError: "),
        ("breaks:make", {"breaks": "1 / 0"}, "importing breaks raises ZeroDivisionError: division by zero"),
        ("pkg.zoo:make", {"pkg": ""}, "there is no module 'pkg.zoo'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_sentence(model, files, message, here, capsys):
    for name, text in files.items():
        (here / f"{name}.py").write_text(textwrap.dedent(text))
    assert main(["attack", model, "fgsm-digits", "--results", "results"]) == 2
    assert message in capsys.readouterr().err
