"""Rows for a reader: published, their own, and those that decided a claim."""

import pandas as pd
import pytest

from tangents.lab.store import Store, published
from tangents.lab.study import ConfigError, expand
from tangents.lab.sweep import sweep
from tangents.pages import rows
from tests.pages.test_chapter import published as publish_toy
from tests.toy import STUDY


def run(folder, **fields):
    configs = expand(STUDY, "book", {"slow": 0, **fields})
    sweep(STUDY, configs, Store(folder / "runs"), progress=False)


def test_published_rows_and_ones_own_stand_side_by_side(toys):
    publish_toy(toys)
    run(toys, width=[16], seed=[0])
    frame = rows.load("toy", "book", "slow=0 width=4,16 seed=0,1")
    runs = frame.drop_duplicates("run_id").set_index(["width", "seed"])["own"].to_dict()
    assert runs == {(4, 0): False, (4, 1): False, (16, 0): True}
    configs = expand(STUDY, "book", {"slow": 0, "width": [4, 16], "seed": [0, 1]})
    found = rows.gather(STUDY, "book", configs, Store(toys / "runs"))
    assert str(found) == "3 runs, 1 of them your own; 1 are missing"
    assert any(key.startswith(frame["run_id"].iloc[-1]) for key in found.arrays)


def test_no_finished_run_is_an_error_and_computes_nothing(toys):
    with pytest.raises(LookupError, match="none of these 1 runs is published"):
        rows.load("toy", "book", "slow=0 width=4 seed=0")
    assert not (toys / "runs").exists()


@pytest.mark.parametrize("text", ["width", "=4", "width="])
def test_fields_of_another_form_are_refused(text):
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        rows.parse_fields(text)


def test_the_time_of_runs_is_that_of_published_ones(toys):
    assert rows.seconds(STUDY, "book", expand(STUDY, "book"))[0::2] == (0.0, 30)
    publish_toy(toys)
    known = published("toy", "book")[0].drop_duplicates("run_id").set_index("width")["seconds"]
    some = expand(STUDY, "book", {"slow": 0, "width": [4]})
    assert rows.seconds(STUDY, "book", some) == (pytest.approx(known[4].sum()), 0, 0)
    like = expand(STUDY, "book", {"slow": 0, "width": [4, 5], "seed": [0]})
    total, guessed, unlike = rows.seconds(STUDY, "book", like)
    assert (guessed, unlike) == (1, 0) and total >= known.mean()
    other = expand(STUDY, "book", {"slow": 0, "width": [5], "seed": [0], "part": ["new"]})
    assert rows.seconds(STUDY, "book", other) == (0.0, 0, 1)


def test_the_rows_behind_a_claim_are_those_that_it_was_given(toys):
    publish_toy(toys)
    frame, arrays = published("toy", "book")
    found = rows.behind(STUDY, "toy-decays", rows.Watched(frame, arrays))
    assert set(found["metric"]) == {"loss"} and len(found) == 60
    assert [*found.columns[:3]] == ["run_id", "width", "seed"], "fields that vary, no others"
    none = rows.behind(STUDY, "toy-broken", rows.Watched(frame, arrays))
    assert none.empty, "a claim whose code breaks has none"
    with pytest.raises(ConfigError, match="did you mean 'toy-decays'"):
        rows.behind(STUDY, "toy-decay", rows.Watched(frame, arrays))


def test_of_ends_only_the_last_rows_are_evidence():
    frame = pd.DataFrame([
        dict(run_id=run, part="all", metric=metric, step=step, time=step, split="test", value=value)
        for run in "ab" for metric, step, value in
        [("error", 0, 0.5), ("error", 1, 0.1), ("converged", 1, float(run == "a"))]
    ])  # fmt: skip
    table = rows.Watched(frame)
    table.ends("error")
    given = pd.concat(table.given)
    assert [*given["metric"]] == ["error", "converged", "converged"] and given["step"].eq(1).all()
    table = rows.Watched(frame).afresh()
    table.starts("error")
    assert len(table.given) == 1 and [*table.given[0]["run_id"]] == ["a", "b"]


def test_the_command_names_what_the_runs_share():
    runs = expand(STUDY, "smoke")
    frame = pd.DataFrame([vars(run) | {"run_id": str(i)} for i, run in enumerate(runs)])
    some = frame.loc[frame["kind"] == "nan", "run_id"]
    assert rows.command(STUDY, "smoke", frame, some).endswith("--preset smoke --only kind nan")
    assert rows.command(STUDY, "smoke", frame, frame["run_id"]).endswith("--preset smoke")
