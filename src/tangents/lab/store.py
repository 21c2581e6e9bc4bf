"""The store of finished runs, and the published tables.

A run is one config of one study, named by a fingerprint. The store holds one file a run, which
is either absent or complete: a killed sweep resumes, and parallel sweeps need no lock. `publish`
collects the runs of a preset into one tidy Parquet table. Nothing here knows what a run computes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import os
import secrets
import shutil
import time
import typing
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tangents.lab.provenance import PROVENANCE, REPOSITORY, in_checkout
from tangents.lab.study import ROW, LabError, Study, as_values, expand, fields, fingerprint

if typing.TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("tangents")

STALE_SECONDS = 3600.0  # a temporary file lives for milliseconds: an hour old, its writer is dead


class ResultsError(LabError):
    """A run or a table that cannot be written, read or published (one line)."""


@dataclass(frozen=True)
class Run:
    """One finished run: rows as columns (those of `ROW`, equally long) and named arrays."""

    run_id: str
    config: dict[str, Any]
    rows: dict[str, list]
    arrays: dict[str, np.ndarray]
    provenance: dict[str, Any]


def write(files: Mapping[Path, bytes]) -> None:
    """All files, or on a full disk none: temporary names, fsync, and then renamed one after the
    other. Raises ResultsError."""
    name = f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = {path: path.with_name(f"{name}-{i}") for i, path in enumerate(files)}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            os.replace(temporary[path], path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for each in temporary.values():
            with contextlib.suppress(OSError):  # mostly renamed by now
                each.unlink()


def remove_dead(paths: Iterable[Path], seconds: float = STALE_SECONDS) -> None:
    """Removes files and folders that are older: what killed processes left."""
    for path in paths:
        with contextlib.suppress(OSError):  # another was faster, or all is read-only
            if path.stat().st_mtime < time.time() - seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip file whose bytes depend on its members only (fixed dates, sorted names)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _cell(study: Study, name: str, kind: type, value: Any) -> Any:
    """A row's value as its column holds it. Raises ResultsError where that is another."""
    if kind is not str or isinstance(value, str):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            held = kind(value)
            if held == value or held != held:  # the same, or nan
                return held
    raise ResultsError(f"{study.name}: {name} must be of type {kind.__name__}, not {value!r}")


def _checksum(record: Mapping[str, Any], arrays: Mapping[str, bytes]) -> str:
    """Of all that a run's file says: those of the archive are made anew by whoever repacks it."""
    said = {name: value for name, value in record.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {len(arrays[name])} ".encode() + arrays[name])
    return digest.hexdigest()


class Store:
    """Finished runs below `root`: one file <study>/<fingerprint>.npz each.

    Such a file is a zip archive of run.json (Python's dialect, with NaN), which holds a checksum of
    the whole, and the arrays.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).absolute()
        self._reported: set[Path] = set()

    def path(self, study: Study, config: Any) -> Path:
        return self.root / study.name / f"{fingerprint(study, config)}.npz"

    def has(self, study: Study, config: Any) -> bool:
        """Whether the run is there and whole (its checksums are read, not its presence alone)."""
        return self.get(study, config) is not None

    def get(self, study: Study, config: Any) -> Run | None:
        """The run, or None where it is missing or damaged; damage is reported once, on one line."""
        path = self.path(study, config)
        try:
            return self._of(study, config, self._read(path))
        except FileNotFoundError:
            return None
        except (PermissionError, NotADirectoryError) as error:
            raise ResultsError(f"cannot read {path}: {error.strerror}") from error
        except Exception as error:  # whatever a parser raises on damaged bytes means: damaged
            if path not in self._reported:
                self._reported.add(path)
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("damaged run file %s (%s): treated as missing", path, reason)
            return None

    def _of(self, study: Study, config: Any, run: Run) -> Run:
        """The run with all fields of its config, those that came after it too; ValueError where it
        was stored with others."""
        values = as_values(study, config)
        known = fields(study.config)
        if lost := [k for k in known if not known[k].later and k not in run.config]:
            raise ValueError(f"lacks the field {lost[0]!r} of its config")
        wrong = [k for k, v in run.config.items() if k not in values or values[k] != v]
        if wrong:
            raise ValueError(f"holds a run of another config: {wrong[0]}={run.config[wrong[0]]!r}")
        return dataclasses.replace(run, config=values)

    def _read(self, path: Path) -> Run:
        with zipfile.ZipFile(path) as archive:
            # Reading verifies the checksums.
            members = {name: archive.read(name) for name in archive.namelist()}
        record = json.loads(members.pop("run.json"))
        if record["run_id"] != path.stem:
            raise ValueError(f"holds run {record['run_id']}")
        if record.get("sha256", whole := _checksum(record, members)) != whole:  # older ones lack it
            raise ValueError("not what its checksum says")
        lengths = {len(column) for column in record["rows"].values()}
        if record["rows"].keys() != ROW.keys() or len(lengths) != 1 or lengths == {0}:
            raise ValueError("its rows are not whole")
        read = np.lib.format.read_array
        arrays = {
            n.removesuffix(".npy"): read(io.BytesIO(b), allow_pickle=False)
            for n, b in members.items()
        }
        return Run(path.stem, record["config"], record["rows"], arrays, record["provenance"])

    def put(
        self,
        study: Study,
        config: Any,
        rows: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, Any],
        origin: Mapping[str, Any],
    ) -> Run:
        """Stores a finished run; non-finite values are kept. Raises ResultsError."""
        path = self.path(study, config)
        if not rows or any(row.keys() != ROW.keys() for row in rows):
            keys = ", ".join(ROW)
            raise ResultsError(f"{study.name}: a run needs rows, with exactly the keys {keys}")
        columns = {k: [_cell(study, k, kind, row[k]) for row in rows] for k, kind in ROW.items()}
        for name in arrays:
            if not (isinstance(name, str) and name) or "/" in name:
                raise ResultsError(f"{study.name}: an array cannot be called {name!r}")
        record = {
            "study": study.name,
            "version": study.version,
            "run_id": path.stem,
            "config": as_values(study, config),
            "rows": columns,
            "provenance": dict(origin),
        }
        members = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
        record["sha256"] = _checksum(record, members)
        write({path: _zipped({**members, "run.json": json.dumps(record).encode()})})
        return Run(path.stem, record["config"], columns, dict(arrays), record["provenance"])

    def list(self, study: Study) -> list[str]:
        """Fingerprints of the study's runs, sorted (of any version; unread)."""
        return sorted(path.stem for path in (self.root / study.name).glob("[!.]*.npz"))

    def clean(self, study: Study) -> None:
        """Removes what killed processes left: old temporary files, and locks of stored runs."""
        folder = self.root / study.name
        remove_dead(folder.glob(".tmp-*"))
        for path in folder.glob("*.lock"):
            with contextlib.suppress(OSError):  # its owner was faster, or the store is read-only
                if path.with_suffix(".npz").exists():
                    path.unlink()


def results_root(root: str | os.PathLike | None = None) -> Path:
    """The folder of published tables: `root`, else $TANGENTS_RESULTS, else see `_folder`."""
    return Path(root or os.environ.get("TANGENTS_RESULTS") or _folder("results"))


def runs_root(root: str | os.PathLike | None = None) -> Path:
    """The folder of single runs: `root`, else $TANGENTS_RUNS, else see `_folder`."""
    return Path(root or os.environ.get("TANGENTS_RUNS") or _folder("runs"))


def _folder(name: str) -> Path:
    """data/<name> of a checkout; nothing is written into an installed package, but to the user's
    cache."""
    if in_checkout():
        return REPOSITORY / "data" / name
    import pooch

    return Path(pooch.os_cache("tangents")) / name


def table_path(study: str, preset: str, root: str | os.PathLike | None = None) -> Path:
    """Where the published table of a preset is, or would be."""
    return results_root(root) / f"{study}-{preset}.parquet"


def is_published(study: str, preset: str) -> bool:
    return table_path(study, preset).exists()


def in_order(run: Run) -> dict[str, list]:
    """The run's rows as columns in the table's order: by metric, split, step, then as they came."""
    keys = zip(
        *(run.rows[name] for name in ("metric", "split", "step")), itertools.count(), strict=False
    )
    order = [number for *_, number in sorted(keys)]
    return {name: [column[i] for i in order] for name, column in run.rows.items()}


def _tidy(runs: Sequence[Run]) -> pa.Table:
    """The rows of these runs, one a measurement."""
    import pyarrow as pa

    tables = [in_order(run) for run in runs]
    which = pa.array(np.repeat(np.arange(len(runs)), [len(t["step"]) for t in tables]))

    def per_run(values: list) -> pa.Array:
        array = pa.array(values)
        return (array.dictionary_encode() if pa.types.is_string(array.type) else array).take(which)

    columns = {"run_id": per_run([run.run_id for run in runs])}
    for name in runs[0].config:
        columns[name] = per_run([run.config[name] for run in runs])
    for name in ROW:
        columns[name] = pa.array(list(itertools.chain.from_iterable(t[name] for t in tables)))
    for name in PROVENANCE:
        columns[name] = per_run([run.provenance.get(name, "") for run in runs])
    return pa.table(columns)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name != "value"],
        column_encoding={"value": "BYTE_STREAM_SPLIT"},
        store_schema=False,
    )
    return sink.getvalue()


def collected(runs: Sequence[Run]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Rows and arrays of runs, as `published` gives those of a table."""
    arrays = {f"{run.run_id}/{name}": a for run in runs for name, a in run.arrays.items()}
    return _tidy(runs).to_pandas(), arrays


def publish(
    study: Study,
    preset: str,
    store: Store,
    out: str | os.PathLike | None = None,
    partial: bool = False,
) -> Path:
    """Writes a preset's runs as one tidy table, and their arrays as an .npz; returns its path.

    Equal runs give equal bytes. Last comes the file of checksums, without which no table is read:
    so a flipped bit is noticed, and a publication that was stopped between its files. Raises
    ResultsError where runs are missing, unless `partial`, and for the preset smoke in the folder of
    the book's own tables.
    """
    path = table_path(study.name, preset, out)
    if preset == "smoke" and path.parent.resolve() == (REPOSITORY / "data" / "results").resolve():
        raise ResultsError(f"smoke judges nothing, and is not published into {path.parent}: --out "
                           "or TANGENTS_RESULTS names another folder")  # fmt: skip
    configs = sorted(expand(study, preset), key=dataclasses.astuple)
    found = [store.get(study, config) for config in configs]
    runs = [run for run in found if run is not None]
    if not runs or (len(runs) < len(found) and not partial):
        raise ResultsError(
            f"{study.name}, preset {preset}: {len(found) - len(runs)} of "
            f"{len(found)} runs are missing below {store.root}"
        )
    arrays = {f"{r.run_id}/{name}.npy": _npy(a) for r in runs for name, a in r.arrays.items()}
    files = {path: _parquet(_tidy(runs))}
    if arrays:
        files[path.with_suffix(".npz")] = _zipped(arrays)
    write({**files, path.with_suffix(".sha256"): _sums(files).encode()})
    if not arrays:
        path.with_suffix(".npz").unlink(missing_ok=True)
    remove_dead(path.parent.glob(".tmp-*"))
    return path


def _sums(files: Mapping[Path, bytes]) -> str:
    """The checksums of a table and of its arrays, as `sha256sum` writes them."""
    sums = {path.name: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def seal(path: Path) -> None:
    """Writes the checksums of a table, and of its arrays if there are any, beside it: for tables of
    measurements (CSV), and for one that was changed on purpose."""
    files = {file: file.read_bytes() for file in (path, path.with_suffix(".npz")) if file.exists()}
    write({path.with_suffix(".sha256"): _sums(files).encode()})


def measurements(name: str, root: str | os.PathLike | None = None) -> pd.DataFrame:
    """A table of measurements among the published ones, such as "benchmark-engine.csv".

    Raises ResultsError where it is not there, or not what its checksum says.
    """
    import pandas as pd

    path = results_root(root) / name
    try:
        data = path.read_bytes()
        if path.with_suffix(".sha256").read_text() != _sums({path: data}):
            raise ValueError("it is not what its checksum says (changed on purpose: make seal)")
        return pd.read_csv(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}: {error}") from error


def published(
    study: str, preset: str, root: str | os.PathLike | None = None
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The published table of a study's preset, and its arrays by "<run_id>/<name>".

    Raises ResultsError where that preset is not published, is not what its checksums say, lacks a
    column, or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = table_path(study, preset, root)
    if not path.exists():
        raise ResultsError(f"{study}, preset {preset}, is not published: there is no {path}")
    try:
        sums, files = path.with_suffix(".sha256").read_text(), {path: path.read_bytes()}
        if f"  {path.stem}.npz\n" in sums:
            files[path.with_suffix(".npz")] = path.with_suffix(".npz").read_bytes()
        if sums != _sums(files):
            raise ValueError("it is not what its checksums say: publish again")
        with pq.ParquetFile(pa.BufferReader(files.pop(path))) as table:
            frame = table.read().to_pandas()
        arrays = {}
        for data in files.values():
            with np.load(io.BytesIO(data)) as file:
                arrays = {name: file[name] for name in file.files}
        lost = [name for name in ("run_id", *ROW, "commit", "seconds") if name not in frame]
        if lost or frame.empty:
            raise ValueError(f"it has no column {lost[0]!r}" if lost else "it has no rows")
    except Exception as error:  # whatever a parser raises on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ResultsError(f"cannot read {path}: {reason}") from error
    return frame, arrays
