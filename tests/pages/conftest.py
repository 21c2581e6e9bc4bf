"""For tests of pages: a study without physics, as if it were the book's."""

from pathlib import Path

import pytest

from tangents import studies

TOYS = Path(__file__).resolve().parents[1] / "studies"


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The toy as a study of the book, with stores of its own; its figures are those of tests."""
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(TOYS)])
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("TANGENTS_RUNS", str(tmp_path / "runs"))
    return tmp_path
