"""Sweeps: stacking, resuming after SIGKILL, sharing a store, failures, progress."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tangents.lab import sweep as module
from tangents.lab.store import ResultsError, Store
from tangents.lab.study import expand
from tangents.lab.sweep import SweepError, run_stack, stacks, sweep
from tests.toy import STUDY, Toy, run

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [Toy(seed=seed) for seed in range(6)]


def command(store, *options):
    program = [sys.executable, "-m", "tangents", "run", "tests.toy", "--store", str(store)]
    return [*program, *map(str, options)]


def recorded(record):
    """The toy, noting what it is asked to compute."""

    def noting(configs, device):
        record.append(list(configs))
        yield from run(configs, device)

    return dataclasses.replace(STUDY, run=noting)


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_a_stack_differs_in_stack_fields_only():
    configs = [Toy(width=w, seed=s, scaled_alpha=a) for s in (0, 1) for w in (2, 4) for a in (1, 2)]
    found = stacks(STUDY, configs)
    assert [len(stack) for stack in found] == [4, 4]
    assert all(len({config.width for config in stack}) == 1 for stack in found)
    assert sorted(str(config) for stack in found for config in stack) == sorted(map(str, configs))
    assert [len(s) for s in stacks(STUDY, configs, max_stack=3)] == [3, 1, 3, 1]


def test_a_sweep_computes_what_is_missing_and_nothing_twice(tmp_path):
    store, record = Store(tmp_path), []
    study = recorded(record)
    assert sweep(study, CONFIGS[:2], store, progress=False) == 2
    assert sweep(study, CONFIGS, store, progress=False, max_stack=3) == 4
    assert sweep(study, CONFIGS, store, progress=False) == 0
    assert record == [CONFIGS[:2], CONFIGS[2:5], CONFIGS[5:]]
    assert [path.suffix for path in (tmp_path / "toy").iterdir()] == [".npz"] * 6


def test_a_damaged_run_is_computed_again(tmp_path, caplog):
    store, record = Store(tmp_path), []
    sweep(STUDY, CONFIGS, store, progress=False)
    store.path(STUDY, CONFIGS[2]).write_bytes(b"PK")
    assert sweep(recorded(record), CONFIGS, store, progress=False) == 1
    assert record == [[CONFIGS[2]]] and store.has(STUDY, CONFIGS[2])
    assert [r.message.partition(" (")[0] for r in caplog.records] == [
        f"damaged run file {store.path(STUDY, CONFIGS[2])}"
    ]


def test_seconds_of_a_stack_add_up_to_its_length(tmp_path):
    store, configs = Store(tmp_path), [Toy(seed=seed, slow=0.05) for seed in range(4)]
    start = time.perf_counter()
    for _ in run_stack(STUDY, configs, store):
        pass
    passed = time.perf_counter() - start
    seconds = [store.get(STUDY, config).provenance["seconds"] for config in configs]
    assert seconds == sorted(seconds)
    assert 0.2 <= sum(seconds) <= passed


def test_a_failing_stack_does_not_stop_the_others(tmp_path, caplog):
    store = Store(tmp_path)
    configs = [Toy(kind="fail"), *CONFIGS, Toy(kind="short", seed=1), Toy(kind="short", seed=2)]
    with pytest.raises(SweepError) as caught:
        sweep(STUDY, configs, store, progress=False)
    message = str(caught.value)
    assert "2 of 9 runs failed: RuntimeError: the toy was told to fail (toy.py:" in message
    assert "\n" not in message
    assert all(store.has(STUDY, config) for config in CONFIGS)
    assert store.has(STUDY, configs[-2]) and not store.has(STUDY, configs[-1])
    assert "left out 1 of 2 runs" in caplog.text


def test_a_member_yielded_twice_is_refused(tmp_path):
    def twice(configs, device):
        yield from run(configs, device)
        yield from run(configs, device)

    with pytest.raises(SweepError, match="member 0 twice"):
        list(run_stack(dataclasses.replace(STUDY, run=twice), CONFIGS, Store(tmp_path)))


def test_a_store_that_cannot_be_written_stops_the_sweep(tmp_path, monkeypatch):
    record = []

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        sweep(recorded(record), CONFIGS, Store(tmp_path), progress=False, max_stack=1)
    assert len(record) == 1
    assert not list((tmp_path / "toy").iterdir())


def test_an_unusable_device_is_one_line(tmp_path):
    with pytest.raises(SweepError, match="device 'cuda:99' cannot be used"):
        sweep(STUDY, CONFIGS, Store(tmp_path), device="cuda:99", progress=False)


def test_sigkill_loses_only_runs_in_flight(tmp_path):
    options = ["--preset", "book", "--slow", 0.25, "--max-stack", 5]
    files = tmp_path / "toy"
    first = subprocess.Popen(
        command(tmp_path, *options), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: len(list(files.glob("*.npz"))) >= 3)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = {path: path.stat().st_mtime_ns for path in files.glob("*.npz")}
    configs = expand(STUDY, "book", {"slow": 0.25})
    assert 3 <= len(before) < len(configs)
    (files / ".tmp-1-dead").write_bytes(b"half a run")
    os.utime(files / ".tmp-1-dead", (0, 0))

    record, store = [], Store(tmp_path)
    fast = dataclasses.replace(STUDY, run=lambda cs, device: record.extend(cs) or later(cs))
    sweep(fast, configs, store, progress=False)
    assert len(record) == len(configs) - len(before)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert all(store.has(STUDY, config) for config in configs)
    left = {path.suffix for path in files.iterdir()}
    assert left == {".npz"}, "no temporary files, no locks"


def elsewhere(configs, root):
    """Another sweep of these runs in a thread, once it computes: holding their locks."""
    begun = threading.Event()

    def begins(todo, device):
        begun.set()
        yield from run(todo, device)

    study = dataclasses.replace(STUDY, run=begins)
    other = threading.Thread(target=lambda: list(run_stack(study, configs, Store(root))))
    other.start()
    assert begun.wait(60)
    return other


def later(configs):
    """The slow toy's results without the wait."""
    return run([dataclasses.replace(config, slow=0.0) for config in configs], "cpu")


def test_two_sweeps_share_a_store(tmp_path):
    options = ["--preset", "book", "--slow", 0.1, "--max-stack", 2]
    pair = [
        subprocess.Popen(
            command(tmp_path, *options),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    configs, store = expand(STUDY, "book", {"slow": 0.1}), Store(tmp_path)
    assert all(store.has(STUDY, config) for config in configs)
    assert {path.suffix for path in (tmp_path / "toy").iterdir()} == {".npz"}


def test_runs_that_another_sweep_computes_are_awaited(tmp_path, monkeypatch):
    """The other holds the locks, and stores its runs while we wait."""
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    record, store = [], Store(tmp_path)
    slow = [Toy(seed=seed, slow=0.2) for seed in range(3)]
    other = elsewhere(slow, tmp_path)
    sweep(recorded(record), [*slow, *CONFIGS], store, progress=False)
    other.join()
    assert record == [CONFIGS]
    assert all(store.has(STUDY, config) for config in slow)


def test_a_failure_does_not_count_runs_of_another_sweep(tmp_path, monkeypatch):
    """Of one stack the other computes a run, and here the rest fails."""
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    theirs, store = Toy(seed=0, slow=0.5), Store(tmp_path)
    other = elsewhere([theirs], tmp_path)

    def fails(configs, device):
        raise RuntimeError("told to fail")

    failing = dataclasses.replace(STUDY, run=fails)
    with pytest.raises(SweepError, match="1 of 2 runs failed"):
        sweep(failing, [theirs, Toy(seed=1, slow=0.5)], store, progress=False)
    other.join()
    assert store.has(STUDY, theirs)


def test_progress_tells_the_time_left(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    sweep(STUDY, [Toy(seed=seed, slow=0.01) for seed in range(3)], Store(tmp_path))
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert not out and lines[0] == "toy: 3 runs to compute"
    assert lines[1].startswith("toy: 1/3 runs") and "left" in lines[1]
    assert lines[-1].startswith("toy: 3/3 runs")


def test_workers_share_the_stacks(tmp_path):
    """Two local processes, with runs that fail among the others."""
    options = ["--preset", "smoke", "--kind", "plain", "fail", "--workers", 2]
    found = subprocess.run(
        command(tmp_path, *options), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    *_, last = found.stderr.splitlines()
    assert last.startswith("tangents: toy: 5 of 10 runs failed: RuntimeError: the toy was told")
    assert "Traceback" not in found.stderr
    assert len(Store(tmp_path).list(STUDY)) == 5


def test_a_full_disk_under_workers_is_one_line(tmp_path):
    """The workers may write no file beyond 200 bytes."""
    code = (
        "import resource, sys\n"
        "from tangents.__main__ import main\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "    sys.exit(main(['run', 'tests.toy', '--workers', '2', '--store', sys.argv[1]]))"
    )
    (tmp_path / "few.py").write_text(code)
    program = [sys.executable, str(tmp_path / "few.py"), str(tmp_path / "runs")]
    settings = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        program, cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    told = [line for line in found.stderr.splitlines() if not line.startswith("toy: ")]
    assert found.returncode == 1 and len(told) == 1, found.stderr
    assert told[0].startswith("tangents: cannot write ") and "File too large" in told[0]
