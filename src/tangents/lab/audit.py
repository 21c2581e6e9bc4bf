"""Published runs computed again, and compared; and put back into a store."""

from __future__ import annotations

import math
import random
import tempfile
from typing import Any

import numpy as np
import pandas as pd

from tangents.lab.provenance import PROVENANCE
from tangents.lab.store import ResultsError, Run, Store, in_order, published
from tangents.lab.study import ROW, ConfigError, Study, coerce, fields, fingerprint
from tangents.lab.sweep import sweep

AUDIT = ["metric", "rows", "missing", "deviation", "of tolerance", "run", "agrees"]


def _fields(study: Study, frame: pd.DataFrame) -> list[str]:
    known = fields(study.config)
    missing = [name for name in known if name not in frame and not known[name].later]
    if missing:
        raise ResultsError(f"{study.name}: the table lacks the field {missing[0]!r}: publish again")
    return [name for name in known if name in frame]


def _sample(study: Study, frame: pd.DataFrame, fraction: float, seed: int) -> list[Any]:
    names = _fields(study, frame)
    runs = frame.drop_duplicates("run_id").set_index("run_id")[names].sort_index()
    values = runs.to_dict("index")
    count = max(1, round(fraction * len(values)))
    chosen = random.Random(seed).sample(list(values), count)
    try:
        configs = {i: coerce(study.config, values[i]) for i in chosen}
    except ConfigError as error:
        raise ResultsError(f"{study.name}: published with a config of old: {error}") from error
    for run_id, config in configs.items():
        if fingerprint(study, config) != run_id:
            raise ResultsError(
                f"{study.name}: run {run_id} was published by another version "
                f"than {study.version}: run and publish again"
            )
    return list(configs.values())


def restore(study: Study, preset: str, store: Store, dry: bool = False) -> list[Any]:
    """Puts published runs that the store lacks back into it, unless `dry`; returns their configs.

    A sweep can then be extended where only its published table is at hand. Runs of another version
    of the study are left out. Raises ResultsError where that preset is not published, or with
    other fields.
    """
    frame, arrays = published(study.name, preset)
    held = _by_run(arrays)
    names, found = _fields(study, frame), []
    for run_id, rows in frame.groupby("run_id"):
        first = rows.iloc[0]
        try:
            config = coerce(study.config, first[names].to_dict())
        except ConfigError:
            continue  # of another version, too
        if fingerprint(study, config) == run_id and not store.has(study, config):
            found.append(config)
            if not dry:
                origin = {name: first.get(name, "") for name in PROVENANCE}
                origin["seconds"] = float(origin["seconds"])
                records = rows[list(ROW)].to_dict("records")
                store.put(study, config, records, held.get(run_id, {}), origin)
    return found


def _by_run(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by "<run_id>/<name>" as a dictionary of each run's."""
    held: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        run_id, _, name = key.partition("/")
        held.setdefault(run_id, {})[name] = array
    return held


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows keyed by metric, split and place within them: an adaptive step count may differ.

    With the last time of the run as a row more.
    """
    key = ["metric", "split"]
    end = {"metric": "time", "split": "", "place": 0, "value": rows["time"].max()}
    rows = rows.assign(place=rows.groupby(key).cumcount())[[*key, "place", "value"]]
    return pd.concat([rows, pd.DataFrame([end])], ignore_index=True)


def compare(
    study: Study, rows: pd.DataFrame, arrays: dict[str, np.ndarray], run: Run
) -> pd.DataFrame:
    """Each row of a published run against the recomputed one: deviation, and that over tolerance.

    Its last time and its arrays count as metrics; the deviation of an array is |a - b| / |a|. Equal
    infinities, and two nans, agree; what one side lacks has an infinite deviation.
    """
    both = _numbered(rows).merge(
        _numbered(pd.DataFrame(in_order(run))),
        how="outer",
        on=["metric", "split", "place"],
        indicator=True,
    )
    old, new = both["value_x"].to_numpy(), both["value_y"].to_numpy()
    here = (both["_merge"] == "both").to_numpy()
    default = study.tolerances["*"]
    rtol, atol = np.array([study.tolerances.get(m, default) for m in both["metric"]]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        same = here & ((old == new) | (np.isnan(old) & np.isnan(new)))
        comparable = here & np.isfinite(old) & np.isfinite(new)
        deviation = np.where(same, 0.0, np.where(comparable, np.abs(old - new), np.inf))
        ratio = np.where(
            same, 0.0, deviation / np.where(comparable, atol + rtol * np.abs(old), 1.0)
        )
    table = both.assign(missing=~here, deviation=deviation, ratio=ratio)
    whole = [_compared(study, n, arrays, run.arrays) for n in {**arrays, **run.arrays}]
    return pd.concat([table, pd.DataFrame(whole)], ignore_index=True).assign(run_id=run.run_id)


def _compared(study: Study, name: str, published: dict, recomputed: dict) -> dict:
    """The row that `compare` gives an array of that name."""
    a, b = published.get(name), recomputed.get(name)
    missing = a is None or b is None or a.shape != b.shape
    if missing:
        deviation = math.inf
    elif np.array_equal(a, b, equal_nan=True):
        deviation = 0.0
    else:
        a, b = a.astype(float), b.astype(float)
        deviation = float(np.nan_to_num(np.linalg.norm(a - b) / np.linalg.norm(a), nan=math.inf))
    allowed = sum(study.tolerances.get(name, study.tolerances["*"]))
    return dict(metric=name, missing=missing, deviation=deviation, ratio=deviation / allowed)


def audit(
    study: Study, preset: str, fraction: float, seed: int = 0, **options: Any
) -> pd.DataFrame:
    """Recomputes a random share of the published runs (at least one), in stacks of their own, on
    one thread unless `threads` says otherwise.

    Returns one row a metric: rows compared and missing, the largest deviation (absolute, and in
    units of the tolerance), its run, and whether all agree. Raises ResultsError where the table is
    not there or stems from another version of the study, SweepError where runs fail.
    """
    frame, arrays = published(study.name, preset)
    configs = _sample(study, frame, fraction, seed)
    options["threads"] = options.get("threads") or 1  # as in the workers of a sweep
    with tempfile.TemporaryDirectory(prefix="tangents-audit-") as folder:
        store = Store(folder)
        sweep(study, configs, store, **options)
        runs = [store.get(study, config) for config in configs]
    groups, held = dict(list(frame.groupby("run_id"))), _by_run(arrays)
    rows = pd.concat([
        compare(study, groups[run.run_id], held.get(run.run_id, {}), run) for run in runs
    ])  # fmt: skip
    table = []
    for metric, group in rows.groupby("metric"):
        worst = group.iloc[group["ratio"].to_numpy().argmax()]
        table.append(
            (
                metric,
                len(group),
                int(group["missing"].sum()),
                worst["deviation"],
                worst["ratio"],
                worst["run_id"],
                bool((group["ratio"] <= 1).all()),
            )
        )
    return pd.DataFrame(table, columns=AUDIT)
