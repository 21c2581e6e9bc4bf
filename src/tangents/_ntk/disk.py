"""Kernels too large for memory: the same blocks on disk, resumed where they stopped.

Beside `theta.npy.part` stands `theta.npy.blocks`, a line for each block that is finished: which
kernel it is of, its place, and a checksum of its bytes; each line has one of its own. A block is on
disk before its line is; when all are, the array gets its final name. A block counts while its bytes
are what its line says: what is cut off, foreign, zeroed or flipped is computed anew.
"""

import errno
import io
import itertools
import json
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from operator import itemgetter
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tangents._ntk.route import rerouted
from tangents._ntk.tiles import Tiles
from tangents.functional import Params, differentiable, require
from tangents.inputs import Inputs, some, tensors

BLOCK = 2000  # rows of a block, unless the budget asks for less
TOGETHER = 8  # blocks of one row that a worker computes at a time
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ALONE = threading.Lock()
Place = tuple[slice, slice]


@rerouted
def ntk_on_disk(
    path: str | Path,
    module: nn.Module,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    outputs: str = "trace",
    budget: float | None = None,
    client=None,
    progress: bool = True,
) -> np.memmap:
    """The kernel of `ntk` as a NumPy file at `path` (.npy), mapped into memory for reading.

    Interrupted, the same call goes on with the blocks that are missing or damaged; finished, it
    reads the file once, compares its checksums, and opens it. `client`, a dask.distributed client
    whose workers see `path` as well, computes the blocks in parallel, one at a time in each
    process. Raises ValueError for what `ntk` refuses, where the file at `path` is damaged, and
    where it holds another kernel, as far as parameters, inputs, the module's repr and the kernel of
    two examples tell; OSError where `path` cannot be written, another process writes it,
    or the disk is too small, before anything is computed.
    """
    path = Path(path)
    tiles = Tiles.of(module, params, x1, x2, outputs, budget)
    require(tiles.route.dtype != torch.bfloat16, "NumPy has no bfloat16: take single precision")
    head = _fingerprint(module, params, x1, x2, outputs)
    if path.exists():
        return _finished(path, head, tiles)
    with _only_writer(path):
        if path.exists():  # since another one finished it
            return _finished(path, head, tiles)
        _compute(path, head, tiles, client, progress)
    return _mapped(path, tiles, "r")


def _beside(path: Path) -> tuple[Path, Path]:
    """The part and the journal."""
    part, journal = (path.with_name(path.name + end) for end in (".part", ".blocks"))
    return part, journal


def _finished(path: Path, head: str, tiles: Tiles) -> np.memmap:
    """The array of a file whose blocks are what the journal says."""
    part, journal = _beside(path)
    size, sums = _read(journal, path, head)
    require(size > 0, f"{path} exists, and no {journal.name} says which kernel it holds")
    tiles = tiles.in_blocks(size, size)
    out = _mapped(path, tiles, "r")
    require(out is not None, f"{path} is damaged: it is no array {tiles.shape} of its kernel")
    sound, bad = _sorted(out, tiles, sums)
    require(not bad, f"{path} or {journal.name} is damaged, in {len(bad)} of {len(bad + sound)} "
            f"blocks: named {part.name} these are computed anew")  # fmt: skip
    _require_same(path, out, tiles, sound[0])
    return out


def _compute(path: Path, head: str, tiles: Tiles, client, progress: bool) -> None:
    """Computes the blocks that are missing, and gives the array its name."""
    part, journal = _beside(path)
    size, sums = _read(journal, path, head)
    size = size or tiles.square(BLOCK).rows
    tiles = tiles.square(size).in_blocks(size, size)
    _reserve(part, tiles)
    out = _mapped(part, tiles, "r")
    sound, missing = _sorted(out, tiles, sums)
    if sound:
        _require_same(path, out, tiles, sound[0])
    given = part, tiles, missing
    compute = _here(*given) if client is None else _there(client, *given)
    shown = dict(desc=path.name, unit="block", total=len(missing), disable=not progress or None)
    with open(journal, "ab") as log:
        if log.tell():
            log.write(b"\n")  # the last line may be cut off
        for place, total in tqdm(compute, **shown):
            log.write(_line({"kernel": head, "size": size, "block": _key(place), "sum": total}))
            log.flush()
    os.replace(part, path)


def _here(part: Path, tiles: Tiles, places: list[Place]) -> Iterator[tuple[Place, int]]:
    out = _mapped(part, tiles, "r+")
    for place in tiles.fill(out, places):
        finite = bool(np.isfinite(out[tiles.at(*place)]).all())
        require(finite, f"the kernel is not finite in {tiles.route.dtype}")
        out.flush()
        yield place, _sum(out, tiles, place)


def _there(client, part: Path, tiles: Tiles, places: list[Place]) -> Iterator[tuple[Place, int]]:
    from distributed import as_completed

    shared = client.scatter(tiles, broadcast=True)
    rows = (list(beside) for _, beside in itertools.groupby(places, itemgetter(0)))
    parts = [row[k : k + TOGETHER] for row in rows for k in range(0, len(row), TOGETHER)]
    futures = [client.submit(_alone, part.absolute(), shared, each, pure=False) for each in parts]
    for future in as_completed(futures):
        yield from future.result()


def _alone(part: Path, tiles: Tiles, places: list[Place]) -> list[tuple[Place, int]]:
    # What passes through a module is seen by hooks: threads would mix theirs up.
    with _ALONE, differentiable(tiles.module):
        return list(_here(part, tiles, places))


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """OSError where another process or thread computes the kernel at this path."""
    if not path.parent.is_dir():  # which the lock would make
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        reason = "another process computes this kernel: wait for its end"
        raise BlockingIOError(errno.EAGAIN, reason, str(path)) from None
    try:
        yield
    finally:
        if not _beside(path)[0].exists():  # finished, or not begun
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


# ---- the array


def _dtype(tiles: Tiles) -> np.dtype:
    return torch.empty(0, dtype=tiles.route.dtype).numpy().dtype


def _header(tiles: Tiles) -> bytes:
    """The first bytes of the file, which say type and shape."""
    buffer, kind = io.BytesIO(), np.lib.format.dtype_to_descr(_dtype(tiles))
    given = {"descr": kind, "fortran_order": False, "shape": tiles.shape}
    np.lib.format.write_array_header_1_0(buffer, given)
    return buffer.getvalue()


def _begins(file: Path, header: bytes) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(header)) == header


def _mapped(file: Path, tiles: Tiles, mode: str) -> np.memmap | None:
    """The array in a file, None where the file is another one, or cut off."""
    header, kind = _header(tiles), _dtype(tiles)
    size = len(header) + int(np.prod(tiles.shape)) * kind.itemsize
    if not file.is_file() or file.stat().st_size != size or not _begins(file, header):
        return None
    return np.memmap(file, kind, mode, len(header), tiles.shape)


def _reserve(part: Path, tiles: Tiles) -> None:
    """An array of the kernel's size whose bytes the disk holds: a full disk shows here. What a part
    of this kernel holds stays."""
    header = _header(tiles)
    size = len(header) + int(np.prod(tiles.shape)) * _dtype(tiles).itemsize
    begun = part.exists() and _begins(part, header)
    try:
        with open(part, "r+b" if begun else "w+b") as file:
            file.write(header)
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if not begun:
            part.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, f"no room for the kernel, {size / 1e9:.3g} GB: {error.strerror}",
                      str(part)) from error  # fmt: skip


def _sum(out: np.ndarray, tiles: Tiles, place: Place) -> int:
    """The checksum of a block, and of its mirror image."""
    i, j = place
    both = [tiles.at(i, j)] + ([tiles.at(j, i)] if tiles.x2 is None and i != j else [])
    total = 0
    for at in both:
        total = zlib.crc32(np.ascontiguousarray(out[at]), total)
    return total


def _sorted(out: np.ndarray, tiles: Tiles, sums: dict) -> tuple[list[Place], list[Place]]:
    """The places of blocks whose bytes are what was written, and of all others."""
    good: list[Place] = []
    bad: list[Place] = []
    for place in tiles.places():
        known = sums.get(_key(place))
        same = known is not None and known == _sum(out, tiles, place)
        (good if same else bad).append(place)
    return good, bad


def _require_same(path: Path, out: np.ndarray, tiles: Tiles, place: Place) -> None:
    """What the module's repr does not show is seen in the kernel of two examples."""
    few = [slice(at.start, min(at.start + 2, at.stop)) for at in place]
    both = tiles.x1, tiles.x1 if tiles.x2 is None else tiles.x2
    x1, x2 = map(some, both, few)
    again = Tiles.of(tiles.module, tiles.params, x1, x2, tiles.outputs, tiles.budget).thin()
    want, found = again.computed().cpu(), torch.from_numpy(np.array(out[tiles.at(*few)]))
    off = (found - want).abs().max() <= torch.finfo(want.dtype).eps ** 0.5 * want.abs().max()
    require(bool(off), f"{path} holds another kernel: the module gives other numbers")


# ---- the journal


def _key(place: Place) -> tuple[int, int]:
    return place[0].start, place[1].start


def _line(value: dict) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(journal: Path, path: Path, head: str) -> tuple[int, dict[tuple[int, int], int]]:
    """The size of the blocks and their checksums; lines that are not whole count as absent.

    The size is 0 where nothing is known. ValueError where it is the journal of another kernel.
    """
    size, sums = 0, {}
    for line in journal.read_bytes().splitlines() if journal.exists() else ():
        check, _, text = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(text):
            continue
        said = json.loads(text)
        require(said["kernel"] == head, f"{path} holds another kernel: choose another path, or "
                f"remove {journal}")  # fmt: skip
        size = size or said["size"]
        if said["size"] == size:
            sums[tuple(said["block"])] = said["sum"]
    return size, sums


def _fingerprint(module, params: Params, x1, x2, outputs: str) -> str:
    """Of all that the kernel depends on; of the module's code, what its repr shows."""
    digest = sha256(f"{outputs} {module!r}".encode())
    own = module.state_dict(keep_vars=True)
    given = {**own, **dict(module.named_buffers()), **params, "x1": x1, "x2": x2}
    for name, inputs in given.items():
        digest.update(name.encode())
        for values in () if inputs is None else tensors(inputs):
            digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
            whole = values.detach().cpu().contiguous().reshape(-1)
            digest.update(whole.view(torch.uint8).numpy())
    return digest.hexdigest()
