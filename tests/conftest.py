"""For all tests: shapes and types are checked at run time, one torch thread, repeatable draws.

Without beartype, as on a machine that has a GPU and no network, nothing is checked at run time.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import config as typing
from jaxtyping import install_import_hook

ENGINE = Path(__file__).resolve().parents[1] / "src" / "tangents"
checked = [f"tangents.{path.stem}" for path in ENGINE.glob("[!_]*.py")]
if find_spec("beartype"):  # before any import of the package
    install_import_hook([*checked, "tangents._ntk"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=20)
settings.load_profile("repeatable")


def pytest_configure(config):
    # PyTorch itself uses what it deprecates, at the first forward-mode derivative.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script`:DeprecationWarning")


@pytest.fixture
def unchecked():
    """Turns the run-time check of shapes off: what a user sees, and faster for long loops."""
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
