"""The package as it is installed: the engine by itself, with the few packages that it needs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "myst-nb": "myst_nb"}
ENGINE = sorted(path.stem for path in (ROOT / "src" / "tangents").glob("[!_]*.py"))
BLOCKED = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *more):
        there = name.partition(".")[0] not in {blocked!r}
        return self.finder.find_spec(name, *more) if there else None
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def named(requirements):
    names = (re.match(r"[\w-]+", each)[0] for each in requirements if "tangents[" not in each)
    return {MODULES.get(name, name) for name in names}


def without_extras(code):
    """What Python says to this code where none of the packages of `lab` and `book` is there."""
    blocked = {*named(EXTRAS["lab"] + EXTRAS["book"]), "IPython"}
    words = [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_engine_works_by_itself():
    code = """
import importlib, torch, tangents
from torch import nn
for name in {names!r}:
    importlib.import_module(f"tangents.{{name}}")
net = nn.Linear(3, 2)
params = {{k: v.detach() for k, v in net.named_parameters()}}
x = torch.randn(4, 3)
print(tuple(tangents.ntk(net, params, x, outputs="trace").shape))
print(*(getattr(tangents, name).__name__ for name in tangents.__all__))
"""
    found = without_extras(code.format(names=[name for name in ENGINE if name != "svm"]))
    assert found.stdout.startswith("(4, 4)\nJacobian NTKFeatures"), found.stderr


def test_a_kernel_on_disk_needs_nothing_more(tmp_path):
    code = f"""
import torch, tangents
net = torch.nn.Linear(3, 2)
params = {{k: v.detach() for k, v in net.named_parameters()}}
path = {str(tmp_path / "k.npy")!r}
print(tangents.ntk_on_disk(path, net, params, torch.randn(4, 3), progress=False).shape)
"""
    found = without_extras(code)
    assert found.stdout == "(4, 4)\n", found.stderr


@pytest.mark.parametrize("words", ["claims lazy", "table lazy", "plot lazy headline", "audit lazy"])
def test_a_command_that_lacks_a_package_says_in_one_line_which(words):
    code = f"import tangents.__main__ as m; sys.exit(m.main({words.split()!r}))"
    found = without_extras(code)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1, found.stderr
    assert "No module named" in found.stderr and "tangents[book]" in found.stderr


def test_help_needs_nothing_more():
    found = without_extras("import tangents.__main__ as m; m.main(['--help'])")
    assert found.returncode == 0 and "measure" in found.stdout, found.stderr


def test_what_is_pinned_is_what_is_needed():
    pinned = {
        re.match(r"[\w-]+", line)[0].lower()
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    needed = PROJECT["dependencies"] + EXTRAS["lab"] + EXTRAS["book"]
    names = {re.match(r"[\w-]+", each)[0] for each in needed if "tangents[" not in each}
    assert names <= pinned


def test_types_are_shipped():
    assert (ROOT / "src" / "tangents" / "py.typed").is_file()
