"""Kernels too large for memory: the same blocks on disk, resumed where they stopped.

Beside `theta.npy.part` stands `theta.npy.blocks`, a list of what is finished. A block is on disk
before its line is; when all are, the array gets its final name.
"""

import errno
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tangents._ntk.tiles import Tiles
from tangents.functional import Params

BLOCK = 2000  # rows of a block, unless the budget asks for less
TOGETHER = 8  # blocks of one row that a worker computes at a time
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ALONE = threading.Lock()


def ntk_on_disk(
    path: str | Path,
    module: nn.Module,
    params: Params,
    x1: Tensor,
    x2: Tensor | None = None,
    outputs: str = "trace",
    budget: float | None = None,
    client=None,
    progress: bool = True,
) -> np.memmap:
    """The kernel of `ntk` as a NumPy file at `path` (.npy), mapped into memory for reading.

    Interrupted, the same call goes on with the missing blocks; finished, it only opens the file.
    `client`, a dask.distributed client whose workers see `path` as well, computes the blocks in
    parallel, one at a time in each process. Raises ValueError for what `ntk` refuses and where the
    file at `path` holds another kernel, as far as parameters, inputs and the module's repr tell (an
    activation that the repr does not show goes unnoticed); OSError where `path` cannot be written
    or the disk is too small, before anything is computed.
    """
    path = Path(path)
    part, journal = (path.with_name(path.name + end) for end in (".part", ".blocks"))
    head = _fingerprint(module, params, x1, x2, outputs)
    known = _read(journal)
    if known and known[0]["kernel"] != head:
        raise ValueError(f"{path} holds another kernel: choose another path, or remove {journal}")
    if path.exists():
        if not known:
            raise ValueError(f"{path} exists, and no {journal.name} says which kernel it holds")
        return np.load(path, mmap_mode="r")
    tiles = Tiles.of(module, params, x1, x2, outputs, budget)
    if not known or not part.exists():
        _reserve(part, tiles)
        known = [{"kernel": head, "size": tiles.square(BLOCK).rows}]
    size = known[0]["size"]
    tiles = tiles.square(size).in_blocks(size, size)
    journal.write_text("".join(json.dumps(line) + "\n" for line in known), encoding="utf-8")
    done = {tuple(line["block"]) for line in known[1:]}
    places = [(i, j) for i, j in tiles.places() if (i.start, j.start) not in done]
    compute = _here(part, tiles, places) if client is None else _there(client, part, tiles, places)
    shown = dict(desc=path.name, unit="block", total=len(places), disable=not progress or None)
    with open(journal, "a", encoding="utf-8") as log:
        for i, j in tqdm(compute, **shown):
            log.write(json.dumps({"block": [i.start, j.start]}) + "\n")
            log.flush()
    os.replace(part, path)
    return np.load(path, mmap_mode="r")


def _here(part: Path, tiles: Tiles, places) -> Iterator[tuple[slice, slice]]:
    out = np.load(part, mmap_mode="r+")
    for place in tiles.fill(out, places):
        out.flush()
        yield place


def _there(client, part: Path, tiles: Tiles, places) -> Iterator[tuple[slice, slice]]:
    from distributed import as_completed

    shared = client.scatter(tiles, broadcast=True)
    rows = (list(beside) for _, beside in itertools.groupby(places, itemgetter(0)))
    some = [row[k : k + TOGETHER] for row in rows for k in range(0, len(row), TOGETHER)]
    futures = [client.submit(_alone, part.absolute(), shared, each, pure=False) for each in some]
    for future in as_completed(futures):
        yield from future.result()


def _alone(part: Path, tiles: Tiles, places) -> list[tuple[slice, slice]]:
    with _ALONE:  # what passes through a module is seen by hooks: threads would mix theirs up
        return list(_here(part, tiles, places))


def _reserve(part: Path, tiles: Tiles) -> None:
    """An array of the kernel's size whose bytes the disk holds: a full disk shows here."""
    dtype = next(iter(tiles.params.values())).dtype
    dtype = torch.empty(0, dtype=dtype).numpy().dtype
    try:
        out = np.lib.format.open_memmap(part, "w+", dtype, tiles.shape)
        with open(part, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, out.offset + out.nbytes)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        need = np.prod(tiles.shape) * dtype.itemsize / 1e9
        raise OSError(error.errno, f"no room for the kernel, {need:.3g} GB: {error.strerror}",
                      str(part)) from error  # fmt: skip


def _read(journal: Path) -> list[dict]:
    """The lines of the journal; one that was cut off counts as absent."""
    lines = []
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def _fingerprint(module, params: Params, x1, x2, outputs: str) -> str:
    """Of all that the kernel depends on; of the module's code, what its repr shows."""
    digest = hashlib.sha256(f"{outputs} {module!r}".encode())
    given = {**params, **dict(module.named_buffers()), "x1": x1, "x2": x2}
    for name, values in given.items():
        digest.update(name.encode())
        if values is not None:
            digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
