"""Bad input to the command line and to the lab, the data and the pages: all of it is refused, each
on one line. `cases` gives (name, function that must raise)."""

import contextlib
import dataclasses
import io
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from tangents.__main__ import COMMANDS, main
from tangents.data import series, sets, tasks, uci
from tangents.lab import audit
from tangents.lab.store import Store, publish, published, seal
from tangents.lab.study import Config, LabError, Study, coerce, expand
from tangents.lab.sweep import sweep
from tangents.pages import chapter
from tests.toy import STUDY, Toy, rows, run

Case = tuple[str, Callable[[], object]]

NUMBERS = ("0", "-1", "1.5", "abc", "", "nan", "1e999", "٣x", "[1]")
STUDIES = ("", ".", "..", "a..b", "../lazy", "LAZY", "lazy ", "json", "os.path", "tangents.lab",
           "tests.toy.STUDY", "tests.absent", "a/b", "--", "1.2")  # fmt: skip
DEVICES = ("", "gpu", "cuda:", "cuda:x", "cpu:0", "CPU", "meta", "cuda:99")
FIELDS = {
    "width": ("0", "-3", "1.5", "abc", "", "nan", "inf", "1e400", "9" * 30, "true", "[4]", "1:30"),
    "scaled-alpha": ("abc", "", "nan", "1:30", "true", "1,5", "0x10"),
    "seed": ("1.5", "abc", "nan", "9" * 30, "--"),
    "flag": ("yes", "2", "", "nan", "null"),
    "widht": ("3",),
    "": ("3",),
    "field width": ("3",),
}
PARAMETERS = {
    "alpha": ("abc", "true", "", "[1]", "1:30", "{a: 1}", "&a [*a]", "!!python/name:os.system",
              "!!float 1", "null", "2020-01-01", "- 1", "1\n---\n2", "\x00", "&" * 3000,
              "&a [" + ", ".join(["*a"] * 500) + "]"),
    "width": ("0.5", "abc", "1e2", "1e999", "true", "", "null", "9" * 5000, "0x10"),
    "seeds": ("1", "abc", "[abc]", "[0.5]", "[true]", "[1", "[[1]]", "[{a: 1}]", "[&a 1, *a]",
              "[" * 3000),
    "name": ("1", "true", "null", "[a]", "{a: b}", "nan"),
    "small": ("1", "0", "yes", "'true'", ""),
    "alhpa": ("1",),
    "": ("1",),
    "alpha; import os": ("1",),
}  # fmt: skip
NOTEBOOKS = ("", "no JSON", "[]", "{}", "null", "3", '{"cells": 3}', '{"cells": [{}]}', "[" * 10**5,
             '{"cells": [null]}', '{"cells": [', '{"cells": [{"metadata": [], "source": 3}]}')


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """These variables, until the end."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def command(*words: object) -> None:
    """Runs a command; raises LabError with its complaint. What it accepts is no error, and neither
    is a traceback."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(word) for word in words])
    if status:
        lines = told.getvalue().splitlines(keepends=True)
        lines = [line for line in lines if not line.endswith(" runs to compute\n")]  # progress
        raise LabError("".join(lines).removesuffix("\n"))


def cases(folder: Path) -> Iterator[Case]:
    """All of them; `folder` is theirs to write into, and nothing else is written."""
    os.environ.update(
        {f"TANGENTS_{name}": str(folder / name.lower()) for name in ("RUNS", "RESULTS", "DATA")}
    )
    yield from _commands(folder)
    yield from _chapters(folder)
    yield from _tables(folder)
    yield from _data(folder)
    yield from _measures(folder)
    yield from _lab(folder)


def _line(*words: object) -> Case:
    shown = " ".join(repr(str(word)[:40]) for word in words)
    return f"tangents {shown}", lambda: command(*words)


def _commands(folder: Path) -> Iterator[Case]:
    yield _line()
    yield _line("")
    yield _line("rnu", "lazy")
    for name in COMMANDS:
        yield _line(name, "--nosuchoption")
        yield _line(name, "--nosuchoption=1")
        yield _line(name, "--help=1")
    for name, study in product(("run", "publish", "audit", "claims", "table"), STUDIES):
        yield _line(name, study)
    for study in (*STUDIES, "tests.toy"):
        yield _line("plot", study, "headline")
    for words in ("", "--claim x", "--width abc", "--widht 3", "--preset paper"):
        yield _line("table", "tests.toy", *words.split())
    yield _line("plot", "lazy", "headline")
    run = ("run", "tests.toy", "--dry-run")
    for option, value in product(("--workers", "--threads", "--max-stack"), NUMBERS):
        yield _line(*run, option, value)
    for device in DEVICES:
        yield _line("run", "tests.toy", "--device", device)
    for option, values in FIELDS.items():
        for value in values:
            yield _line(*run, f"--{option}", value)
            yield _line(*run, f"--{option}={value}")
            yield _line(*run, "--only", option.replace("-", "_"), value)
    for name, preset in product(("run", "publish", "audit"), ("", "smok", "paper", "book,smoke")):
        yield _line(name, "tests.toy", "--preset", preset)
    for fraction in (*NUMBERS[:4], "2", "inf", "nan"):
        yield _line("audit", "tests.toy", "--fraction", fraction)
    yield _line("audit", "tests.toy", "--seed", "1.5")
    yield _line("run", "tests.toy", "extra")
    yield _line("run", "--width", "3", "tests.toy")
    yield _line("run", "tests.toy", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    yield _line("claims", "--preset", "smoke")
    (folder / "file").write_text("a file")
    for place in (folder / "file", "/dev/null", "/proc/none"):
        yield _line("run", "tests.toy", "--store", place)
        yield _line("publish", "tests.toy", "--store", place)
    for module, code in {"leaves": "import sys; sys.exit()", "lacks": "STUDY = 3",
                         "raises": "raise KeyError('a\\nb')", "half": "def f(",
                         "wants": "import nosuchmodule"}.items():  # fmt: skip
        path = folder / "code" / f"broken_{module}" / "study.py"
        path.parent.mkdir(parents=True)
        path.write_text(code)
        yield f"a study that {module}", lambda module=module: _elsewhere(folder / "code", module)


def _elsewhere(folder: Path, module: str) -> None:
    import sys

    sys.path.insert(0, str(folder))
    try:
        command("run", f"broken_{module}.study")
    finally:
        sys.path.remove(str(folder))


def _chapters(folder: Path) -> Iterator[Case]:
    book = folder / "book"
    book.mkdir()
    source = 'alpha = 0.1\nwidth = 32\nseeds = [0]\nname = "book"\nsmall = True'
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}, id="a")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), book / "small.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), book / "bare.ipynb")
    small = ("chapter", "small", "--book", book)
    for name, values in PARAMETERS.items():
        for value in values:
            yield _line(*small, "-p", name, value)
    for name in ("", "..", "smal", "../book/small", "/etc/passwd", "small.ipynb", "s" * 300):
        yield _line("chapter", name, "--book", book)
    yield _line("chapter", "small", "--book", folder / "nowhere")
    yield _line("chapter", "bare", "--book", book, "-p", "alpha", "1")
    for output in (book / "small.ipynb", book / "small.html", book, "/dev/null"):
        yield _line(*small, "--output", output)
    (folder / "mine").mkdir()
    yield _line(*small, "--output", folder / "mine.ipynb")
    for number, text in enumerate(NOTEBOOKS):
        (book / f"n{number}.ipynb").write_text(text)
        yield _line("chapter", f"n{number}", "--book", book)
    (book / "bytes.ipynb").write_bytes(b"\xff\xfe\x00")
    yield _line("chapter", "bytes", "--book", book)
    for text in ("width", "width=", "=3", "width:3", "width=abc", "widht=3", "width=3,,4", "a=b=c"):
        yield f"load(fields={text!r})", lambda text=text: chapter.load("tests.toy", "book", text)
    yield "load of no study", lambda: chapter.load("nothing")
    yield "load of no preset", lambda: chapter.load("lazy", "bok")


def _tables(folder: Path) -> Iterator[Case]:
    """Published tables that lack something, although their checksums are right."""
    store = Store(folder / "stored")
    configs = [Toy(width=2, seed=seed) for seed in range(2)]
    for config in configs:
        store.put(STUDY, config, rows(config), {"field": np.ones(2)}, {"commit": "", "seconds": 1})
    small = dataclasses.replace(STUDY, presets={"book": [{"width": 2, "seed": range(2)}]})
    whole = publish(small, "book", store, folder / "whole")
    frame = pd.read_parquet(whole)
    changed = {f"without {name}": frame.drop(columns=name)
               for name in ("run_id", "step", "split", "metric", "value", "commit", "seconds")}
    changed |= {"empty": frame.iloc[:0], "of two columns": frame[["run_id", "value"]]}
    for number, (name, table) in enumerate(changed.items()):
        place = folder / "tables" / str(number)
        place.mkdir(parents=True)
        table.to_parquet(place / whole.name)
        seal(place / whole.name)
        yield from _readers(f"a table {name}", place, store)
    for number, damage in enumerate((b"", b"PAR1", b"PAR1" * 100, b"\x00" * 1000)):
        for suffix, sealed in product((".parquet", ".npz"), (True, False)):
            place = folder / "damaged" / f"{number}{suffix}{sealed}"
            shutil.copytree(whole.parent, place)
            (place / whole.name).with_suffix(suffix).write_bytes(damage)
            if sealed:
                seal(place / whole.name)
            yield from _readers(f"a damaged {suffix}", place, store)


def _readers(name: str, place: Path, store: Store) -> Iterator[Case]:
    def inside(*words: str) -> None:
        with environment(TANGENTS_RESULTS=str(place)):
            command(*words)

    yield f"{name}, read", lambda: published("toy", "book", place)
    yield f"{name}, claims", lambda: inside("claims", "tests.toy")
    yield f"{name}, audit", lambda: inside("audit", "tests.toy")
    yield f"{name}, table", lambda: inside("table", "tests.toy")
    reuse = ("run", "tests.toy", "--preset", "book", "--reuse", "--store", str(store.root / "x"))
    yield f"{name}, reuse", lambda: inside(*reuse, "--dry-run")


def _data(folder: Path) -> Iterator[Case]:
    for name in ("", "mnits", "..", "MNIST"):
        yield _line("data", name)
        yield f"load({name!r})", lambda name=name: sets.load(name)
        yield f"load_table({name!r})", lambda name=name: sets.load_table(name)
        yield f"load_series({name!r})", lambda name=name: series.load_series(name)
        yield f"load_examples({name!r})", lambda name=name: uci.load_examples(name)
    for make in (tasks.parity, tasks.classes, tasks.table, tasks.image_columns, tasks.pair):
        known = "wine" if make is tasks.table else "digits"
        for some in ((0, 1), (-1, 1), (10**6, 0), (1, -1), (2, 10**6), (1.5, 1), ("3", 1)):
            words = (known, *some)
            yield f"{make.__name__}{words}", lambda make=make, words=words: make(*words)
        yield f"{make.__name__} of nothing", lambda make=make: make("nothing", 10, 10)
    for options in ({"pca": -1}, {"pca": 65}, {"pca": 3, "flat": False}, {"pca": 1.5}):
        yield f"parity({options})", lambda some=options: tasks.parity("digits", 10, 10, **some)
    for pool in (0, -1, 3, 1.5, 100):
        yield f"classes(pool={pool})", lambda pool=pool: tasks.classes("digits", 10, 10, pool)
    for some in ((0, 0), (0, 10), (0,), (0, 1, 2), ("0", "1")):
        yield f"pair(classes={some})", lambda some=some: tasks.pair("digits", 10, 10, some)
    given = folder / "given"
    given.mkdir()
    os.mkfifo(given / "pipe")
    (given / "folder").mkdir()
    (given / "device").symlink_to("/dev/zero")
    (given / "ucr56_tsv.zip").write_bytes(b"no archive")
    (given / "uci_fd117.npz").write_bytes(b"PK\x03\x04")
    for name in ("pipe", "folder", "device", "none", "ucr56_tsv.zip", "uci_fd117.npz"):
        for data in ("ucr-g-z", "uci"):
            yield _line("data", data, "--from", given / name)
    yield _line("data", "--from", given / "none")
    yield _line("data", "mnist", "uci", "--from", given / "none")
    for kind, make in {"pipe": os.mkfifo, "folder": Path.mkdir,
                       "device": lambda path: path.symlink_to("/dev/zero")}.items():  # fmt: skip
        place = folder / "raw" / kind / "mnist"
        place.mkdir(parents=True)
        make(place / "train-images-idx3-ubyte")
        yield f"a {kind} as a data file", lambda p=place: _with_data(p.parent, "data", "mnist")
    for root in ("~nosuchuser/x", "/dev/null/x", str(folder / "file")):
        yield f"TANGENTS_DATA={root}", lambda r=root: _with_data(r, "data", "ucr-g-z")


def _with_data(root: object, *words: str) -> None:
    with environment(TANGENTS_DATA=str(root)):
        command(*words)


def _measures(folder: Path) -> Iterator[Case]:
    (folder / "net.py").write_text("import sys\ndef build(): sys.exit()\ndef other(): return 3\n")
    (folder / "bad.pt").write_bytes(b"no tensors")
    (folder / "pickle.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for network in ("", "net.py", f"{folder}/net.py:", f"{folder}/net.py:none", ":build",
                    f"{folder}/net.py:build", f"{folder}/net.py:other"):  # fmt: skip
        for file in ("bad.pt", "pickle.pt", "none.pt", "book"):
            path = folder / file
            yield _line("measure", network, "--before", path, "--after", path, "--batch", path)


@dataclasses.dataclass(frozen=True)
class Lists(Config):
    """A config that the lab cannot hold."""

    width: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Taken(Config):
    """A config with a table's own column."""

    value: int = 1


def _lab(folder: Path) -> Iterator[Case]:
    store, config = Store(folder / "lab"), Toy()
    good = rows(config)
    for number, bad in enumerate((
        [], [{}], [{"step": 1}], [{**good[0], "more": 1}], [{**good[0], "step": "x"}],
        [{**good[0], "step": 1.5}], [{**good[0], "value": "abc"}], [{**good[0], "value": None}],
        [{**good[0], "metric": None}], [{**good[0], "metric": 3}], [{**good[0], "step": np.nan}],
    )):  # fmt: skip
        yield f"rows {number}", lambda bad=bad: store.put(STUDY, config, bad, {}, {})
    objects = {"a": np.array([{}], dtype=object)}
    yield "arrays of objects", lambda: store.put(STUDY, config, good, objects, {})
    yield "an array's name", lambda: store.put(STUDY, config, good, {"a/../b": np.ones(1)}, {})
    yield "an array's empty name", lambda: store.put(STUDY, config, good, {"": np.ones(1)}, {})
    for values in ({"width": None}, {"width": 2**70}, {"width": True},
                   {"widht": 1}, {"kind": 3}, {"scaled_alpha": float("nan")}, {"flag": "maybe"},
                   {"width": 0}, {3: 4}):  # fmt: skip
        yield f"coerce({values})", lambda values=values: coerce(Toy, values)
        yield f"expand({values})", lambda values=values: expand(STUDY, "smoke", values)
    yield "no values", lambda: expand(STUDY, "smoke", {"width": []})
    yield "no preset", lambda: expand(STUDY, "paper")
    yield "a list as a field", lambda: Study("a", 1, Lists, {}, (), run)
    yield "a column as a field", lambda: Study("a", 1, Taken, {}, (), run)
    yield "an unknown stack", lambda: Study("a", 1, Toy, {}, ("depth",), run)
    yield "an unknown preset", lambda: Study("a", 1, Toy, {"tiny": []}, (), run)
    yield "no tolerance", lambda: Study("a", 1, Toy, {}, (), run, tolerances={"loss": (0, 0)})
    yield "nothing to publish", lambda: publish(STUDY, "book", Store(folder / "empty"), folder)
    yield "nothing published", lambda: audit.restore(STUDY, "book", store)
    yield "an audit of nothing", lambda: audit.audit(STUDY, "book", 0.5)
    new = [Toy(seed=9)]
    yield "a device", lambda: sweep(STUDY, new, store, device="cuda:99", progress=False)
    failing = [Toy(kind="fail")]
    yield "a study that fails", lambda: sweep(STUDY, failing, store, progress=False)
