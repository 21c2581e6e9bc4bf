"""What a chapter shows: the published runs where these are asked for, else the reader's own."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from tangents import studies
from tangents.lab.store import Store, publish
from tangents.lab.study import ConfigError, expand
from tangents.lab.sweep import sweep
from tangents.pages.chapter import load, parse_fields
from tests.toy import STUDY

ROOT = Path(__file__).resolve().parents[2]


def published(folder):
    """The toy's book preset in the published tables, with runs that take no time."""
    quick = replace(STUDY, presets={"book": [{"width": [2, 4, 8], "seed": range(10)}]})
    store = Store(folder / "elsewhere")
    sweep(quick, expand(quick, "book"), store, progress=False)
    publish(quick, "book", store)


def test_published_runs_are_read_and_others_computed(toys, capsys):
    published(toys)
    found = load("toy", "book", "slow=0")
    assert not found.own and len(found.table.frame) == 90 and not (toys / "runs").exists()
    some = load("toy", "book", {"slow": 0, "width": [4]})
    assert not some.own and set(some.table.frame["width"]) == {4}
    own = load("toy", "book", "slow=0 width=4,16 seed=0")
    assert "1 runs of your own, 1 of them new" in own.own, "the other is published"
    assert f"{own.own}; the text is about the book's.\n" in capsys.readouterr().out
    assert set(own.table.frame["width"]) == {4, 16}
    assert all(own.table.array(i, "field").shape == (2, 2) for i in own.table.frame["run_id"])
    again = load("toy", "book", "slow=0 width=4 width=16 seed=0")
    assert "1 runs of your own, 0 of them new" in again.own
    pd.testing.assert_frame_equal(again.table.frame, own.table.frame)


def test_runs_of_ones_own_are_judged_and_marked_but_smoke_is_not(toys, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda page: shown.append(page.data))
    load("toy", "book", "slow=0 width=4").verdicts("toy-decays")
    assert "10 runs of your own" in shown[0] and 'id="toy-decays"' in shown[0]
    assert "published:" not in shown[0]
    published(toys)
    load("toy", "book", "slow=0 width=16").verdicts("toy-decays")
    assert "published: 0.107" in shown.pop()
    smoke = load("toy", "smoke")
    assert smoke.ended() == (7, 3)
    smoke.verdicts("toy-decays")
    assert len(shown) == 1 and "judges nothing" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"unknown claim 'toy-decay'.*did you mean 'toy-decays'"):
        smoke.verdicts("toy-decay")


def test_estimates_become_texts_of_the_page_and_a_forest(toys, monkeypatch):
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, text, display: glued.update({name: text}))
    own = load("toy", "book", "slow=0 width=4")
    own.glue()
    assert glued["toy-decays"] == "0.092" and glued["toy-broken"] == "nan"
    with pytest.raises(LookupError, match="no estimate with an interval"):
        own.forest()
    assert load("toy", "smoke").forest() is None


def test_a_figure_that_the_runs_lack_says_so_in_one_line(toys, capsys):
    found = load("toy", "smoke")
    capsys.readouterr()
    assert found.figure("missing") is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Figure 'missing' is not drawn") and "in part 'nowhere'" in line
    assert found.figure("losses").axes


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("width", ["NAME=VALUE", "'width'"]),
        ("width=", ["'width='"]),
        ("widht=3", ["unknown field 'widht'", "did you mean 'width'"]),
        ("width=x", ["cannot read 'x' as int"]),
        ("width=0", ["width must be at least 1, got 0"]),
    ],
)
def test_wrong_fields_are_refused_before_anything_runs(toys, fields, words):
    with pytest.raises(ConfigError) as caught:
        load("toy", "smoke", fields)
    assert all(word in str(caught.value) for word in words) and not (toys / "runs").exists()


def test_a_table_that_cannot_be_read_is_passed_over(toys, capsys):
    published(toys)
    (toys / "results" / "toy-book.sha256").unlink()
    own = load("toy", "book", {"slow": 0, "width": 4, "seed": 0})
    assert "1 runs of your own" in own.own and "Not read: cannot read" in capsys.readouterr().out


def test_fields_are_words():
    assert parse_fields(" a=1,2  b=x a=3") == {"a": ["1", "2", "3"], "b": ["x"]}
    assert parse_fields("") == {}


# ---- the chapters themselves


def cells_after_parameters(name, **parameters):
    """The code of a chapter with these parameters, without what only a notebook understands."""
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        if "remove-cell" in cell.metadata.get("tags", []):
            continue
        yield "".join(line for line in cell.source.splitlines(True) if not line.startswith("%"))
        if "parameters" in cell.metadata.get("tags", []):
            yield "\n".join(f"{key} = {value!r}" for key, value in parameters.items())


CHAPTERS = [name for name in studies.names() if (ROOT / f"book/{name}.ipynb").exists()]
SMALL = {
    "lazy": dict(n=20, width=8, depth=2),
    "constancy": dict(width=16),
    "iterative": dict(n=30, width=8, duration=0.1),
    "map": dict(n=30, width=8),
}


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_executes_its_experiments(name, tmp_path):
    """At smoke, cell by cell: the runs are computed, some figures drawn, nothing judged."""
    program = tmp_path / f"{name}.py"
    cells = cells_after_parameters(name, preset="smoke", **SMALL.get(name, {}))
    program.write_text("from IPython.display import display\n" + "\n".join(cells))
    env = {"TANGENTS_RUNS": str(tmp_path / "runs"), "PATH": "", "HOME": str(tmp_path),
           "TANGENTS_DATA": str(ROOT / "data" / "raw"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, program], env=env, capture_output=True, text=True,
                          cwd=ROOT / "book", check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runs of your own" in done.stdout and "judges nothing" in done.stdout
    drawn = done.stdout.count("is not drawn")
    assert drawn < sum("chapter.figure" in cell for cell in cells_after_parameters(name))
