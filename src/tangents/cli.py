"""The command line's grammar: commands, options, and what is refused with which hint.

A study's config fields become options of `run`, so its module is imported for `run STUDY` alone.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from tangents.experiments import STUDIES, study
from tangents.results import PRESETS, REPOSITORY, ConfigError, Experiment, field_types, unknown


class Parser(argparse.ArgumentParser):
    """Complains on one line, and reads -1e-3 and -inf as numbers rather than as options."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^-inf$")

    def error(self, message: str) -> None:
        raise ConfigError(message)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], not {text!r}")
    return value


def _preset(text: str) -> str:
    if text not in PRESETS:
        raise argparse.ArgumentTypeError(str(unknown("preset", text, PRESETS)))
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:N, mps or xpu, not {text!r}")
    return text


def _add_preset(command: Parser, default: str | None, text: str) -> None:
    names = "|".join(PRESETS)
    command.add_argument("--preset", type=_preset, default=default, metavar=names, help=text)


def _add_study(command: Parser, many: bool = False) -> None:
    names = ", ".join(STUDIES)
    if many:
        command.add_argument("study", nargs="*", help=f"default all: {names}")
    else:
        command.add_argument("study", help=f"one of: {names} (or a dotted module path)")


def _add_store(command: Parser) -> None:
    default, text = REPOSITORY / "data" / "runs", "folder of the single runs (default data/runs)"
    command.add_argument("--store", type=Path, default=default, metavar="DIR", help=text)


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


def _run(command: Parser, experiment: Experiment | None) -> None:
    _add_study(command)
    _add_preset(command, "smoke", "default smoke")
    _add_store(command)
    _add_sweep(command)
    command.add_argument(
        "--reuse", action="store_true", help="take finished runs from the published table first"
    )
    text = "of the runs, those whose field has this value; repeat for more"
    command.add_argument(
        "--only", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help=text
    )
    command.add_argument("--dry-run", action="store_true", help="only count done and missing")
    if experiment is None:
        return
    fields = command.add_argument_group(f"fields of {experiment.name}, replaced in every grid")
    for name, kind in field_types(experiment.config).items():
        option, metavar = f"--{name.replace('_', '-')}", kind.__name__.upper()
        dest = f"field {name}"  # with a space, no other option's
        fields.add_argument(option, dest=dest, nargs="+", action="extend", metavar=metavar)


def _chapter(command: Parser, _: object) -> None:
    option = command.add_argument
    option("name", help="name of a notebook of the book")
    text = "set a parameter, read as YAML; repeat for more"
    option("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
           help=text)  # fmt: skip
    text = "folder of the notebooks (default book)"
    option("--book", type=Path, default=REPOSITORY / "book", metavar="DIR", help=text)
    text = "executed notebook (default _build/chapters/NAME.ipynb)"
    option("--output", type=Path, metavar="FILE", help=text)


def _publish(command: Parser, _: object) -> None:
    _add_study(command)
    _add_preset(command, "smoke", "default smoke")
    _add_store(command)
    text = "folder of the tables (default $TANGENTS_RESULTS or data/results)"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)
    command.add_argument("--partial", action="store_true", help="publish although runs are missing")


def _audit(command: Parser, _: object) -> None:
    _add_study(command, many=True)
    _add_preset(command, "book", "default book")
    text = "share of the runs, at least one (default 0.02)"
    command.add_argument("--fraction", type=_fraction, default=0.02, metavar="F", help=text)
    text = "of the choice of runs (default 0)"
    command.add_argument("--seed", type=int, default=0, metavar="S", help=text)
    _add_sweep(command)


def _claims(command: Parser, _: object) -> None:
    _add_study(command, many=True)
    _add_preset(command, None, "default: every preset published")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    text = "fail where a check raises an error"
    command.add_argument("--strict", action="store_true", help=text)


def _data(command: Parser, _: object) -> None:
    command.add_argument("name", nargs="*", help="data sets to fetch and verify (default: none)")


COMMANDS = {
    "run": (_run, "Compute the missing runs of a study; run STUDY --help lists its fields."),
    "chapter": (_chapter, "Execute a notebook with other parameters and write its page."),
    "publish": (_publish, "Collect the runs of a preset into one table."),
    "audit": (_audit, "Recompute a share of the published runs and compare all that they hold."),
    "claims": (_claims, "Judge every claim on the published tables."),
    "data": (_data, "Show the data sets, or fetch those named."),
}


def build_parser(experiment: Experiment | None = None) -> tuple[Parser, dict[str, Parser]]:
    """The command line and its commands; with an experiment, `run` takes its fields as options."""
    parser = Parser(prog="tangents", description="Lazy or Learning?: runs, tables, claims.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (fill, text) in COMMANDS.items():
        fill(commands.add_parser(name, help=text, description=text), experiment)
    return parser, commands.choices


def parse(argv: list[str]) -> argparse.Namespace:
    """The request. Raises ConfigError for whatever is not accepted, with a suggestion."""
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    named = argv[:1] == ["run"] and len(argv) > 1 and not argv[1].startswith("-")
    parser, parsers = build_parser(study(argv[1]) if named else None)
    args, extra = parser.parse_known_args(argv)
    if not extra:
        return args
    option = extra[0].partition("=")[0]
    if not option.startswith("--"):
        raise ConfigError(f"{args.command}: unexpected argument {extra[0]!r}")
    if args.command == "run" and not named:
        raise ConfigError(f"option {option} must follow the study: run STUDY {option} ...")
    known = [name for name in parsers[args.command]._option_string_actions if name[:2] == "--"]
    raise unknown(f"option of {args.command}", option, known)
