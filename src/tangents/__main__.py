"""The command line: each command in one place below.

Messages go to stderr, on one line; exit status 2 means a wrong request, 1 a failure. Each command
imports the heavy modules that it needs, so that help is instant. A study's fields become options of
`run`, `table` and `plot`, so its module is imported for those alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tangents import studies
from tangents.lab.memory import keep_freed_memory
from tangents.lab.provenance import REPOSITORY, in_checkout
from tangents.lab.store import Store, publish, results_root, runs_root
from tangents.lab.study import PRESETS, ConfigError, LabError, Study, expand, fields, unknown


class Failure(LabError):
    """A command that was understood but did not succeed (one line)."""


class Parser(argparse.ArgumentParser):
    """Complains on one line, and reads -1e-3 and -inf as numbers rather than as options."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^-inf$")

    def error(self, message: str) -> None:
        raise ConfigError(message)


class Command(NamedTuple):
    """A command: its options, what it does, and what it says of itself."""

    options: Callable[[Parser, Study | None], None]
    act: Callable[[Namespace], None]
    text: str


# ---- options that several commands have


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"must be in (0, 1], not {text!r}")
    return value


def _preset(text: str) -> str:
    if text not in PRESETS:
        raise ArgumentTypeError(str(unknown("preset", text, PRESETS)))
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise ArgumentTypeError(f"must be cpu, cuda, cuda:N, mps or xpu, not {text!r}")
    return text


def _add_preset(command: Parser, default: str | None, text: str) -> None:
    names = "|".join(PRESETS)
    command.add_argument("--preset", type=_preset, default=default, metavar=names, help=text)


def _add_study(command: Parser, many: bool = False) -> None:
    names = ", ".join(studies.names())
    if many:
        command.add_argument("study", nargs="*", help=f"default all: {names}")
    else:
        command.add_argument("study", help=f"one of: {names} (or a dotted module path)")


def _add_store(command: Parser) -> None:
    text = "folder of the single runs (default $TANGENTS_RUNS or data/runs)"
    command.add_argument("--store", type=Path, default=runs_root(), metavar="DIR", help=text)


def _add_sweep(command: Parser) -> None:
    option = command.add_argument
    option("--device", type=_device, default="cpu", help="torch device (default cpu)")
    option("--threads", type=_positive, metavar="N", help="threads of each process")
    text = "most runs computed as one (default 16)"
    option("--max-stack", type=_positive, default=16, metavar="N", help=text)
    where = command.add_mutually_exclusive_group().add_argument
    text = "local processes of one thread each (default 1: this one)"
    where("--workers", type=_positive, default=1, metavar="N", help=text)
    text = "use the workers of this dask scheduler; they must see the store"
    where("--scheduler", metavar="ADDRESS", help=text)


def _add_fields(command: Parser, study: Study | None) -> None:
    """Which of a preset's runs, and fields of the study that are replaced in them."""
    text = "of the runs, those whose field has this value; repeat for more"
    command.add_argument(
        "--only", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help=text
    )
    if study is None:
        return
    group = command.add_argument_group(f"fields of {study.name}, replaced in every grid")
    for name, known in fields(study.config).items():
        metavar = "|".join(known.choices) or known.kind.__name__.upper()
        rules = [rule.words for rule in known.accepted]
        text = "; ".join(filter(None, [known.meaning, *rules, f"default {known.default}"]))
        group.add_argument(
            f"--{name.replace('_', '-')}", dest=f"field {name}",  # with a space, no other option's
            nargs="+", action="extend", metavar=metavar, help=text.replace("%", "%%"),
        )  # fmt: skip


def _configs(args: Namespace, study: Study) -> list:
    given = {
        name.removeprefix("field "): values
        for name, values in vars(args).items()
        if name.startswith("field ") and values is not None
    }
    return expand(study, args.preset, given, args.only)


def _where() -> str:
    """The folder of published tables."""
    return f"{results_root()}{'' if in_checkout() else '; a checkout has the tables of the book'}"


def _sweep_options(args: Namespace) -> dict:
    names = ("device", "workers", "scheduler", "threads", "max_stack")
    return {name: getattr(args, name) for name in names}


def _studies(names: list[str]) -> list[Study]:
    return [studies.find(name) for name in names or studies.names()]


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    cells = [
        heads,
        *(tuple(f"{c:.4g}" if isinstance(c, float) else str(c) for c in r) for r in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                     for row in cells)  # fmt: skip


# ---- run


def run_options(command: Parser, study: Study | None) -> None:
    _add_study(command)
    _add_preset(command, "smoke", "default smoke")
    _add_store(command)
    _add_sweep(command)
    text = "take finished runs from the published table first"
    command.add_argument("--reuse", action="store_true", help=text)
    text = "only count done and missing, and say how long these take"
    command.add_argument("--dry-run", action="store_true", help=text)
    _add_fields(command, study)


def run(args: Namespace) -> None:
    from tangents.lab.sweep import sweep

    study = studies.find(args.study)
    configs, store = _configs(args, study), Store(args.store)
    label = f"{study.name}, preset {args.preset}: {len(configs)} runs"
    taken = set()
    if args.reuse:
        from tangents.lab.audit import restore

        taken = set(restore(study, args.preset, store, dry=args.dry_run))
        print(f"{len(taken)} runs {'are in' if args.dry_run else 'taken from'} the published table")
    if args.dry_run:
        left = [c for c in configs if not (c in taken or store.has(study, c))]
        done, took = len(configs) - len(left), _time(study, left, args)
        print(f"{label}, {done} done, {len(left)} missing{took}")
        return
    keep_freed_memory()
    new = sweep(study, configs, store, **_sweep_options(args))
    print(f"{label}, {new} new, in {args.store}")


def _time(study: Study, configs: list, args: Namespace) -> str:
    """How long these runs take, as far as the published ones tell."""
    from tangents.pages.rows import seconds

    total, guessed, unlike = seconds(study, args.preset, configs)
    if unlike == len(configs):
        return ""
    hours = total / 3600 / args.workers
    minutes = max(1, round(60 * hours))
    took = f"{hours:.1f} hours" if hours >= 1 else f"{minutes} minute{'s' * (minutes > 1)}"
    others = f", {guessed} at the mean of their part" if guessed else ""
    others += f", without {unlike} that are like none" if unlike else ""
    return f"; about {took} by the published runs{others}"


# ---- table and plot


def table_options(command: Parser, study: Study | None) -> None:
    _add_study(command)
    _add_preset(command, "book", "default book")
    _add_store(command)
    text = "the rows that decided the claim of that id"
    command.add_argument("--claim", metavar="ID", help=text)
    text = "print all rows as CSV (default: what was measured, and how often)"
    command.add_argument("--csv", action="store_true", help=text)
    _add_fields(command, study)


def table(args: Namespace) -> None:
    from tangents.pages import rows

    study, found = _gathered(args)
    frame = found.frame
    if args.claim:
        frame = rows.behind(study, args.claim, rows.Watched(frame, found.arrays))
    print(f"tangents: {found}", file=sys.stderr)
    if args.csv:
        frame.to_csv(sys.stdout, index=False, lineterminator="\n")
        sys.stdout.flush()
    else:
        heads = ("metric", "split", "rows", "runs", "min", "mean", "max")
        print(_table(heads, rows.summary(frame)))


def plot_options(command: Parser, study: Study | None) -> None:
    _add_study(command)
    command.add_argument("figure", help="name of a figure; another one lists them all")
    _add_preset(command, "book", "default book")
    _add_store(command)
    text = "png, svg or pdf (default STUDY-FIGURE.png here)"
    command.add_argument("--out", type=Path, metavar="FILE", help=text)
    _add_fields(command, study)


def plot(args: Namespace) -> None:
    from tangents.lab.evidence import Table
    from tangents.pages import plots

    study, found = _gathered(args)
    figure = plots.draw(study, args.figure, Table(found.frame, found.arrays))
    print(f"tangents: {found}", file=sys.stderr)
    print(plots.save(figure, args.out or Path(f"{study.name}-{args.figure}.png")))


def _gathered(args: Namespace) -> tuple[Study, Any]:
    """The study, and what is finished of the runs that were asked for."""
    from tangents.pages import rows

    study = studies.find(args.study)
    try:
        return study, rows.gather(study, args.preset, _configs(args, study), Store(args.store))
    except LookupError as error:
        raise Failure(f"{error}; tangents run {study.name} computes them") from error


# ---- chapter


def chapter_options(command: Parser, _: object) -> None:
    option = command.add_argument
    option("name", help="name of a notebook of the book")
    text = "a parameter's value: number, word, true, false or a [list]; repeat for more"
    option("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
           help=text)  # fmt: skip
    text = "folder of the notebooks (default book)"
    option("--book", type=Path, default=REPOSITORY / "book", metavar="DIR", help=text)
    text = "executed notebook (default _build/chapters/NAME.ipynb); its page: a folder beside it"
    option("--output", type=Path, metavar="FILE", help=text)


def chapter(args: Namespace) -> None:
    from tangents.pages import replay

    if not (in_checkout() or args.book.is_dir()):
        raise Failure("chapter needs the book's notebooks: a checkout, or --book DIR")
    notebook = replay.find(args.name, args.book)
    folder = REPOSITORY / "_build" if in_checkout() else Path.cwd()
    output = args.output or folder / "chapters" / notebook.name
    try:
        print(replay.execute(notebook, dict(args.parameter), output))
    except replay.ChapterError as error:
        raise Failure(error) from error


# ---- publish


def publish_options(command: Parser, _: object) -> None:
    _add_study(command)
    _add_preset(command, "smoke", "default smoke")
    _add_store(command)
    text = "folder of the tables (default $TANGENTS_RESULTS or data/results)"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)
    command.add_argument("--partial", action="store_true", help="publish although runs are missing")


def publish_(args: Namespace) -> None:
    study = studies.find(args.study)
    print(publish(study, args.preset, Store(args.store), args.out, args.partial))


# ---- audit


def audit_options(command: Parser, _: object) -> None:
    _add_study(command, many=True)
    _add_preset(command, "book", "default book")
    text = "share of the runs, at least one (default 0.02)"
    command.add_argument("--fraction", type=_fraction, default=0.02, metavar="F", help=text)
    text = "of the choice of runs (default 0)"
    command.add_argument("--seed", type=int, default=0, metavar="S", help=text)
    _add_sweep(command)


def audit(args: Namespace) -> None:
    from tangents.lab import audit as lab
    from tangents.lab.store import is_published

    some = _studies(args.study)
    if not args.study:
        some = [study for study in some if is_published(study.name, args.preset)]
    if not some:
        raise Failure(f"no study is published with preset {args.preset} in {_where()}")
    keep_freed_memory()
    rows = []
    for study in some:
        found = lab.audit(study, args.preset, args.fraction, args.seed, **_sweep_options(args))
        rows += [(study.name, *row) for row in found.itertuples(index=False, name=None)]
    print(_table(("study", *lab.AUDIT), rows))
    if differing := sum(not row[-1] for row in rows):
        raise Failure(f"audit: {differing} of {len(rows)} metrics differ beyond their tolerance")


# ---- claims


def claims_options(command: Parser, _: object) -> None:
    _add_study(command, many=True)
    _add_preset(command, None, "default: every preset published")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    text = "fail where a check raises an error"
    command.add_argument("--strict", action="store_true", help=text)


def claims(args: Namespace) -> None:
    from tangents.lab import ledger

    if args.preset == "smoke":
        raise ConfigError("claims: smoke shows that all parts work, and judges nothing")
    presets = [args.preset] if args.preset else PRESETS[1:]
    entries = [entry for study in _studies(args.study) for entry in ledger.judge(study, presets)]
    if not entries:
        tried = " or ".join(presets)
        raise Failure(f"claims: no table of {tried} is published in {_where()}")
    failed = sum(entry.pop("failed") for entry in entries)
    if args.json:
        clean = [{name: ledger.plain(value) for name, value in e.items()} for e in entries]
        print(json.dumps(clean, indent=1, allow_nan=False))
    else:
        heads = ("id", "preset", "verdict", "estimate", "low", "high", "n_runs", "expected", "note")
        print(_table(heads, [tuple(entry[head] for head in heads) for entry in entries]))
    if failed and args.strict:
        raise Failure(f"claims: {failed} of {len(entries)} checks raised an error")


# ---- data


def data_options(command: Parser, _: object) -> None:
    command.add_argument("name", nargs="*", help="data sets to fetch and verify (default: none)")
    command.add_argument("--from", dest="given", type=Path, metavar="FILE",
                         help="take the one data set named from this archive")  # fmt: skip


def data(args: Namespace) -> None:
    from tangents.data import sets
    from tangents.data.sources import DataError

    heads = ("name", "state", "bytes", "source", "licence")
    for name in args.name:
        if name not in sets.names():
            raise unknown("data set", name, sets.names())
    if args.given and len(args.name) != 1:
        raise ConfigError("--from needs the one data set that the file is an archive of")
    try:
        for name in args.name:
            print(sets.fetch(name, args.given))
        if not args.name:
            print(_table(heads, [tuple(row[head] for head in heads) for row in sets.status()]))
    except DataError as error:
        raise Failure(error) from error


# ---- measure


def measure_options(command: Parser, _: object) -> None:
    option = command.add_argument
    text = "a Python file and its function that builds the network, without arguments"
    option("network", metavar="FILE:FUNCTION", help=text)
    for when in ("before", "after"):
        option(f"--{when}", type=Path, required=True, metavar="FILE",
               help=f"state_dict, saved by torch.save, {when} training")  # fmt: skip
    text = "inputs, or a dict of x and labels y, saved by torch.save; best not seen in training"
    option("--batch", type=Path, required=True, metavar="FILE", help=text)
    text = "only parameters whose names fit, as '*lora*'; repeat for more"
    option("--params", action="append", default=[], metavar="PATTERN", help=text)
    text = "kernels of so many random sums of the outputs, where these are very many"
    option("--sums", type=_positive, metavar="N", help=text)
    text = "bytes that kernels may take (default a quarter of those free)"
    option("--budget", type=float, metavar="BYTES", help=text)
    option("--plot", type=Path, metavar="FILE", help="a picture, .png, .svg or .pdf")
    option("--json", action="store_true", help="print JSON instead of tables")


def measure(args: Namespace) -> None:
    if args.plot:
        from tangents.pages.plots import check

        check(args.plot)
    from tangents.pages.checkpoints import measured

    found = measured(args.network, args.before, args.after, args.batch, args.params, args.sums,
                     args.budget)  # fmt: skip
    if args.plot:
        from tangents.pages.picture import picture
        from tangents.pages.plots import save

        save(picture(found), args.plot)
    print(json.dumps(found.json(), indent=1, allow_nan=False) if args.json else found)


# ---- all of them

COMMANDS = {
    "run": Command(run_options, run,
                   "Compute the missing runs of a study; run STUDY --help lists its fields."),
    "table": Command(table_options, table,
                     "Print the finished runs of a study: published ones and your own."),
    "plot": Command(plot_options, plot, "Draw a figure of a study from its finished runs."),
    "chapter": Command(chapter_options, chapter,
                       "Execute a notebook with other parameters and write its page."),
    "publish": Command(publish_options, publish_, "Collect the runs of a preset into one table."),
    "audit": Command(audit_options, audit,
                     "Recompute a share of the published runs and compare all that they hold."),
    "claims": Command(claims_options, claims, "Judge every claim on the published tables."),
    "data": Command(data_options, data, "Show the data sets, or fetch those named."),
    "measure": Command(measure_options, measure,
                       "Say how lazy a training was, from two checkpoints and a batch."),
}  # fmt: skip
WITH_FIELDS = ["run"], ["table"], ["plot"]


def build_parser(study: Study | None = None) -> tuple[Parser, dict[str, Parser]]:
    """The command line and its commands; with a study, those WITH_FIELDS take its fields too."""
    parser = Parser(prog="tangents", description="Lazy or Learning?: runs, tables, claims.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.options(commands.add_parser(name, help=command.text, description=command.text),
                        study)  # fmt: skip
    return parser, commands.choices


def parse(argv: list[str]) -> Namespace:
    """The request. Raises ConfigError for whatever is not accepted, with a suggestion."""
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    named = argv[:1] in WITH_FIELDS and len(argv) > 1 and not argv[1].startswith("-")
    parser, parsers = build_parser(studies.find(argv[1]) if named else None)
    args, extra = parser.parse_known_args(argv)
    for name in ("only", "parameter"):  # Python 3.13 takes options for their arguments too
        if any(word.startswith("--") for pair in getattr(args, name, ()) for word in pair):
            raise ConfigError(f"argument --{name}: expected 2 arguments")
    if not extra:
        return args
    option = extra[0].partition("=")[0]
    if not option.startswith("--"):
        raise ConfigError(f"{args.command}: unexpected argument {extra[0]!r}")
    if [args.command] in WITH_FIELDS and not named:
        words = f"{args.command} STUDY {option} ..."
        raise ConfigError(f"option {option} must follow the study: {words}")
    known = [name for name in parsers[args.command]._option_string_actions if name[:2] == "--"]
    raise unknown(f"option of {args.command}", option, known)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a wrong request.

    Threads of torch, which is loaded later, wait without spinning, unless the environment says how:
    on a processor that has other work, threads that spin keep one another waiting.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        args = parse(list(sys.argv[1:] if argv is None else argv))
        try:
            COMMANDS[args.command].act(args)
        except SystemExit as left:  # a study's code, or a network's
            raise Failure(f"{args.command}: its code called sys.exit({left.code!r})") from left
        return 0
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConfigError as error:
        message, status = error, 2
    except (LabError, OSError, ImportError) as error:
        message, status = f"{error}{_lacking(error)}", 1
    except KeyboardInterrupt:
        message, status = "interrupted; what a run had finished is stored", 1
    print(f"tangents: {message}", file=sys.stderr)
    return status


def _lacking(error: BaseException | None) -> str:
    """What to install, if the cause of an error is a package that the engine does not need."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    if error is None or (error.name or "").startswith("tangents"):
        return ""
    return "; pip install 'tangents[book]' brings what all commands need"


if __name__ == "__main__":
    sys.exit(main())
