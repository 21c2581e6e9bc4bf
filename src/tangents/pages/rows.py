"""Rows of a study for whoever wants them: published ones, those of one's own runs, and those that
decided a claim.

    frame = load("lazy", preset="book", fields="width=64,256 part=border")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, NamedTuple

import pandas as pd

from tangents import studies
from tangents.lab.evidence import Runs, Table
from tangents.lab.store import Store, collected, is_published, published, runs_root
from tangents.lab.study import ROW, ConfigError, Study, expand, fields, fingerprint, unknown

# ---- runs that are there


class Found(NamedTuple):
    """Rows of the runs that were asked for, as far as they are finished; column "own" tells those
    that are not published."""

    frame: pd.DataFrame
    arrays: dict[str, Any]
    missing: int

    @property
    def own(self) -> int:
        return self.frame.loc[self.frame["own"], "run_id"].nunique()

    def __str__(self) -> str:
        runs = self.frame["run_id"].nunique()
        return f"{runs} runs, {self.own} of them your own; {self.missing} are missing"


def gather(study: Study, preset: str, configs: Iterable[Any], store: Store) -> Found:
    """The published runs of these configs, and from the store those that are not published.

    Nothing is computed. Raises LookupError where no run is finished, ResultsError for a table that
    cannot be read.
    """
    wanted = {fingerprint(study, config): config for config in configs}
    frame, arrays = pd.DataFrame({"run_id": []}), {}
    if is_published(study.name, preset):
        frame, arrays = published(study.name, preset)
    frame = frame[frame["run_id"].isin(wanted.keys())].assign(own=False)
    known = set(frame["run_id"].unique())
    runs = [store.get(study, config) for i, config in wanted.items() if i not in known]
    if done := [run for run in runs if run is not None]:
        rows, held = collected(done)
        frame = pd.concat([frame, rows.assign(own=True)] if known else [rows.assign(own=True)])
        arrays = {**arrays, **held}
    if frame.empty:
        raise LookupError(f"{study.name}, preset {preset}: none of these {len(wanted)} runs is "
                          f"published, or finished in {store.root}")  # fmt: skip
    return Found(frame.reset_index(drop=True), arrays, len(runs) - len(done))


def load(
    name: str, preset: str = "book", fields: str | Mapping = "", store: str | None = None
) -> pd.DataFrame:
    """The finished runs of a study's preset, a row a measurement; column "own" marks your own.

    `fields` is a mapping, or words such as "width=64,256 seed=0", that replace fields of the
    preset; `store` the folder of your runs (default `lab.store.runs_root`). Nothing is computed:
    what is missing is not there. Raises ConfigError, and LookupError where no run is finished.
    """
    study = studies.find(name)
    replaced = parse_fields(fields) if isinstance(fields, str) else dict(fields)
    return gather(study, preset, expand(study, preset, replaced), Store(runs_root(store))).frame


def parse_fields(text: str) -> dict[str, list[str]]:
    """Fields with their values: "width=64,256 seed=0" is {"width": ["64", "256"], "seed": ["0"]}.

    Raises ConfigError for words of another form.
    """
    found: dict[str, list[str]] = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise ConfigError(f"fields: expected NAME=VALUE[,VALUE...], got {word!r}")
        found.setdefault(name, []).extend(values.split(","))
    return found


def seconds(study: Study, preset: str, configs: Iterable[Any]) -> tuple[float, int, int]:
    """How long these runs take one after the other, by the published ones of the preset.

    Runs that are not among them count at the mean of their part: how many do, and how many belong
    to no part that is known.
    """
    configs = [*configs]
    if not is_published(study.name, preset):
        return 0.0, 0, len(configs)
    runs = published(study.name, preset)[0].drop_duplicates("run_id")
    exact = dict(zip(runs["run_id"], runs["seconds"], strict=True))
    mean = runs.groupby("part", observed=True)["seconds"].mean().to_dict() if "part" in runs else {}
    known = [exact.get(fingerprint(study, config)) for config in configs]
    others = [c.part for c, took in zip(configs, known, strict=True) if took is None]
    guessed = [mean[part] for part in others if part in mean]
    total = float(sum(took for took in known if took is not None) + sum(guessed))
    return total, len(guessed), len(others) - len(guessed)


def summary(frame: pd.DataFrame) -> list[tuple]:
    """For each metric and split: rows, runs, least, mean and largest value."""
    groups = frame.groupby(["metric", "split"], observed=True)
    return [
        (*key, len(rows), rows["run_id"].nunique(), *rows["value"].agg(["min", "mean", "max"]))
        for key, rows in groups
    ]


# ---- what decided a claim


class Watched(Table):
    """A table that keeps the rows it gives."""

    def __init__(self, frame: pd.DataFrame, arrays: dict | None = None) -> None:
        super().__init__(frame, arrays)
        self.given: list[pd.DataFrame] = []

    def afresh(self) -> Watched:
        view = copy(super().afresh())
        view.given = []
        return view

    def metric(self, metric: str, part: str | None = None) -> pd.DataFrame:
        self.given.append(super().metric(metric, part))
        return self.given[-1]

    def ends(self, metric: str, part: str | None = None) -> Runs:
        before = len(self.given)
        runs = super().ends(metric, part)
        self.given[before:] = [runs.rows, runs.states]  # and not all that they were chosen from
        return runs

    def starts(self, metric: str, part: str | None = None) -> Runs:
        before = len(self.given)
        runs = super().starts(metric, part)
        self.given[before:] = [runs.rows]
        return runs


def behind(study: Study, name: str, table: Watched) -> pd.DataFrame:
    """The rows that decided a claim, in all its settings or in that of this id, as far as its code
    came. ConfigError for another name.

    Columns: the run, those of its fields that vary in the table, and what was measured.
    """
    asked = {c.name: (c, [*c.settings]) for c in study.claims}
    asked |= {i: (c, [i]) for c in study.claims for i in c.settings if i not in asked}
    if name not in asked:
        raise unknown(f"claim of {study.name}", name, asked)
    claim, settings = asked[name]
    view, frame = table.afresh(), table.frame
    for setting in settings:
        with contextlib.suppress(Exception):  # the ledger says why
            claim.estimate(setting, view)
    index = sorted({at for rows in view.given for at in rows.index})
    varying = [name for name in fields(study.config) if name in frame and _varies(frame[name])]
    return frame.loc[index, ["run_id", *varying, *ROW]]


def _varies(column: pd.Series) -> bool:
    return (column != column.iloc[0]).any()


def command(study: Study, preset: str, frame: pd.DataFrame, runs: Iterable[str]) -> str:
    """What computes these runs of a table again, and as few others as `--only` can leave out."""
    left = frame.drop_duplicates("run_id")
    wanted = left[left["run_id"].isin(set(runs))]
    known = (name for name in fields(study.config) if name in left)
    shared = {name: wanted[name].iloc[0] for name in known if wanted[name].nunique() == 1}
    words = [f"python -m tangents run {study.name} --preset {preset}"]
    while shared:
        kept = {name: left[left[name] == value] for name, value in shared.items()}
        name = min(kept, key=lambda name: len(kept[name]))
        if len(kept[name]) == len(left):
            break
        left, words = kept[name], [*words, f"--only {name} {shared.pop(name)}"]
    return " ".join(words)
