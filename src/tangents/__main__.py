"""The command line: run, chapter, publish, audit, claims, data.

Messages go to stderr, on one line; exit status 2 means a wrong request, 1 a failure. Each command
imports the heavy modules that it needs, so that help is instant.
"""

from __future__ import annotations

import argparse
import json
import sys

from tangents.cli import parse
from tangents.experiments import STUDIES, study
from tangents.results import (
    PRESETS,
    REPOSITORY,
    ConfigError,
    Experiment,
    ResultsError,
    Store,
    expand,
    publish,
    unknown,
)
from tangents.sweep import SweepError, sweep


class Failure(Exception):
    """A command that was understood but did not succeed (one line)."""


def command_run(args: argparse.Namespace) -> None:
    experiment = study(args.study)
    given = {
        name.removeprefix("field "): values
        for name, values in vars(args).items()
        if name.startswith("field ") and values is not None
    }
    configs = expand(experiment, args.preset, given, args.only)
    store = Store(args.store)
    label = f"{experiment.name}, preset {args.preset}: {len(configs)} runs"
    if args.reuse:
        from tangents.ledger import restore

        print(f"{restore(experiment, args.preset, store)} runs taken from the published table")
    if args.dry_run:
        done = sum(store.has(experiment, config) for config in configs)
        print(f"{label}, {done} done, {len(configs) - done} missing")
        return
    new = sweep(experiment, configs, store, **_sweep_options(args))
    print(f"{label}, {new} new, in {args.store}")


def command_chapter(args: argparse.Namespace) -> None:
    from tangents import chapters

    notebook = chapters.find(args.name, args.book)
    output = args.output or REPOSITORY / "_build" / "chapters" / notebook.name
    try:
        print(chapters.execute(notebook, dict(args.parameter), output))
    except chapters.ChapterError as error:
        raise Failure(error) from error


def command_publish(args: argparse.Namespace) -> None:
    experiment = study(args.study)
    print(publish(experiment, args.preset, Store(args.store), args.out, args.partial))


def command_audit(args: argparse.Namespace) -> None:
    from tangents import ledger

    experiments = _studies(args.study)
    if not args.study:
        experiments = [each for each in experiments if ledger.is_published(each, args.preset)]
    if not experiments:
        raise Failure(f"no study is published with preset {args.preset}")
    rows = []
    for experiment in experiments:
        found = ledger.audit(
            experiment, args.preset, args.fraction, args.seed, **_sweep_options(args)
        )
        rows += [(experiment.name, *row) for row in found.itertuples(index=False, name=None)]
    print(_table(("study", *ledger.AUDIT), rows))
    if differing := sum(not row[-1] for row in rows):
        raise Failure(f"audit: {differing} of {len(rows)} metrics differ beyond their tolerance")


def command_claims(args: argparse.Namespace) -> None:
    from tangents import ledger

    presets = [args.preset] if args.preset else PRESETS
    entries = [entry for each in _studies(args.study) for entry in ledger.judge(each, presets)]
    failed = sum(entry.pop("failed") for entry in entries)
    if args.json:
        clean = [{name: ledger.plain(value) for name, value in e.items()} for e in entries]
        print(json.dumps(clean, indent=1, allow_nan=False))
    else:
        heads = ("id", "preset", "verdict", "estimate", "low", "high", "n_runs", "expected", "note")
        print(_table(heads, [tuple(entry[head] for head in heads) for entry in entries]))
    if failed and args.strict:
        raise Failure(f"claims: {failed} of {len(entries)} checks raised an error")


def command_data(args: argparse.Namespace) -> None:
    from tangents import datasets

    heads = ("name", "state", "bytes", "source", "licence")
    status = datasets.status()
    names = [row["name"] for row in status]
    for name in args.name:
        if name not in names:
            raise unknown("data set", name, names)
    try:
        for name in args.name:
            print(datasets.fetch(name))
    except datasets.DataError as error:
        raise Failure(error) from error
    if not args.name:
        print(_table(heads, [tuple(row[head] for head in heads) for row in status]))


COMMANDS = {
    "run": command_run, "chapter": command_chapter, "publish": command_publish,
    "audit": command_audit, "claims": command_claims, "data": command_data,
}  # fmt: skip


def _sweep_options(args: argparse.Namespace) -> dict:
    names = ("device", "workers", "scheduler", "threads", "max_stack")
    return {name: getattr(args, name) for name in names}


def _studies(names: list[str]) -> list[Experiment]:
    return [study(name) for name in names or STUDIES]


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    cells = [
        heads,
        *(tuple(f"{c:.4g}" if isinstance(c, float) else str(c) for c in r) for r in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                     for row in cells)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a wrong request."""
    try:
        args = parse(list(sys.argv[1:] if argv is None else argv))
        COMMANDS[args.command](args)
        return 0
    except ConfigError as error:
        message, status = error, 2
    except (Failure, ResultsError, SweepError, OSError, ImportError) as error:
        message, status = error, 1
    except KeyboardInterrupt:
        message, status = "interrupted; what a run had finished is stored", 1
    print(f"tangents: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
