"""What a chapter's notebook shows: figures and verdicts of a preset, or of a reader's own runs.

chapter = load("lazy", preset="book", fields="")
chapter.figure("headline")
chapter.verdicts("geiger-1a", "geiger-5")
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure

from tangents import studies
from tangents.lab import store
from tangents.lab.evidence import Table
from tangents.lab.figures import forest
from tangents.lab.ledger import judged
from tangents.lab.study import Study, expand, fingerprint, unknown
from tangents.lab.sweep import sweep
from tangents.pages.rows import parse_fields
from tangents.pages.tables import claims_table


@dataclass(frozen=True)
class Chapter:
    """A study's rows, and what a page shows of them."""

    study: Study
    preset: str
    table: Table
    figures: ModuleType
    own: str = ""  # what is to be said of runs that are not the published ones

    @cached_property
    def _entries(self) -> dict[str, list[dict]]:
        entries: dict[str, list[dict]] = {claim.name: [] for claim in self.study.claims}
        for entry in judged(self.study, self.table):
            entries[entry["claim"]].append(entry | {"preset": self.preset})
        return entries

    @cached_property
    def _published_entries(self) -> dict[str, dict]:
        """What the published runs say, where these here are others."""
        frame, arrays = _published(self.study.name, self.preset) if self.own else (None, {})
        found = [] if frame is None else judged(self.study, Table(frame, arrays))
        return {entry["id"]: entry for entry in found}

    def at(self, preset: str) -> Chapter:
        """The chapter on what is published of another preset; nothing is computed. LookupError."""
        frame, arrays = _published(self.study.name, preset)
        if frame is None:
            raise LookupError(f"nothing is published of {self.study.name}, preset {preset}")
        return Chapter(self.study, preset, Table(frame, arrays), self.figures)

    def figure(self, name: str, *options) -> Figure | None:
        """The figure of that name; where the runs lack what it shows, a line says so instead."""
        try:
            return getattr(self.figures, name)(self.table, *options)
        except (LookupError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"Figure {name!r} is not drawn: these runs lack what it shows ({reason}).")
            return None

    def forest(self) -> Figure | None:
        """All findings at a glance; None for runs of `smoke`, which judge nothing."""
        entries = [entry for claim in self._entries.values() for entry in claim]
        findings = [entry for entry in entries if entry["kind"] == "finding"]
        return None if self.preset == "smoke" else forest(findings)

    def glue(self) -> None:
        """Makes each estimate, with half of its interval, a text of its id for the page's prose."""
        from myst_nb import glue

        for entry in (entry for claim in self._entries.values() for entry in claim):
            value, half = entry["estimate"], (entry["high"] - entry["low"]) / 2
            text = f"{value:.2g} ± {half:.2g}" if math.isfinite(half) else f"{value:.2g}"
            glue(entry["id"], text.replace("-", "−"), display=False)

    def ended(self, metric: str = "converged") -> tuple[int, int]:
        """How many runs have ended, and how many of them did not converge."""
        ends = self.table.metric(metric)["value"]
        return len(ends), int((ends != 1).sum())

    def verdicts(self, *names: str) -> None:
        """Displays the claims of these names, judged; runs of `smoke` judge nothing."""
        from IPython.display import HTML, display

        for name in names:
            if name not in self._entries:
                raise unknown("claim", name, self._entries)
        if self.preset == "smoke":
            print("No verdicts: the preset smoke shows that all parts work, and judges nothing.")
            return
        beside = self._published_entries
        entries = (entry for name in names for entry in self._entries[name])
        table = claims_table(entry | {"published": beside.get(entry["id"])} for entry in entries)
        display(HTML(f"<p><em>{self.own}</em></p>{table}" if self.own else table))


def load(name: str, preset: str = "book", fields: str | Mapping = "") -> Chapter:
    """A chapter on the runs of a preset, some of the study's fields replaced.

    `fields` is a mapping, or words such as "width=64,256 seed=0". Where all these runs are in the
    published table they come from there; those that are missing are computed, with progress and
    time left on stderr, and kept in the reader's own store (`lab.store.runs_root`), from which the
    same request goes on. Raises ConfigError before anything runs, SweepError where runs fail.
    """
    study = studies.find(name)
    replaced = parse_fields(fields) if isinstance(fields, str) else dict(fields)
    configs = {fingerprint(study, c): c for c in expand(study, preset, replaced)}
    figures = import_module(f"{studies.path(name)}.figures")
    frame, arrays = _published(study.name, preset)
    known = set() if frame is None else set(frame["run_id"].unique())
    if configs.keys() <= known:
        frame = frame[frame["run_id"].isin([*configs])] if replaced else frame
        return Chapter(study, preset, Table(frame, arrays), figures)
    runs, others = store.Store(store.runs_root()), [c for i, c in configs.items() if i not in known]
    new = sweep(study, others, runs)
    own, held = store.collected([runs.get(study, config) for config in others])
    if configs.keys() & known:
        own = pd.concat([frame[frame["run_id"].isin([*configs])], own], ignore_index=True)
    said = f"{len(others)} runs of your own, {new} of them new, in {runs.root}"
    print(f"{said}; the text is about the book's.")
    return Chapter(study, preset, Table(own, {**arrays, **held}), figures, said)


def _published(name: str, preset: str) -> tuple[pd.DataFrame | None, dict]:
    """The published rows of a preset, None where there are none that can be read."""
    if not store.is_published(name, preset):
        return None, {}
    try:
        return store.published(name, preset)
    except store.ResultsError as error:
        print(f"Not read: {error}")
        return None, {}
