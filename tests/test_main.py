"""The command line: what each command does, what it refuses, and its exit status."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tangents import studies
from tangents.__main__ import COMMANDS, main
from tangents.data import sets
from tangents.data.sources import DataError
from tangents.lab import audit, ledger
from tangents.lab.evidence import Estimate
from tangents.lab.store import Store, publish, published, seal
from tangents.lab.study import ConfigError, expand
from tangents.lab.sweep import sweep
from tests import toy
from tests.toy import STUDY

ROOT = Path(__file__).resolve().parents[1]
TOYS = Path(__file__).parent / "studies"


@pytest.fixture
def call(monkeypatch, tmp_path, capfd):
    """Runs a command on stores of its own; returns its status, output and complaint."""
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(TOYS)])
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "results"))

    def called(*words):
        stored = words[0] in ("run", "publish", "table", "plot")
        store = ["--store", str(tmp_path / "runs")] * stored
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
    sweep(STUDY, expand(STUDY, "smoke"), store, progress=False)
    return publish(STUDY, "smoke", store, tmp_path / "results")


@pytest.fixture
def book(tmp_path):
    """The toy's book preset, published: smoke judges nothing."""
    store = Store(tmp_path / "runs")
    sweep(STUDY, expand(STUDY, "book"), store, progress=False)
    return publish(STUDY, "book", store, tmp_path / "results")


def last(text):
    return text.splitlines()[-1]


# ---- requests


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call, command):
    status, out, _ = call(command, "--help")
    assert status == 0 and out.startswith(f"usage: tangents {command}")


def test_the_help_of_run_lists_a_studys_fields(call):
    found = " ".join(call("run", "toy", "--help")[1].split())
    assert "--scaled-alpha FLOAT" in found and "--kind STR" in found
    assert "units, of which there are none; at least 1; default 4" in found
    assert "--scaled-alpha" not in call("run", "--help")[1]


def test_help_shows_what_a_field_accepts(call):
    found = " ".join(call("run", "lazy", "--help")[1].split())
    assert "--network fc|conv" in found and "fully connected, or convolutional" in found


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


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise ValueError('of\\ntwo lines')", "ValueError: of two lines"),
        ("import sys; sys.exit()", "SystemExit"),
        ("def f(", "SyntaxError"),
    ],
)
def test_a_study_that_cannot_be_imported_is_a_failure(call, monkeypatch, tmp_path, code, reason):
    name = f"broken{abs(hash(code))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"{code}\n")
    (tmp_path / name / "inner.py").touch()
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(tmp_path)
    for study in (name, f"{name}.inner"):
        status, out, err = call("run", study)
        assert status == 1 and reason in err and len(err.splitlines()) == 1 and not out


def test_a_study_that_calls_exit_does_not_end_in_silence(call, monkeypatch):
    leaving = dataclasses.replace(STUDY, run=lambda configs, device: sys.exit(0))
    monkeypatch.setattr(import_module(studies.path("toy")), "STUDY", leaving)
    status, _, err = call("run", "toy")
    assert status == 1 and "7 of 7 runs failed: SystemExit: 0" in last(err)
    monkeypatch.setitem(COMMANDS, "data", COMMANDS["data"]._replace(act=lambda args: sys.exit(0)))
    status, _, err = call("data")
    assert status == 1 and err == "tangents: data: its code called sys.exit(0)\n"


def test_studies_are_found_by_name_and_by_path(monkeypatch):
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(TOYS)])
    assert studies.find("toy") is studies.find("tests.toy") is toy.STUDY
    with pytest.raises(ConfigError, match=r"accepted are constancy, .*, toy"):
        studies.find("toys")


# ---- table and plot


def test_a_table_is_printed_whole_or_in_short(call, tables):
    status, out, err = call("table", "toy", "--preset", "smoke", "--only", "width", "4")
    assert status == 0 and "5 runs, 0 of them your own; 0 are missing" in err
    assert out.split()[:7] == ["metric", "split", "rows", "runs", "min", "mean", "max"]
    frame = pd.read_csv(io.StringIO(call("table", "toy", "--preset", "smoke", "--csv")[1]))
    assert len(frame) == 21 and {"width", "metric", "value", "own"} <= {*frame}
    claim = call("table", "toy", "--preset", "smoke", "--claim", "toy-decays", "--csv")[1]
    assert set(pd.read_csv(io.StringIO(claim))["metric"]) == {"loss"}


def test_runs_of_ones_own_are_in_tables(call, tables):
    call("run", "toy", "--width", "16", "--seed", "0", "--kind", "plain")
    words = ("table", "toy", "--preset", "smoke", "--width", "4", "16", "--seed", "0")
    assert "3 runs, 1 of them your own; 1 are missing" in call(*words)[2]


def test_a_figure_is_a_file(call, tables, tmp_path):
    out = tmp_path / "a.png"
    assert call("plot", "toy", "losses", "--preset", "smoke", "--out", out)[:2] == (0, f"{out}\n")
    status, _, err = call("plot", "toy", "loses", "--preset", "smoke")
    assert status == 2 and "accepted are losses, missing, forest" in err
    status, _, err = call("plot", "toy", "losses", "--width", "3", "--preset", "smoke")
    assert status == 1 and "none of these" in err and len(err.splitlines()) == 1


def test_an_output_that_nobody_reads_to_its_end_is_no_failure(tables, tmp_path):
    words = f"{sys.executable} -m tangents table tests.toy --preset smoke --csv | head -n 1"
    env = os.environ | {"TANGENTS_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(ROOT)}
    env["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'src'}"
    found = subprocess.run(words, shell=True, capture_output=True, text=True, env=env, cwd=ROOT)
    assert found.stdout.startswith("run_id,") and len(found.stderr.splitlines()) == 1


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

    monkeypatch.setattr("tangents.lab.sweep.sweep", interrupted)
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


def test_runs_to_be_reused_are_only_counted_on_a_dry_run(call, tables, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "gone")
    *_, taken, counted = call("run", "toy", "--reuse", "--dry-run")[1].splitlines()
    assert taken == "7 runs are in the published table"
    assert counted == "toy, preset smoke: 7 runs, 7 done, 0 missing"
    out = call("run", "toy", "--reuse", "--width", "16", "--dry-run")[1].splitlines()
    assert out[-1].startswith("toy, preset smoke: 5 runs, 0 done, 5 missing")
    assert not (tmp_path / "runs").exists()
    assert "0 new" in call("run", "toy", "--reuse")[1] and (tmp_path / "runs").exists()


def test_smoke_is_not_published_among_the_books_tables(call, monkeypatch, tmp_path):
    call("run", "toy")
    monkeypatch.setattr("tangents.lab.store.REPOSITORY", tmp_path)
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "data" / "results"))
    status, _, err = call("publish", "toy")
    assert status == 1 and "smoke judges nothing" in err and err.count("\n") == 1
    assert not (tmp_path / "data").exists()
    assert call("publish", "toy", "--out", tmp_path / "elsewhere")[0] == 0


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
    seal(path)


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
    seal(tables)
    with np.load(tables.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[next(iter(arrays))] += 1
    np.savez(tables.with_suffix(".npz"), **arrays)
    seal(tables)
    status, out, _ = call("audit", "toy", "--preset", "smoke", "--fraction", "1")
    assert status == 1
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["True", "False", "True", "True"]


@pytest.mark.parametrize("change", [lambda f: f.iloc[1:], lambda f: pd.concat([f, f.iloc[-1:]])])
def test_an_audit_finds_rows_lost_or_added(call, tables, change):
    rewritten(tables, change)
    assert call("audit", "toy", "--preset", "smoke", "--fraction", "1")[0] == 1


def test_an_audit_refuses_tables_of_another_version(call, tables, monkeypatch):
    newer = dataclasses.replace(STUDY, version=2)
    monkeypatch.setattr(import_module(studies.path("toy")), "STUDY", newer)
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "another version" in err
    rewritten(tables, lambda frame: frame.drop(columns="flag"))
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "lacks the field 'flag'" in err


def test_an_audit_samples_at_least_one_run_by_its_seed(tables, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(tables.parent))
    frame = published("toy", "smoke")[0]
    one = audit._sample(STUDY, frame, 0.001, seed=0)
    assert len(one) == 1 and one == audit._sample(STUDY, frame, 0.001, seed=0)
    assert len({audit._sample(STUDY, frame, 0.001, seed=s)[0] for s in range(20)}) > 3
    assert len(audit._sample(STUDY, frame, 0.5, seed=0)) == 4


def test_an_audit_without_tables_fails(call, monkeypatch):
    status, _, err = call("audit", "toy", "--preset", "smoke")
    assert status == 1 and "not published" in err
    monkeypatch.setattr(studies, "__path__", [str(TOYS)])
    status, _, err = call("audit", "--preset", "smoke")
    assert status == 1 and "no study is published" in err


def test_nan_and_infinities_agree_with_themselves_only(tmp_path):
    study, config = STUDY, toy.Toy()
    values = [math.nan, math.nan, math.inf, math.inf, math.inf, 1.0, 1.0]
    others = [math.nan, 1.0, math.inf, -math.inf, 1.0, 1.0 + 1e-7, 1.1]

    def rows(numbers):
        base = {"time": 0.0, "split": "test", "metric": "loss"}
        return [{**base, "step": step, "value": value} for step, value in enumerate(numbers)]

    run = Store(tmp_path).put(study, config, rows(others), {}, {})
    found = audit.compare(study, pd.DataFrame(rows(values)), {}, run)
    agreed = found[found["metric"] == "loss"].sort_values("place")["ratio"] <= 1
    assert agreed.tolist() == [True, False, True, False, False, True, False]


# ---- claims


def test_smoke_judges_nothing(call, tables):
    status, out, err = call("claims", "toy")
    assert status == 1 and not out and "no table of book or paper" in err
    status, out, err = call("claims", "toy", "--preset", "smoke")
    assert status == 2 and not out and "judges nothing" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["claims toy", "audit toy", "run toy --preset book --reuse"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.drop(columns="metric"), "no column 'metric'"),
        (lambda f: f.drop(columns="run_id"), "no column 'run_id'"),
        (lambda f: f.drop(columns="seconds"), "no column 'seconds'"),
        (lambda f: f.iloc[:0], "no rows"),
    ],
)
def test_a_table_that_lacks_something_is_one_line(call, book, command, change, reason):
    rewritten(book, change)
    status, out, err = call(*command.split())
    assert status == 1 and not out and reason in err and err.count("\n") == 1


def test_claims_are_judged_and_a_broken_check_is_inconclusive(call, book):
    status, out, _ = call("claims", "toy")
    assert status == 0
    heads, decays, broken = out.splitlines()
    assert heads.startswith("id") and "supported" in decays
    assert "inconclusive" in broken and "KeyError: 'no such metric'" in broken
    status, _, err = call("claims", "toy", "--strict")
    assert status == 1 and "1 of 2 checks" in err


def test_claims_as_json_are_valid_json(call, book):
    def refuse(word):
        raise ValueError(word)

    status, out, _ = call("claims", "toy", "--json", "--preset", "book")
    decays, broken = json.loads(out, parse_constant=refuse)
    assert status == 0 and list(decays) == [
        *("id", "claim", "kind", "paper", "source", "statement", "setting"),
        *("estimate", "low", "high", "expected", "accepted", "verdict", "p"),
        *("seeds", "n_runs", "registered", "note", "holm", "preset"),
    ]
    assert decays["accepted"] == [None, 0.5]
    assert decays["n_runs"] == 30 and decays["low"] is None and decays["high"] < 0.5
    assert 0 < decays["estimate"] < 1 and broken["estimate"] is None


def test_nothing_published_is_a_failure_that_says_where(call, tmp_path):
    status, out, err = call("claims", "toy", "--json")
    assert status == 1 and not out and str(tmp_path / "results") in err
    assert len(err.splitlines()) == 1


def test_a_verdict_needs_a_run(book, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(book.parent))
    nothing = Estimate(0.0, math.nan, math.nan, 0, 0, holds=True)
    claim = dataclasses.replace(STUDY.claims[0], check=lambda t: nothing)
    (entry,) = ledger.judge(dataclasses.replace(STUDY, claims=(claim,)), ["book"])
    assert entry["verdict"] == "inconclusive" and "no run" in entry["note"]
    assert entry["n_runs"] == 0 and math.isnan(entry["estimate"])


def test_a_claim_that_returns_no_estimate_is_inconclusive(book, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(book.parent))
    claim = dataclasses.replace(STUDY.claims[0], check=lambda t: True)
    (entry,) = ledger.judge(dataclasses.replace(STUDY, claims=(claim,)), ["book", "paper"])
    assert entry["verdict"] == "inconclusive" and "bool" in entry["note"]


def test_numpy_numbers_of_an_estimate_become_plain(book, monkeypatch):
    monkeypatch.setenv("TANGENTS_RESULTS", str(book.parent))
    found = Estimate(np.float32(0.5), np.nan, np.int64(1), np.int64(7), np.int64(7))
    claim = dataclasses.replace(STUDY.claims[0], check=lambda t: found)
    (entry,) = ledger.judge(dataclasses.replace(STUDY, claims=(claim,)), ["book"])
    assert json.loads(json.dumps(entry))["estimate"] == 0.5


# ---- data


def test_data_shows_or_fetches(call, monkeypatch, tmp_path):
    row = {"name": "tiny", "state": "missing", "bytes": 0, "source": "nowhere", "licence": "MIT"}
    monkeypatch.setattr(sets, "status", lambda: [row])
    monkeypatch.setattr(sets, "names", lambda: ["tiny"])
    monkeypatch.setattr(sets, "fetch", lambda name, given: tmp_path / name)
    assert call("data")[1].splitlines()[1].split() == ["tiny", "missing", "0", "nowhere", "MIT"]
    assert call("data", "tiny") == (0, f"{tmp_path / 'tiny'}\n", "")

    def fails(name, given):
        raise DataError("tiny is damaged")

    monkeypatch.setattr(sets, "fetch", fails)
    assert call("data", "tiny") == (1, "", "tangents: tiny is damaged\n")
    monkeypatch.undo()
    monkeypatch.setenv("TANGENTS_DATA", "~nosuchuser/x")
    for words in (["data"], ["data", "mnist"]):
        status, out, err = call(*words)
        assert status == 1 and not out and "~nosuchuser/x" in err and err.count("\n") == 1


@pytest.mark.parametrize("given", ["", "ACTIVE"])
def test_threads_wait_without_spinning_unless_the_environment_says_how(monkeypatch, given):
    monkeypatch.setenv("OMP_WAIT_POLICY", given)
    if not given:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["no-such-command"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


def test_a_network_of_ones_own_is_measured(call, tmp_path):
    import torch

    code = "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(3, 8), "
    (tmp_path / "mine.py").write_text(code + "torch.nn.Tanh(), torch.nn.Linear(8, 2))\n")
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
            for _ in range(2)]  # fmt: skip
    for net, name in zip(nets, ("a", "b"), strict=True):
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    torch.save({"x": torch.randn(30, 3), "y": torch.arange(30) % 2}, tmp_path / "batch.pt")
    where = f"{tmp_path}/mine.py:build"
    files = ["--before", tmp_path / "a.pt", "--after", tmp_path / "b.pt"]
    status, out, err = call("measure", where, *files, "--batch", tmp_path / "batch.pt")
    assert status == 0 and "nonlinear share R" in out and "by folds" in out and not err
    torch.save(print, tmp_path / "bad.pt")
    batch = ["--batch", tmp_path / "batch.pt"]
    for words, complaint, code in (
        ([where, *files, "--batch", tmp_path / "bad.pt"], "no plain tensors", 1),
        ([f"{tmp_path}/none.py:build", *files, *batch], "FILE:FUNCTION", 2),
        ([f"{tmp_path}/mine.py:nothing", *files, *batch], "nothing", 1),
        ([where, *files[:3], tmp_path / "a.pt", *batch], "the same", 1),
        ([where, *files, "--batch", tmp_path / "lost.pt"], "lost.pt", 1),
    ):
        status, _, err = call("measure", *words)
        assert status == code and complaint in err and err.count("\n") == 1


ADAPTED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base, self.lora_a, self.lora_b = nn.Linear(3, 8), nn.Linear(3, 2), nn.Linear(2, 8)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.base(x["input"]) + self.lora_b(self.lora_a(x["input"]))
        return self.head(torch.tanh(self.norm(h)) * x["mask"])
"""


def test_adapters_alone_are_measured_from_their_own_checkpoints(call, tmp_path):
    import torch

    (tmp_path / "mine.py").write_text(ADAPTED)
    space = {}
    exec(ADAPTED, space)
    states = [space["Net"]().state_dict() for _ in range(2)]
    for k, v in states[1].items():
        if "lora" in k:
            v += 0.5 * torch.randn(v.shape)
    for name, state in zip("ab", states, strict=True):
        torch.save(state, tmp_path / f"{name}.pt")
        alone = {k: v for k, v in state.items() if "lora" in k}
        torch.save(alone, tmp_path / f"{name}-alone.pt")
    x = {"input": torch.randn(24, 3), "mask": torch.ones(24, 8)}
    torch.save({"x": x, "y": torch.arange(24) % 2}, tmp_path / "batch.pt")

    def measured(*words, files="{}.pt"):
        given = [tmp_path / files.format(name) for name in "ab"]
        return call("measure", f"{tmp_path}/mine.py:Net", "--before", given[0], "--after",
                    given[1], "--batch", tmp_path / "batch.pt", *words)  # fmt: skip

    plot, only = tmp_path / "lazy.png", ["--params", "*lora*", "--json"]
    status, out, err = measured(*only, "--plot", plot, "--budget", "1e7")
    assert status == 0 and not err and plot.read_bytes()[:4] == b"\x89PNG"
    found = json.loads(out)
    assert list(found["layers"]) == ["lora_a", "lora_b"] and found["nonlinear"]["value"] > 0
    assert found["distance"]["low"] is None
    assert json.loads(measured(*only, files="{}-alone.pt")[1]) == found
    for words, files, complaint, code in (
        ([], "{}-alone.pt", "lacks 'base.weight': --params PATTERN takes some alone", 1),
        (["--params", "*adapter*"], "{}.pt", "no parameter fits '*adapter*': accepted", 1),
        (["--sums", "0"], "{}.pt", "must be a positive integer", 2),
        (["--plot", tmp_path / "lazy.txt"], "{}.pt", "must end with .png, .svg, .pdf", 2),
    ):
        status, out, err = measured(*words, files=files)
        assert status == code and not out and complaint in err and err.count("\n") == 1
    torch.save({"model": states[0]}, tmp_path / "a-whole.pt")
    torch.save({"model": states[1]}, tmp_path / "b-whole.pt")
    status, _, err = measured(files="{}-whole.pt")
    assert status == 1 and "holds 'model': the network's names are base.weight" in err
