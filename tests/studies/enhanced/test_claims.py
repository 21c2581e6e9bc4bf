"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import pandas as pd
import pytest

from tangents.studies.enhanced.claims import CLAIMS
from tests.studies.judging import entry_of

BASE = dict(source="uci", n=0, trees=200, shuffled=False, mixed=False, seed=0)
HOW = ("published", "nested", "seen", "folds", "majority")


def runs(method, part="tables", count=6, **errors):
    """Errors of a method on some tables, in points, that differ from table to table."""
    rows = []
    for table in range(count):
        run = BASE | dict(method=method, part=part, dataset=f"table{table}", step=0, time=0.0)
        run["run_id"] = repr(sorted((k, str(v)) for k, v in run.items()))
        level = 10 * table + 0.1 * (len(method) * table % 3)
        given = dict.fromkeys(HOW, 0.0) | errors
        values = {f"error_{how}": (20 + level + given[how]) / 100 for how in HOW}
        rows += [run | dict(metric=m, value=v) for m, v in (values | {"converged": 1.0}).items()]
    return pd.DataFrame(rows)


judged = partial(entry_of, CLAIMS)


@pytest.mark.parametrize("lead, verdict", [(1.5, "supported"), (-1.5, "contradicted")])
@pytest.mark.parametrize("name, method, other, how", [
    ("alemohammad-1-rbf", "all", "rbf", "published"),
    ("alemohammad-1-polynomial", "all", "polynomial", "published"),
    ("alemohammad-1-forest", "all", "forest", "published"),
    ("alemohammad-1-ntk", "all", "ntk", "published"),
    ("alemohammad-2-bi", "bi", "rntk", "published"),
    ("alemohammad-2-avg", "avg", "rntk", "published"),
    ("alemohammad-2-bi-avg", "bi-avg", "rntk", "published"),
    ("beyond-nested-rbf", "all", "rbf", "nested"),
    ("beyond-nested-polynomial", "all", "polynomial", "nested"),
    ("beyond-nested-forest", "all", "forest", "nested"),
    ("beyond-nested-ntk", "all", "ntk", "nested"),
    ("control-simple-linear", "rbf", "linear", "nested"),
    ("control-simple-neighbours", "rbf", "neighbours", "nested"),
])  # fmt: skip
def test_who_errs_less(name, method, other, how, lead, verdict):
    found = judged(name, runs(method), runs(other, **{how: lead}))
    assert found["estimate"] == pytest.approx(lead, abs=0.25) and found["verdict"] == verdict
    assert found["seeds"] == 6 and found["n_runs"] == 6 and "units are tables" in found["note"]


@pytest.mark.parametrize("lead, verdict", [(-1.5, "supported"), (1.5, "contradicted")])
@pytest.mark.parametrize("how", ["published", "nested"])
def test_reading_in_order(how, lead, verdict):
    frames = runs("rntk"), runs("ntk", **{how: lead})
    assert judged(f"beyond-order-{how}", *frames)["verdict"] == verdict


@pytest.mark.parametrize("lead, verdict", [(0.1, "supported"), (-2.0, "contradicted")])
def test_columns_in_another_order(lead, verdict):
    frames = runs("rntk"), runs("rntk", "mixed", published=lead)
    found = judged("beyond-order-mixed", *frames)
    assert found["estimate"] == pytest.approx(lead) and found["verdict"] == verdict


@pytest.mark.parametrize("gain, verdict", [(1.5, "supported"), (-1.5, "contradicted")])
def test_what_choice_gains_by_knowing(gain, verdict):
    for method in ("all", "ntk", "rbf"):
        found = judged(f"beyond-knowing-{method}", runs(method, seen=-gain))
        assert found["estimate"] == pytest.approx(gain) or found["low"] == found["high"]
        assert found["verdict"] == verdict
    found = judged("beyond-favour", runs("all", published=-gain), runs("ntk", nested=0.0))
    assert found["estimate"] == pytest.approx(gain) and found["verdict"] == verdict


@pytest.mark.parametrize("better, verdict", [(0.0, "supported"), (3.0, "contradicted")])
def test_shuffled_classes(better, verdict):
    for method in ("rntk", "rbf"):
        frame = runs(method, "shuffled", nested=-better)
        assert judged(f"control-shuffled-{method}", frame)["verdict"] == verdict


def test_a_table_that_a_method_lacks_is_left_out():
    found = judged("alemohammad-1-rbf", runs("all"), runs("rbf", count=4, published=2.0))
    assert found["seeds"] == 4


def test_runs_that_were_lost_are_counted():
    lost = runs("all")
    last = lost["dataset"] == "table5"
    lost.loc[last & (lost["metric"] == "converged"), "value"] = 0.0
    found = judged("alemohammad-1-rbf", lost, runs("rbf", published=2.0))
    assert found["seeds"] == 5
