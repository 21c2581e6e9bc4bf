"""Published tables can be turned back into the runs that they were made of."""

import pytest

from tangents.lab.audit import restore
from tangents.lab.store import ResultsError, Store, publish
from tangents.lab.study import expand
from tangents.lab.sweep import sweep
from tests.toy import STUDY


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "results"))
    store = Store(tmp_path / "runs")
    sweep(STUDY, expand(STUDY, "smoke"), store, progress=False)
    return store, publish(STUDY, "smoke", store)


def test_restored_runs_publish_to_the_same_bytes(results, tmp_path):
    _, path = results
    table, arrays = path.read_bytes(), path.with_suffix(".npz").read_bytes()
    store = Store(tmp_path / "restored")
    assert {*restore(STUDY, "smoke", store)} == {*expand(STUDY, "smoke")}
    again = publish(STUDY, "smoke", store, tmp_path / "again")
    assert again.read_bytes() == table
    assert again.with_suffix(".npz").read_bytes() == arrays


def test_runs_in_the_store_are_kept(results):
    store, _ = results
    assert restore(STUDY, "smoke", store) == []


def test_nothing_published(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path))
    with pytest.raises(ResultsError, match="not published"):
        restore(STUDY, "smoke", Store(tmp_path / "runs"))
