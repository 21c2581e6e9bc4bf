"""Running many configurations: stacks, processes, and a store that makes each sweep resumable.

Configs that differ only in an study's `stack` fields are handed to it together, and each run
is stored as soon as its study yields it. Sweeps on one store share the work: runs are claimed
by file locks, which the system releases when their process dies, however it dies.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tangents.lab.claims import digests
from tangents.lab.memory import keep_freed_memory
from tangents.lab.provenance import commit, provenance
from tangents.lab.store import ResultsError, Store
from tangents.lab.study import LabError, Study

try:
    import fcntl
except ImportError:  # Windows: simultaneous sweeps on one store may duplicate work, and no more
    fcntl = None

log = logging.getLogger("tangents")

LOG_SECONDS = 5.0  # between progress lines where stderr is not a terminal
WAIT_SECONDS = 1.0  # between looks at runs that another process is computing


class SweepError(LabError):
    """Runs that could not be computed (one line, naming the first cause)."""


def stacks(study: Study, configs: Sequence[Any], max_stack: int = 16) -> list[list[Any]]:
    """The configs grouped by all fields but `study.stack`, at most `max_stack` to a group."""
    groups: dict[tuple, list[Any]] = {}
    for config in configs:
        values = dataclasses.asdict(config).items()
        key = tuple(value for name, value in values if name not in study.stack)
        groups.setdefault(key, []).append(config)
    return [
        group[i : i + max_stack]
        for group in groups.values()
        for i in range(0, len(group), max_stack)
    ]


def _lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # held, or else a file system without locks: as on Windows
        return not isinstance(error, BlockingIOError)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock of that name."""
    if fcntl is None:
        yield True
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    held = _lock(number)
    try:
        yield held
    finally:
        if held:  # a process that opened this name before it went will find the run stored
            path.unlink(missing_ok=True)
        os.close(number)


def run_stack(
    study: Study, configs: Sequence[Any], store: Store, device: str = "cpu"
) -> Iterator[Any]:
    """Computes what of a stack is missing and not being computed elsewhere; yields what is stored.

    `seconds` in a run's provenance is its share of the stack's wall time: while m members are under
    way, each is charged 1/m of the time that passes, so the runs of a stack add up to its length.
    """
    commit()  # now, and remembered: the repository may move on while the stack runs
    claims = digests(study.claims)
    with ExitStack() as locks:

        def claim(config: Any) -> bool:
            path = store.path(study, config).with_suffix(".lock")
            return locks.enter_context(_locked(path))

        mine = [config for config in configs if claim(config)]
        todo = [config for config in mine if not store.has(study, config)]
        if not todo:
            return
        waiting, share, last = set(range(len(todo))), 0.0, time.perf_counter()
        for index, rows, arrays in study.run(todo, device):
            if index not in waiting:
                raise SweepError(f"{study.name} yielded member {index} twice or out of range")
            now = time.perf_counter()
            share, last = share + (now - last) / len(waiting), now
            waiting.discard(index)
            config = todo[index]
            origin = provenance(config, device, share, claims)
            store.put(study, config, rows, arrays, origin)
            yield config
        if waiting:
            raise SweepError(f"{study.name} left out {len(waiting)} of {len(todo)} runs")


class Progress:
    """Runs done and time left, on stderr: a bar on a terminal, else a line every few seconds."""

    def __init__(self, name: str, total: int, shown: bool) -> None:
        self.name, self.total, self.done = name, total, 0
        self.start = self.last = time.monotonic()
        self.lines = shown and not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=name, unit="run", smoothing=0, disable=not shown or None)
        if self.lines:
            print(f"{name}: {total} runs to compute", file=sys.stderr, flush=True)

    def set(self, done: int) -> None:
        step, self.done = done - self.done, done
        self.bar.update(step)
        now = time.monotonic()
        due = now - self.last > LOG_SECONDS or done == self.total
        if self.lines and done and step and due:
            self.last, passed = now, now - self.start
            left = passed / done * (self.total - done)
            line = f"{done}/{self.total} runs, {passed:.0f} s passed, about {left:.0f} s left"
            print(f"{self.name}: {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _cause(error: BaseException) -> str:
    """One line for an error: its type, message and the innermost line of code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _worker(
    study: Study, configs: Sequence[Any], root: Path, device: str, threads: int | None
) -> str | ResultsError | None:
    """One stack in a worker process, storing by itself; returns the cause of a failure, if any: of
    what is raised in a worker, dask prints a traceback."""
    keep_freed_memory()
    _set_threads(threads)
    try:
        list(run_stack(study, configs, Store(root), device))
    except ResultsError as error:
        return ResultsError(str(error))
    except (Exception, SystemExit) as error:
        return _cause(error)
    return None


Outcomes = Iterator[tuple[list[Any], str | None]]  # stacks, and the cause where one failed


def _here(store, study, device, bar, todo) -> Outcomes:
    """Runs the stacks in this process."""
    for stack in todo:
        cause = None
        try:
            for _ in run_stack(study, stack, store, device):
                bar.set(bar.done + 1)
        except ResultsError:  # the store itself fails (a full disk): every later run would too
            raise
        except (Exception, SystemExit) as error:  # costs its stack, not the sweep
            cause = _cause(error)
        yield stack, cause


def _there(client, threads, store, study, device, bar, todo) -> Outcomes:
    """Runs the stacks on a dask client's workers, which write to the store themselves."""
    from distributed import wait

    paths = [store.path(study, config) for stack in todo for config in stack]

    def stored() -> int:
        return sum(path.exists() for path in paths)

    before, job = bar.done - stored(), (store.root, device, threads)
    futures = {client.submit(_worker, study, stack, *job, pure=False): stack for stack in todo}
    while futures:
        try:
            finished = wait(list(futures), timeout=WAIT_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            finished = set()
        except CancelledError as error:
            raise SweepError("the scheduler is gone: the same command resumes") from error
        bar.set(before + stored())
        for future in finished:
            stack, error = futures.pop(future), future.exception()
            cause = _cause(error) if error is not None else future.result()
            if isinstance(cause, ResultsError):
                raise cause
            yield stack, cause


@contextmanager
def _client(workers: int, scheduler: str | None):
    """A dask client: of the scheduler at that address, else of as many local processes."""
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures reach us as exceptions
    with ExitStack() as opened:
        if scheduler is None:
            # its profiler looks a hundred times a second
            opened.enter_context(dask.config.set({"distributed.worker.profile.enabled": False}))
            # Without a memory limit: near one, dask pauses a worker, and no run is ever freed.
            scheduler = opened.enter_context(LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                silence_logs=logging.CRITICAL, dashboard_address=":0",
            ))  # fmt: skip
        try:
            client = opened.enter_context(Client(scheduler, timeout=10))
        except (OSError, ValueError) as error:
            raise SweepError(f"no scheduler at {scheduler}: {_cause(error)}") from error
        if not client.scheduler_info()["workers"]:
            log.warning("no workers at %s yet: waiting for them", scheduler)
        yield client


def _check(device: str) -> None:
    if device != "cpu":
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            reason = str(error).splitlines()[0]
            raise SweepError(f"device {device!r} cannot be used: {reason}") from error


def sweep(
    study: Study,
    configs: Sequence[Any],
    store: Store,
    device: str = "cpu",
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    max_stack: int = 16,
    progress: bool = True,
) -> int:
    """Computes the configs that the store lacks, each stored as it finishes; returns their number.

    One process by default; `workers` > 1 local processes of one thread each (unless `threads` says
    otherwise); or the workers of the dask scheduler at that address, which must see the store under
    the same path. A stack that fails does not stop the others. Raises SweepError where runs failed,
    ResultsError where the store cannot be written.
    """
    store.clean(study)
    missing = [config for config in configs if not store.has(study, config)]
    if not missing:
        return 0
    if scheduler is None:
        _check(device)
    with ExitStack() as opened:
        bar = opened.enter_context(Progress(study.name, len(missing), progress))
        if scheduler is None and workers == 1:
            _set_threads(threads)
            execute = _here
        else:
            client = opened.enter_context(_client(workers, scheduler))
            execute = partial(_there, client, threads or 1)
        _passes(partial(execute, store, study, device, bar), store, study, missing,
                max_stack, bar)  # fmt: skip
    return len(missing)


def _free(store: Store, study: Study, config: Any) -> bool:
    """Whether no other process is computing that run."""
    with _locked(store.path(study, config).with_suffix(".lock")) as held:
        return held


def _passes(execute, store, study, missing, max_stack, bar) -> None:
    """Passes over what is missing until it is stored, by us or another sweep, or has failed."""
    total, failed, causes = len(missing), set(), []
    while todo := [config for config in missing if config not in failed]:
        for stack, cause in execute(stacks(study, todo, max_stack)):
            if cause is not None:
                log.warning("%s: a stack of %d failed: %s", study.name, len(stack), cause)
                causes.append(cause)
                failed.update(config for config in stack if _free(store, study, config))
        missing = [config for config in missing if not store.has(study, config)]
        bar.set(total - len(missing))
        if not failed.issuperset(missing):  # the rest is being computed by another process
            time.sleep(WAIT_SECONDS)
    if missing:
        raise SweepError(f"{study.name}: {len(missing)} of {total} runs failed: {causes[0]}")
