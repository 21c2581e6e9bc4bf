"""For all tests: shapes and types are checked at run time, one torch thread, repeatable draws."""

from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import config as typing
from jaxtyping import install_import_hook

ENGINE = Path(__file__).resolve().parents[1] / "src" / "tangents"
checked = [f"tangents.{path.stem}" for path in ENGINE.glob("[!_]*.py")]
hook = install_import_hook([*checked, "tangents._ntk"], "beartype.beartype")  # before any import

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
