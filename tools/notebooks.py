"""Execute notebooks in place and normalise them, so that an unchanged re-run is byte-identical.

    python tools/notebooks.py book/*.ipynb

What varies from run to run (seconds, date, machine) is kept out of the notebooks and goes to the
execution record, data/results/execution.csv: one row a notebook, its latest execution.
"""

import csv
import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tangents.lab.provenance import commit, device_name, versions

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "data" / "results" / "execution.csv"
COLUMNS = ("notebook", "seconds", "date", "commit", "device", "versions")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
VOLATILE = ("execution", "papermill", "ExecuteTime", "collapsed", "scrolled")
TIMEOUT = 600  # seconds a cell


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what a machine or an editor leaves in it; changed in place."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
    return notebook


def execute(path: Path) -> float:
    """Execute the notebook at `path` in place, in its own folder; seconds taken.

    Raises CellExecutionError where a cell fails; the file is then left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name=KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    started = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - started
    write(normalise(notebook), path)
    return seconds


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write to a temporary name and rename: a reader never meets half a notebook."""
    temporary = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def record(path: Path, seconds: float) -> None:
    """Put this execution in the record, in place of the notebook's earlier row."""
    rows = {}
    if RECORD.exists():
        with RECORD.open(newline="") as file:
            rows = {row["notebook"]: row for row in csv.DictReader(file)}
    rows[path.name] = {
        "notebook": path.name,
        "seconds": f"{seconds:.0f}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": short(commit()),
        "device": f"{device_name('cpu')}, {os.cpu_count()} cores",
        "versions": versions(),
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    kept = [rows[name] for name in sorted(rows) if (ROOT / "book" / name).exists()]
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def short(name: str) -> str:
    """A commit's first ten digits, and whatever mark stands behind its name."""
    digits, *marks = name.split("-")
    return "-".join([digits[:10], *marks])


def main(paths: Iterable[str]) -> int:
    """Execute and record each notebook; 1 if any failed."""
    failed = False
    for path in map(Path, paths):
        try:
            seconds = execute(path)
        except CellExecutionError as error:
            print(f"{path}: a cell failed, the file is unchanged\n{error}", file=sys.stderr)
            failed = True
            continue
        record(path, seconds)
        print(f"{path}: {seconds:.0f} s")
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tools/notebooks.py NOTEBOOK...")
    sys.exit(main(sys.argv[1:]))
