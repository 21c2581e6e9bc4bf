"""Break it on purpose: kill processes at random moments, hand in nonsense, flip bits; count what
comes of it.

    python tools/breaking.py [--kills 100] [--inputs 200] [--flips 300] [--seed 0] [--record]

Each attempt is *noticed* (one line says so), *computed again* rightly, or *harmless* (the result is
the same); else it is *wrong*: another number in silence, a lost run, a page that shows what it does
not come from, a traceback. Exit status 1 where one is. --record keeps the counts in
data/results/breaking.csv.
"""

import argparse
import contextlib
import csv
import dataclasses
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "tools")]  # the tests' study and cases

from tangents import models  # noqa: E402
from tangents._ntk import disk  # noqa: E402
from tangents.data import sources  # noqa: E402
from tangents.data.sources import DataError, Dataset, Source  # noqa: E402
from tangents.empirical import ntk, ntk_on_disk  # noqa: E402
from tangents.lab.provenance import device_name, provenance  # noqa: E402
from tangents.lab.store import ResultsError, Store, measurements, publish, published, seal  # noqa: E402
from tangents.lab.study import LabError, expand  # noqa: E402
from tangents.lab.sweep import sweep  # noqa: E402
from tangents.pages import replay  # noqa: E402
from tests import toy  # noqa: E402
from tests.breaking.commands import environment  # noqa: E402

MEASURED = "benchmark-engine.csv"
RECORD = ROOT / "data" / "results" / "breaking.csv"
OUTCOMES = NOTICED, REDONE, HARMLESS, WRONG = "noticed", "computed again", "harmless", "wrong"
REFUSALS = (ValueError, TypeError, OSError, LabError, DataError, replay.ChapterError)
LONGEST = 1000  # characters of one line
STUDY = toy.STUDY
SLOWED = dataclasses.replace(
    STUDY, presets={"book": [{**grid, "slow": 0.005} for grid in STUDY.presets["book"]]}
)
CONFIGS = expand(SLOWED, "book")


class Broken(AssertionError):
    """What must not happen, in words."""


class Attempt(NamedTuple):
    """One attempt: its kind, its name, and what tells its outcome, or raises."""

    kind: str
    name: str
    outcome: Callable[[], str]


def demand(condition: object, words: str) -> None:
    if not condition:
        raise Broken(words)


def told(error: BaseException) -> str:
    """NOTICED where the error is one line; Broken where it is none."""
    line = str(error)
    demand(line and "\n" not in line and len(line) < LONGEST, f"not one line: {line[:200]!r}")
    return NOTICED


# ---- what is made, and how it is seen to be right: `prepare` once, `make` in the process that is
# killed, `check` after it


class Sweep:
    """A sweep of 30 runs."""

    def prepare(self, folder: Path) -> None:
        """Nothing is there before."""

    def make(self, folder: Path) -> None:
        sweep(STUDY, CONFIGS, Store(folder), progress=False)

    def check(self, folder: Path) -> str:
        store, again = Store(folder), []
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
        study = dataclasses.replace(STUDY, run=lambda some, _: again.extend(some) or self.run(some))
        sweep(study, CONFIGS, store, progress=False)
        demand(len(again) == len(CONFIGS) - len(kept), "a finished run is lost, or came twice")
        demand(all(path.stat().st_mtime_ns == at for path, at in kept.items()), "written anew")
        for config in CONFIGS:
            demand(right(store, config), f"a wrong run: {config}")
        return REDONE if again else HARMLESS

    @staticmethod
    def run(configs):
        yield from STUDY.run([dataclasses.replace(c, slow=0.0) for c in configs], "cpu")


def right(store: Store, config: toy.Toy) -> bool:
    run = store.get(STUDY, config)
    rows = toy.rows(config)
    field = np.full((2, 2), config.seed, np.float16)
    return (
        run is not None
        and run.config == dataclasses.asdict(config)
        and all(run.rows[name] == [row[name] for row in rows] for name in run.rows)
        and run.arrays.keys() == {"field"}
        and np.array_equal(run.arrays["field"], field)
        and run.arrays["field"].dtype == field.dtype
    )


class Publish:
    """A table and its arrays, over those of an earlier publication."""

    def prepare(self, folder: Path) -> None:
        store = Store(folder / "runs")
        for factor, places in ((1.0, ("former", "out")), (2.0, ("latter",))):
            for config in CONFIGS:
                field = {"field": np.full((40, 40), factor * config.seed)}
                rows = [{**row, "value": factor * row["value"]} for row in toy.rows(config)]
                store.put(STUDY, config, rows, field, provenance(config, "cpu", factor))
            for place in places:
                publish(SLOWED, "book", store, folder / place)

    def make(self, folder: Path) -> None:
        publish(SLOWED, "book", Store(folder / "runs"), folder / "out")

    def check(self, folder: Path) -> str:
        latter = published("toy", "book", folder / "latter")
        try:
            now = published("toy", "book", folder / "out")
        except ResultsError as error:
            outcome = told(error)
        else:
            former = published("toy", "book", folder / "former")
            demand(any(same(now, each) for each in (former, latter)), "a table of two parts")
            outcome = HARMLESS
        self.make(folder)
        demand(same(published("toy", "book", folder / "out"), latter), "a wrong table")
        return outcome


def same(one: tuple[pd.DataFrame, dict], other: tuple[pd.DataFrame, dict]) -> bool:
    (frame, arrays), (frame_, arrays_) = one, other
    equal = (np.array_equal(arrays[n], arrays_.get(n), equal_nan=True) for n in arrays)
    return frame.equals(frame_) and arrays.keys() == arrays_.keys() and all(equal)


class Kernel:
    """A kernel on disk, of 55 blocks."""

    def __init__(self) -> None:
        self.net = models.MLP(3, 8, 2, c=2)
        self.params = {name: v.double() for name, v in models.initialise(self.net, 0).items()}
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(40, 3, generator=generator, dtype=torch.float64)

    def prepare(self, folder: Path) -> None:
        right = self.make(folder, "right.npy")
        exact = ntk(self.net, self.params, self.x, outputs="trace").numpy()
        demand(np.allclose(right, exact, rtol=1e-9), "another kernel than in memory")

    def make(self, folder: Path, name: str = "theta.npy") -> np.ndarray:
        size, disk.BLOCK = disk.BLOCK, 4
        try:
            return ntk_on_disk(folder / name, self.net, self.params, self.x, progress=False)
        finally:
            disk.BLOCK = size

    def check(self, folder: Path) -> str:
        outcome = HARMLESS if (folder / "theta.npy").exists() else REDONE
        try:
            found = self.make(folder)
        except REFUSALS as error:
            outcome = told(error)
            for path in folder.glob("theta.*"):  # as it asks for
                path.unlink()
            found = self.make(folder)
        demand(np.array_equal(found, np.load(folder / "right.npy")), "a wrong kernel")
        return outcome


class Data:
    """Three raw files, unpacked from a local source into their place."""

    def __init__(self) -> None:
        self.raw = {name: random.Random(name).randbytes(10**6) for name in ("a", "b", "c")}
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self.raw.items()}
        source = Source("here", ("*.gz",), self.download, sources.gunzip)
        self.dataset = Dataset("small", None, "", files, (source,))

    def download(self, work: Path) -> None:
        for name, content in self.raw.items():
            (work / f"{name}.gz").write_bytes(gzip.compress(content, 1))

    def prepare(self, folder: Path) -> None:
        """Nothing is there before."""

    def make(self, folder: Path) -> None:
        with environment(TANGENTS_DATA=str(folder)):
            sources.obtain(self.dataset)

    def check(self, folder: Path) -> str:
        with environment(TANGENTS_DATA=str(folder)):
            state = sources.state(self.dataset)
            outcome = HARMLESS if state == "verified" else REDONE
            try:
                place = sources.obtain(self.dataset)
            except DataError as error:
                outcome = told(error)
                place = sources.obtain(self.dataset)
        found = {path.name: path.read_bytes() for path in place.iterdir()}
        demand(found == self.raw, "wrong raw files")
        left = [path for path in folder.glob(".small-*/**/*") if path.is_file()]
        demand(not left, f"left behind: {left}")
        return outcome


class Chapter:
    """A notebook executed with another parameter, and its page, over an earlier execution."""

    cells = (
        ("markdown", "# Small\n\nA chapter.", {}),
        ("code", "alpha = 1", {"tags": ["parameters"]}),
        ("code", "print('alpha', 'is', alpha)", {}),
    )

    def prepare(self, folder: Path) -> None:
        made = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
        cells = [made[kind](text, metadata=m, id=str(i))
                 for i, (kind, text, m) in enumerate(self.cells)]  # fmt: skip
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "small.ipynb")
        self.execute(folder, "1")

    def make(self, folder: Path) -> None:
        self.execute(folder, "2")

    @staticmethod
    def execute(folder: Path, alpha: str) -> None:
        replay.execute(folder / "small.ipynb", {"alpha": alpha}, folder / "out" / "mine.ipynb")

    def check(self, folder: Path) -> str:
        output = folder / "out" / "mine.ipynb"
        notebook, page = output.read_text(), output.with_suffix("") / "book" / "small.html"
        shown = [alpha for alpha in (1, 2) if f"alpha is {alpha}" in notebook]
        demand(len(shown) == 1 and json.loads(notebook), "no notebook")
        if page.exists():
            html = page.read_text()
            whole = f"alpha is {shown[0]}" in html and html.rstrip().endswith("</html>")
            demand(whole and (page.parents[1] / "_static").is_dir(), "a page that lies")
        else:
            demand(not output.with_suffix("").exists(), "half a page")
        return HARMLESS if page.exists() else NOTICED


SCENES = {"sweep": Sweep(), "publish": Publish(), "kernel on disk": Kernel(), "data": Data(),
          "chapter": Chapter()}  # fmt: skip
SHARES = {"sweep": 8, "publish": 5, "kernel on disk": 4, "data": 2, "chapter": 1}  # of 20 kills


# ---- kills


def _act(name: str, folder: Path, ready) -> None:
    """In the process that is killed, and all that it started with it."""
    os.setsid()
    tqdm.set_lock(threading.RLock())  # its own is known to all processes, and would be left
    torch.set_num_threads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ready.send(None)
    start = time.perf_counter()
    SCENES[name].make(folder)
    ready.send(time.perf_counter() - start)


class Killer:
    """Scenes, each prepared once, whose process is killed at a moment of its whole length."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lengths = folder, {}
        self.context = multiprocessing.get_context("forkserver")
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server imports once for all
        self.context.set_forkserver_preload(["breaking", "papermill"])

    def run(self, name: str, folder: Path, share: float | None) -> float:
        """Seconds that it took; with a share, killed when that share of its length has passed."""
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_act, args=(name, folder, there))
        process.start()
        there.close()
        try:
            here.recv()
            if share is None:
                return here.recv()
            here.poll(share * self.lengths[name])
            return 0.0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            here.close()

    def attempt(self, name: str, share: float, number: int) -> str:
        scene, pattern = SCENES[name], self.folder / name / "pattern"
        if name not in self.lengths:
            pattern.mkdir(parents=True)
            scene.prepare(pattern)
            whole = shutil.copytree(pattern, self.folder / name / "whole")
            self.lengths[name] = self.run(name, whole, None)
        folder = shutil.copytree(pattern, self.folder / name / str(number))
        self.run(name, folder, share)
        outcome = scene.check(folder)
        shutil.rmtree(folder)
        return outcome


def kills(count: int, rng: random.Random, folder: Path) -> Iterator[Attempt]:
    killer = Killer(folder)
    names = rng.sample([*SHARES], counts=[v * count for v in SHARES.values()], k=count)
    for number, name in enumerate(names):
        share = rng.random()
        act = lambda name=name, share=share, number=number: killer.attempt(name, share, number)  # noqa: E731
        yield Attempt(f"killed: {name}", f"at {share:.0%} of its time", act)


# ---- nonsense


def refused(act: Callable[[], object]) -> str:
    try:
        found = act()
    except REFUSALS as error:
        return told(error)
    raise Broken(f"accepted: {' '.join(repr(found).split())[:200]}")


def inputs(count: int, rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Of the tables below tests/breaking: (name, function that must raise, on one line)."""
    cases = [("bad input: commands and tables", *c)
             for c in import_module("tests.breaking.commands").cases(folder)]  # fmt: skip
    if find_spec("tests.breaking.inputs"):
        cases += [("bad input: kernels and steps", *c)
                  for c in import_module("tests.breaking.inputs").CASES]  # fmt: skip
    for kind, name, act in rng.sample(cases, min(count, len(cases))):
        yield Attempt(kind, name, lambda act=act: refused(act))


# ---- bits


def flipped(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = rng.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return f"bit {place} of {path.name}"


FLIPPED = (
    "stored run", "published table", "published arrays", "checksums of a table",
    "table of measurements", "data file", "kernel on disk", "list of a kernel's blocks",
    "kernel half done",
)  # fmt: skip


def files(folder: Path) -> dict[str, tuple[Path, Path, Callable[[Path], str]]]:
    """What can be flipped: kind, the folder it is in, the file, and what reads it again."""
    made = {}
    for name in ("sweep", "publish", "kernel on disk", "data"):
        made[name] = folder / "made" / name
        made[name].mkdir(parents=True)
        SCENES[name].prepare(made[name])
        SCENES[name].make(made[name])
    begun = shutil.copytree(made["kernel on disk"], folder / "made" / "begun")
    _undo(begun)
    run = Store(made["sweep"]).path(STUDY, CONFIGS[7]).relative_to(made["sweep"])
    shutil.copytree(RECORD.parent, folder / "made" / "results")
    table, kernel = Path("out/toy-book.parquet"), Path("theta.npy")
    return {
        "stored run": (made["sweep"], run, _stored),
        "table of measurements": (folder / "made" / "results", Path(MEASURED), _measurements),
        "published table": (made["publish"], table, _table),
        "published arrays": (made["publish"], table.with_suffix(".npz"), _table),
        "checksums of a table": (made["publish"], table.with_suffix(".sha256"), _table),
        "data file": (made["data"], Path("small/b"), SCENES["data"].check),
        "kernel on disk": (made["kernel on disk"], kernel, SCENES["kernel on disk"].check),
        "list of a kernel's blocks": (
            made["kernel on disk"], Path("theta.npy.blocks"), SCENES["kernel on disk"].check,
        ),
        "kernel half done": (begun, Path("theta.npy.part"), SCENES["kernel on disk"].check),
    }  # fmt: skip


def _undo(folder: Path) -> None:
    """The kernel as if it had been stopped after half its blocks."""
    journal = folder / "theta.npy.blocks"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))
    os.replace(folder / "theta.npy", folder / "theta.npy.part")


def _stored(folder: Path) -> str:
    """A damaged run is told of, and computed again."""
    done = Store(folder).has(STUDY, CONFIGS[7])
    sweep(STUDY, CONFIGS, Store(folder), progress=False)
    demand(right(Store(folder), CONFIGS[7]), "a wrong run")
    return HARMLESS if done else REDONE


def _table(folder: Path) -> str:
    try:
        now = published("toy", "book", folder / "out")
    except ResultsError as error:
        return told(error)
    demand(same(now, published("toy", "book", folder / "latter")), "a wrong table")
    return HARMLESS


def _measurements(folder: Path) -> str:
    try:
        now = measurements(MEASURED, folder)
    except ResultsError as error:
        return told(error)
    demand(now.equals(measurements(MEASURED, RECORD.parent)), "a wrong table")
    return HARMLESS


def flips(count: int, rng: random.Random, folder: Path) -> Iterator[Attempt]:
    made: dict = {}
    for number in range(count):
        kind, seed = FLIPPED[number % len(FLIPPED)], rng.random()

        def act(kind=kind, seed=seed, number=number) -> str:
            if not made:
                made.update(files(folder))
            whole, file, read = made[kind]
            copy = shutil.copytree(whole, folder / str(number))
            where = flipped(copy / file, random.Random(seed))
            try:
                return read(copy)
            except Broken as error:
                raise Broken(f"{where}: {error}") from error
            finally:
                shutil.rmtree(copy)

        yield Attempt(f"flipped bit: {kind}", f"flip {number}", act)


# ---- all of it


def judge(attempt: Attempt) -> tuple[str, str]:
    """Its outcome, and where it is wrong why."""
    try:
        return attempt.outcome(), ""
    except Exception as error:  # a traceback for whoever would have met it
        return WRONG, " ".join(f"{type(error).__name__}: {error}".split())[:400]


def run(attempts: list[Attempt], shown: bool = True) -> tuple[Counter, list[str]]:
    """Counts by (kind, outcome), and a line for each that is wrong."""
    counts, wrong = Counter(), []
    for attempt in tqdm(attempts, unit="attempt", disable=not shown):
        outcome, reason = judge(attempt)
        counts[attempt.kind, outcome] += 1
        if outcome == WRONG:
            wrong.append(f"{attempt.kind}, {attempt.name}: {reason}")
    return counts, wrong


def table(counts: Counter) -> list[list]:
    """A row for each kind, and their sum."""
    kinds = dict.fromkeys(kind for kind, _ in counts)
    rows = [[kind, *(counts[kind, outcome] for outcome in OUTCOMES)] for kind in kinds]
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 5))])
    return [[row[0], sum(row[1:]), *row[1:]] for row in rows]


def attempts(counts: tuple[int, int, int], seed: int, folder: Path) -> list[Attempt]:
    rng = random.Random(seed)
    found = []
    for each, count in zip((kills, inputs, flips), counts, strict=True):
        place = folder / each.__name__
        place.mkdir()
        found += each(count, rng, place) if count else []
    return found


def record(rows: list[list], seed: int) -> None:
    machine = f"{device_name('cpu')}, {os.cpu_count()} cores"
    with RECORD.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["attempt", "tried", *OUTCOMES, "seed", "machine"])
        writer.writerows([*row, seed, machine] for row in rows)
    seal(RECORD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, count in (("kills", 100), ("inputs", 200), ("flips", 300), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"default {count}")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    args = parser.parse_args()
    logging.getLogger("tangents").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tangents-breaking-") as folder:
        counts = (args.kills, args.inputs, args.flips)
        found, wrong = run(attempts(counts, args.seed, Path(folder)))
    rows = table(found)
    for row in [["attempt", "tried", *OUTCOMES], *rows]:
        print(f"{row[0]:40}" + "".join(f"{cell!s:>16}" for cell in row[1:]))
    print(*wrong, sep="\n", file=sys.stderr)
    if args.record:
        record(rows, args.seed)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
