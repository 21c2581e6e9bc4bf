"""The command line: what each command does, what it refuses, and its exit status."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from tangents import datasets, ledger
from tangents.__main__ import main
from tangents.chapters import parse as parse_value
from tangents.cli import COMMANDS
from tangents.experiments import STUDIES, study
from tangents.results import ConfigError, Store, expand, publish, published
from tangents.sweep import sweep
from tests import toy
from tests.toy import EXPERIMENT

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def call(monkeypatch, tmp_path, capfd):
    """Runs a command on stores of its own; returns its status, output and complaint."""
    monkeypatch.setitem(STUDIES, "toy", "tests.toy")
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "results"))

    def called(*words):
        store = ["--store", str(tmp_path / "runs")] * (words[0] in ("run", "publish"))
        try:
            status = main([*map(str, words), *store])
        except SystemExit as left:  # --help
            status = left.code
        return status, *capfd.readouterr()

    return called


@pytest.fixture
def tables(tmp_path):
    """The toy's smoke preset, published."""
    store = Store(tmp_path / "runs")
    sweep(EXPERIMENT, expand(EXPERIMENT, "smoke"), store, progress=False)
    return publish(EXPERIMENT, "smoke", store, tmp_path / "results")


def last(text):
    return text.splitlines()[-1]


# ---- requests


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call, command):
    status, out, _ = call(command, "--help")
    assert status == 0 and out.startswith(f"usage: tangents {command}")


def test_the_help_of_run_lists_a_studys_fields(call):
    assert "--scaled-alpha FLOAT" in call("run", "toy", "--help")[1]
    assert "--scaled-alpha" not in call("run", "--help")[1]


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys, tangents.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*(n for n in ('torch', 'pandas', 'pyarrow', 'distributed', 'papermill')"
        " if n in sys.modules), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "chapter" in found.stdout and not found.stderr.strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rnu", ["unknown command 'rnu'", "publish", "did you mean 'run'"]),
        ("run lazzy", ["unknown study 'lazzy'", "toy", "did you mean 'lazy'"]),
        ("run tests.absent", ["unknown study 'tests.absent'"]),
        ("run absent.absent", ["unknown study"]),
        ("run tests..toy", ["unknown study"]),
        ("run tests.test_layers", ["unknown study"]),
        ("run toy --widht 3", ["'--widht'", "--scaled-alpha", "did you mean '--width'"]),
        ("run toy --widht=3", ["did you mean '--width'"]),
        ("run toy --wid 3", ["'--wid'", "--width"]),
        ("run --width 3 toy", ["run STUDY --width"]),
        ("run toy --width 3 x", ["'width'", "'x'", "int"]),
        ("run toy --width", ["--width", "expected at least one"]),
        ("run toy --only kid nan", ["unknown field 'kid'", "did you mean 'kind'"]),
        ("run toy --only kind nam", ["kind in preset smoke 'nam'", "did you mean 'nan'"]),
        ("run toy --only kind", ["--only", "expected 2"]),
        ("run toy other", ["unexpected argument 'other'"]),
        ("run toy --preset bok", ["'bok'", "smoke, book, paper", "did you mean 'book'"]),
        ("run toy --preset paper", ["preset of toy 'paper'", "smoke, book"]),
        ("run toy --device gpu", ["cuda", "'gpu'"]),
        ("run toy --workers 0", ["positive"]),
        ("run toy --workers 2 --scheduler tcp://a:1", ["not allowed with"]),
        ("run", ["study"]),
        ("audit toy --fraction 2", ["(0, 1]"]),
        ("audit toy --fraction two", ["(0, 1]"]),
        ("claims --strickt", ["did you mean '--strict'"]),
        ("claims --preset tiny", ["'tiny'"]),
        ("data mnits", ["data set 'mnits'", "did you mean 'mnist'"]),
        ("chapter lazzy", ["unknown chapter 'lazzy'"]),
    ],
)
def test_a_wrong_request_is_one_line_with_the_accepted_names(call, words, expected):
    status, out, err = call(*words.split())
    assert status == 2 and not out
    assert len(err.splitlines()) == 1 and err.startswith("tangents: ")
    assert all(word in err for word in expected), err


def test_a_study_that_cannot_be_imported_is_a_failure(call, monkeypatch):
    monkeypatch.setitem(STUDIES, "gone", "tangents.experiments.gone")
    status, _, err = call("run", "gone")
    assert status == 1 and "tangents.experiments.gone" in err and len(err.splitlines()) == 1


def test_studies_are_found_by_name_and_by_path(monkeypatch):
    monkeypatch.setitem(STUDIES, "toy", "tests.toy")
    assert study("toy") is study("tests.toy") is toy.EXPERIMENT
    with pytest.raises(ConfigError, match="accepted are lazy"):
        study("toys")


# ---- run and publish


def test_run_resumes_and_reports(call):
    assert call("run", "toy", "--dry-run")[1] == "toy, preset smoke: 7 runs, 0 done, 7 missing\n"
    status, out, err = call("run", "toy")
    assert status == 0 and "7 runs, 7 new" in out and "7/7 runs" in err
    assert "7 runs, 0 new" in call("run", "toy", "--preset", "smoke")[1]
    assert call("run", "toy", "--dry-run")[1] == "toy, preset smoke: 7 runs, 7 done, 0 missing\n"


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("--width 64 256", 10),
        ("--width=64", 5),
        ("--width 64 --width 256", 10),
        ("--scaled-alpha -1e-3 -inf .5", 21),
        ("--kind plain --seed 0 0.0 --width 1e1", 1),
        ("--flag true 0", 14),
        ("--only kind nan", 3),
        ("--only kind nan --only seed 1", 1),
        ("--only width 4 --scaled-alpha 1 2", 10),
    ],
)
def test_fields_are_replaced_in_every_grid_and_runs_picked(call, words, runs):
    status, out, _ = call("run", "toy", "--dry-run", *words.split())
    assert status == 0 and f": {runs} runs," in out


def test_a_run_that_fails_is_status_1_without_traceback(call):
    status, _, err = call("run", "toy", "--kind", "fail")
    assert status == 1 and "Traceback" not in err
    assert last(err).startswith("tangents: toy: 5 of 5 runs failed: RuntimeError: the toy was told")


def test_an_interrupted_run_says_that_it_resumes(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tangents.__main__.sweep", interrupted)
    status, _, err = call("run", "toy")
    assert status == 1 and "interrupted" in err and "Traceback" not in err


def test_publish_writes_to_the_results_folder(call, tmp_path):
    status, _, err = call("publish", "toy")
    assert status == 1 and "7 of 7 runs are missing" in err
    call("run", "toy")
    status, out, _ = call("publish", "toy")
    assert status == 0 and Path(out.strip()) == tmp_path / "results" / "toy-smoke.parquet"
    assert len(published("toy", "smoke")[0]) == 21
    (tmp_path / "runs" / "toy").rename(tmp_path / "runs" / "gone")
    assert call("publish", "toy", "--partial")[0] == 1


# ---- audit


def test_an_audit_of_sound_tables_agrees(call, tables):
    status, out, _ = call("audit", "toy", "--preset", "smoke", "--fraction", "1")
    assert status == 0
    table = [line.split() for line in out.splitlines()[1:]]
    assert [row[:4] for row in table] == [
        ["toy", "converged", "7", "0"],
        ["toy", "field", "7", "0"],
        ["toy", "loss", "14", "0"],
        ["toy", "time", "7", "0"],
    ]
    assert all(row[-1] == "True" for row in table)


def rewritten(path, change):
    frame = pd.read_parquet(path)
    change(frame).to_parquet(path, index=False)


def test_an_audit_finds_one_changed_number(call, tables):
    def change(frame):
        rows = frame.query("metric == 'loss' and step == 1 and kind == 'plain'").index
        frame.loc[rows[-1], "value"] += 1e-3
        return frame

    rewritten(tables, change)
    status, out, err = call("audit", "toy", "--preset", "smoke", "--fraction", "1")
    assert status == 1 and "1 of 4 metrics differ" in last(err)
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["True", "True", "False", "True"]


def test_an_audit_compares_times_and_arrays(call, tables):
    def later(frame):
        return frame.assign(time=frame["time"] * 1.01)

    whole = tables.read_bytes()
    rewritten(tables, later)
    status, out, _ = call("audit", "toy", "--preset", "smoke", "--fraction", "1")
    assert status == 1
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["True", "True", "True", "False"]
    tables.write_bytes(whole)
    with np.load(tables.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[next(iter(arrays))] += 1
    np.savez(tables.with_suffix(".npz"), **arrays)
    status, out, _ = call("audit", "toy", "--preset", "smoke", "--fraction", "1")
    assert status == 1
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["True", "False", "True", "True"]


@pytest.mark.parametrize("change", [lambda f: f.iloc[1:], lambda f: pd.concat([f, f.iloc[-1:]])])
def test_an_audit_finds_rows_lost_or_added(call, tables, change):
    rewritten(tables, change)
    assert call("audit", "toy", "--preset", "smoke", "--fraction", "1")[0] == 1


def test_an_audit_refuses_tables_of_another_version(call, tables, monkeypatch):
    monkeypatch.setattr(toy, "EXPERIMENT", dataclasses.replace(EXPERIMENT, version=2))
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "another version" in err
    rewritten(tables, lambda frame: frame.drop(columns="flag"))
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "lacks the field 'flag'" in err


def test_an_audit_samples_at_least_one_run_by_its_seed(tables, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tables.parent))
    frame = published("toy", "smoke")[0]
    one = ledger._sample(EXPERIMENT, frame, 0.001, seed=0)
    assert len(one) == 1 and one == ledger._sample(EXPERIMENT, frame, 0.001, seed=0)
    assert len({ledger._sample(EXPERIMENT, frame, 0.001, seed=s)[0] for s in range(20)}) > 3
    assert len(ledger._sample(EXPERIMENT, frame, 0.5, seed=0)) == 4


def test_an_audit_without_tables_fails(call, monkeypatch):
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "not published" in err
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    monkeypatch.setitem(STUDIES, "toy", "tests.toy")
    status, _, err = call("audit", "--preset", "smoke")
    assert status == 1 and "no study is published" in err


def test_nan_and_infinities_agree_with_themselves_only(tmp_path):
    experiment, config = EXPERIMENT, toy.Toy()
    values = [math.nan, math.nan, math.inf, math.inf, math.inf, 1.0, 1.0]
    others = [math.nan, 1.0, math.inf, -math.inf, 1.0, 1.0 + 1e-7, 1.1]

    def rows(numbers):
        base = {"time": 0.0, "split": "test", "metric": "loss"}
        return [{**base, "step": step, "value": value} for step, value in enumerate(numbers)]

    run = Store(tmp_path).put(experiment, config, rows(others), {}, {})
    found = ledger.compare(experiment, pd.DataFrame(rows(values)), {}, run)
    agreed = found[found["metric"] == "loss"].sort_values("place")["ratio"] <= 1
    assert agreed.tolist() == [True, False, True, False, False, True, False]


# ---- claims


def test_claims_are_judged_and_a_broken_check_is_inconclusive(call, tables):
    status, out, _ = call("claims", "toy")
    assert status == 0
    heads, decays, broken = out.splitlines()
    assert heads.startswith("id") and "supported" in decays
    assert "inconclusive" in broken and "KeyError: 'no such metric'" in broken
    status, _, err = call("claims", "toy", "--strict")
    assert status == 1 and "1 of 2 checks" in err


def test_claims_as_json_are_valid_json(call, tables):
    def refuse(word):
        raise ValueError(word)

    status, out, _ = call("claims", "toy", "--json", "--preset", "smoke")
    decays, broken = json.loads(out, parse_constant=refuse)
    assert status == 0 and list(decays) == [
        *("id", "paper", "source", "statement", "preset", "estimate", "low", "high"),
        *("expected", "verdict", "n_runs", "note", "accepted"),
    ]
    assert decays["accepted"] == [None, 0.5]
    assert decays["n_runs"] == 7 and decays["low"] is None and decays["high"] is None
    assert 0 < decays["estimate"] < 1 and broken["estimate"] is None


def test_nothing_published_is_no_claim(call):
    assert call("claims", "toy", "--json") == (0, "[]\n", "")


def test_a_check_that_returns_no_finding_is_inconclusive(tables, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tables.parent))
    claim = dataclasses.replace(EXPERIMENT.claims[0], check=lambda frame, arrays: True)
    (entry,) = ledger.judge(dataclasses.replace(EXPERIMENT, claims=(claim,)), ["smoke", "book"])
    assert entry["verdict"] == "inconclusive" and "bool" in entry["note"]


def test_numpy_numbers_of_a_finding_become_plain(tables, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tables.parent))
    finding = toy.Finding(np.float32(0.5), np.nan, np.int64(1), "contradicted", np.int64(7))
    claim = dataclasses.replace(EXPERIMENT.claims[0], check=lambda frame, arrays: finding)
    (entry,) = ledger.judge(dataclasses.replace(EXPERIMENT, claims=(claim,)), ["smoke"])
    assert json.loads(json.dumps(entry))["estimate"] == 0.5


# ---- data


def test_data_shows_or_fetches(call, monkeypatch, tmp_path):
    row = {"name": "tiny", "state": "missing", "bytes": 0, "source": "nowhere", "licence": "MIT"}
    monkeypatch.setattr(datasets, "status", lambda: [row])
    monkeypatch.setattr(datasets, "fetch", lambda name: tmp_path / name)
    assert call("data")[1].splitlines()[1].split() == ["tiny", "missing", "0", "nowhere", "MIT"]
    assert call("data", "tiny") == (0, f"{tmp_path / 'tiny'}\n", "")

    def fails(name):
        raise datasets.DataError("tiny is damaged")

    monkeypatch.setattr(datasets, "fetch", fails)
    assert call("data", "tiny") == (1, "", "tangents: tiny is damaged\n")


# ---- chapters


@pytest.fixture
def book(tmp_path):
    """A book of one small chapter."""
    parameters = nbformat.v4.new_code_cell("alpha = 0.1\nseeds = [0]\n", id="a")
    parameters.metadata["tags"] = ["parameters"]
    cell = nbformat.v4.new_code_cell("print('alpha is', alpha, seeds)\nassert alpha < 5", id="b")
    notebook = nbformat.v4.new_notebook(cells=[parameters, cell])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    folder = tmp_path / "book"
    folder.mkdir()
    nbformat.write(notebook, folder / "small.ipynb")
    return folder


# The kernel's client leaves sockets and event loops to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chapter_is_executed_with_new_parameters(call, book, tmp_path):
    source = (book / "small.ipynb").read_bytes()
    output = tmp_path / "built" / "deep" / "small.ipynb"
    words = ["chapter", "small", "--book", book, "--output", output]
    status, out, _ = call(*words, "-p", "alpha", "1e-3", "-p", "seeds", "[1, 2]")
    assert status == 0 and Path(out.strip()) == output.with_suffix(".html")
    assert "alpha is 0.001 [1, 2]" in output.with_suffix(".html").read_text(encoding="utf-8")
    assert (book / "small.ipynb").read_bytes() == source
    status, _, err = call(*words, "-p", "alpha", "7")
    assert status == 1 and "small failed with AssertionError" in last(err) and str(output) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-p alhpa 1", ["'alhpa'", "alpha, seeds", "did you mean 'alpha'"]),
        ("-p alpha", ["expected 2 arguments"]),
        ("-p alpha [1", ["YAML"]),
        ("--output book/small.html", [".ipynb"]),
    ],
)
def test_what_a_chapter_does_not_declare_is_refused(call, book, words, expected):
    status, out, err = call("chapter", "small", "--book", book, *words.split())
    assert status == 2 and not out and len(err.splitlines()) == 1
    assert all(word in err for word in expected)


def test_a_chapter_is_never_overwritten(call, book):
    status, _, err = call("chapter", "small", "--book", book, "--output", book / "small.ipynb")
    assert status == 2 and "another" in err


def test_parameters_are_read_as_yaml_with_plain_numbers():
    values = ["1", "0.5", "1e-3", "-1e3", "true", "null", "mnist", "[1, 2]", "'1'", "2020-01-01"]
    read = [1, 0.5, 1e-3, -1e3, True, None, "mnist", [1, 2], "1", "2020-01-01"]
    assert [parse_value(value) for value in values] == read
