"""What the page on speed makes of measurements."""

import numpy as np
import pandas as pd
import pytest

from tangents.lab.store import seal
from tangents.pages import speed


@pytest.fixture
def frame(tmp_path, monkeypatch):
    """Two problems: in the first a peer is leaner than the package without a budget."""
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path))
    rows = [
        ("mlp", "tangents", 1.0, 50.0),
        ("mlp", "tangents, 8 MB", 2.0, 20.0),
        ("mlp", "tangents, 4 MB", 3.0, 10.0),
        ("mlp", "tangents, 16 MB", 1.5, 40.0),
        ("mlp", "asdl", 6.0, 30.0),
        ("mlp", "nngeometry", 4.0, 60.0),
        ("mlp", "backpack", np.nan, np.nan),
        ("cnn 28", "tangents", 1.0, 5.0),
        ("cnn 28", "asdl", 3.0, 9.0),
    ]
    table = pd.DataFrame(rows, columns=["model", "peer", "seconds", "mb"])
    table = table.assign(task="kernel", n=64, outputs="trace", deviation=0.0)
    table["share of peak"] = 0.5
    table.to_csv(tmp_path / "table.csv", index=False)
    seal(tmp_path / "table.csv")
    return speed.load("table.csv")


def test_ratios_are_to_the_fastest_and_the_leanest_peer(frame):
    mlp, cnn = speed.ratios(frame).to_dict("records")
    assert (mlp["peer"], mlp["ratio"], mlp["leanest"], mlp["least mb"]) == (
        "nngeometry", 4.0, "asdl", 30.0,
    )  # fmt: skip
    assert (mlp["aim"], cnn["aim"]) == (2.0, 2.5)
    assert (mlp["lean mb"], mlp["lean seconds"]) == (20.0, 2.0)
    assert np.isnan(cnn["lean mb"])


def test_the_table_says_what_was_missed_and_what_a_budget_takes(frame):
    html = speed.table(frame)
    assert html.count(">met<") == 2
    frame.loc[frame["peer"] == "nngeometry", "seconds"] = 1.5
    assert speed.table(frame).count(">missed<") == 1
    assert "20 MB<small>in 2 s" in html


def test_a_budget_is_no_package(frame):
    assert set(speed.packages(frame)["peer"]) == {"tangents", "asdl", "nngeometry"}
    (ax,) = speed.advantage(frame).axes
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert labels == {"asdl", "nngeometry", "aim"}


def test_the_break_even_is_against_the_fastest_peer():
    rows = [("tangents", 0.05), ("jax", 8.0), ("torch.func", 12.0), ("asdl", np.nan)]
    frame = pd.DataFrame(rows, columns=["peer", "seconds"]).assign(task="phase")
    assert speed.break_even(frame) == 7  # 6.25 steps
