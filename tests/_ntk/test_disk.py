"""Kernels on disk are those in memory, whatever stops them on the way."""

import errno
import multiprocessing
import os
import time
import warnings

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from torch import nn

from tangents import models
from tangents._ntk import disk
from tangents._ntk.tiles import Tiles
from tangents.empirical import ntk, ntk_on_disk
from tangents.lab import sweep
from tests.cases import close, normal

NET = models.MLP(3, 6, 2, c=2)
PARAMS = models.initialise(NET, 0)
X, X2 = normal(11, 3), normal(7, 3, seed=1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(disk, "BLOCK", 4)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("x2", [None, X2], ids=["symmetric", "two sets"])
def test_the_file_holds_the_kernel(tmp_path, x2, outputs):
    path = tmp_path / "theta.npy"
    got = ntk_on_disk(path, NET, PARAMS, X, x2, outputs, progress=False)
    close(torch.tensor(got), ntk(NET, PARAMS, X, x2, outputs))
    assert isinstance(got, np.memmap) and not got.flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theta.npy", "theta.npy.blocks"]


def test_a_stack_of_networks(tmp_path):
    params = models.initialise_stack(NET, [0, 1])
    got = ntk_on_disk(tmp_path / "theta.npy", NET, params, X, progress=False)
    close(torch.tensor(got), ntk(NET, params, X, outputs="trace"))


def interrupted(path, blocks, monkeypatch, x2=None):
    """A computation stopped after some blocks."""
    count, plain = 0, Tiles._tile

    def some(*arguments):
        nonlocal count
        count += 1
        if count > blocks:
            raise KeyboardInterrupt
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Tiles, "_tile", some)
        with pytest.raises(KeyboardInterrupt):
            ntk_on_disk(path, NET, PARAMS, X, x2, progress=False)
    assert not path.exists()


def counted(monkeypatch):
    record, plain = [], Tiles._tile

    def noting(self, i, j, *rest):
        record.append((i.start, j.start))
        return plain(self, i, j, *rest)

    monkeypatch.setattr(Tiles, "_tile", noting)
    return record


def test_it_goes_on_with_the_missing_blocks(tmp_path, monkeypatch):
    path = tmp_path / "theta.npy"
    interrupted(path, 4, monkeypatch)
    journal = tmp_path / "theta.npy.blocks"
    with journal.open("a") as file:
        file.write('{"block": [8')  # cut off in the middle of a line
    want, record = ntk(NET, PARAMS, X, outputs="trace"), counted(monkeypatch)
    got = ntk_on_disk(path, NET, PARAMS, X, progress=False)
    close(torch.tensor(got), want)
    assert record == [(0, 0), (8, 4), (8, 8)]  # of two examples, to compare
    again = ntk_on_disk(path, NET, PARAMS, X, progress=False)
    assert np.array_equal(again, got) and record[3:] == [(0, 0)]
    assert len(journal.read_text().splitlines()) == 7  # the one that was cut off too


def test_it_begins_anew_without_its_part(tmp_path, monkeypatch):
    path = tmp_path / "theta.npy"
    interrupted(path, 2, monkeypatch)
    (tmp_path / "theta.npy.part").unlink()
    got = ntk_on_disk(path, NET, PARAMS, X, progress=False)
    close(torch.tensor(got), ntk(NET, PARAMS, X, outputs="trace"))


def test_another_kernel_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "theta.npy"
    interrupted(path, 2, monkeypatch)
    for arguments in ((PARAMS, X + 1), (models.initialise(NET, 1), X), (PARAMS, X, X2)):
        with pytest.raises(ValueError, match=r"theta\.npy holds another kernel: choose"):
            ntk_on_disk(path, NET, *arguments, progress=False)
    np.save(tmp_path / "alien.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"alien\.npy exists, and no alien\.npy\.blocks says"):
        ntk_on_disk(tmp_path / "alien.npy", NET, PARAMS, X, progress=False)


def test_a_network_of_other_activation_or_head_is_another(tmp_path):
    path = tmp_path / "theta.npy"
    ntk_on_disk(path, NET, PARAMS, X, progress=False)
    with pytest.raises(ValueError, match="holds another kernel"):
        ntk_on_disk(path, models.MLP(3, 6, 2, c=2, activation="tanh"), PARAMS, X, progress=False)
    heads = [repr(models.Headed(NET, head)) for head in models.HEADS]
    assert len(set(heads)) == len(heads)


class Hidden(nn.Module):
    """Shows nothing of its activation."""

    def __init__(self, function):
        super().__init__()
        self.function, self.layer = function, nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x):
        return self.function(self.layer(x))


def test_a_network_that_looks_the_same_is_another(tmp_path, monkeypatch):
    path, net, other = tmp_path / "theta.npy", Hidden(torch.tanh), Hidden(torch.sin)
    params = {k: v.detach() for k, v in net.named_parameters()}
    ntk_on_disk(path, net, params, X, progress=False)
    assert repr(net) == repr(other)
    with pytest.raises(ValueError, match=r"theta\.npy holds another kernel: the module gives"):
        ntk_on_disk(path, other, params, X, progress=False)
    os.replace(path, tmp_path / "theta.npy.part")
    with pytest.raises(ValueError, match=r"theta\.npy holds another kernel: the module gives"):
        ntk_on_disk(path, other, params, X, progress=False)


def flipped(file, generator):
    """One bit of a file is turned."""
    data = bytearray(file.read_bytes())
    at = generator.integers(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    file.write_bytes(bytes(data))


def truncated(file, generator):
    data = file.read_bytes()
    file.write_bytes(data[: generator.integers(len(data))])


def zeroed(file, generator):
    file.write_bytes(bytes(file.stat().st_size))


def foreign(file, generator):
    with file.open("wb") as opened:
        np.save(opened, generator.normal(size=(11, 11)))


@pytest.mark.parametrize("damage", [flipped, truncated, zeroed, foreign])
@pytest.mark.parametrize("which", [".part", ".blocks"])
@pytest.mark.parametrize("x2", [None, X2], ids=["symmetric", "two sets"])
def test_what_is_damaged_is_computed_anew(tmp_path, monkeypatch, x2, which, damage):
    """A kernel that is not finished: no block that is missing is ever zero, or another's."""
    want, generator = ntk(NET, PARAMS, X, x2, outputs="trace"), np.random.default_rng(0)
    for attempt in range(4 if damage in (flipped, truncated) else 1):
        path = tmp_path / f"{attempt}.npy"
        interrupted(path, 3, monkeypatch, x2)
        damage(path.with_name(path.name + which), generator)
        close(torch.tensor(ntk_on_disk(path, NET, PARAMS, X, x2, progress=False)), want)
        close(torch.tensor(ntk_on_disk(path, NET, PARAMS, X, x2, progress=False)), want)


@pytest.mark.parametrize("damage", [flipped, truncated, zeroed, foreign])
@pytest.mark.parametrize("which", ["", ".blocks"])
def test_a_finished_kernel_that_is_damaged_is_refused_and_mended(tmp_path, which, damage):
    want, generator = ntk(NET, PARAMS, X, outputs="trace"), np.random.default_rng(1)
    for attempt in range(8 if damage in (flipped, truncated) else 1):
        path = tmp_path / f"{attempt}.npy"
        ntk_on_disk(path, NET, PARAMS, X, progress=False)
        damage(tmp_path / (path.name + which), generator)
        with pytest.raises(ValueError, match=r"is damaged|says which kernel") as refused:
            ntk_on_disk(path, NET, PARAMS, X, progress=False)
        assert "\n" not in str(refused.value)
        os.replace(path, tmp_path / (path.name + ".part"))
        close(torch.tensor(ntk_on_disk(path, NET, PARAMS, X, progress=False)), want)


def test_a_kernel_beyond_the_numbers_is_refused(tmp_path):
    large = {k: 1e12 * v.float() for k, v in PARAMS.items()}
    with pytest.raises(ValueError, match=r"^the kernel is not finite in torch\.float32"):
        ntk_on_disk(tmp_path / "t.npy", NET, large, X.float(), progress=False)
    assert not (tmp_path / "t.npy").exists()


def slowly(path):
    """In a process of its own, some milliseconds a block."""
    plain = Tiles._tile

    def slow(*arguments):
        time.sleep(0.005)
        return plain(*arguments)

    Tiles._tile = slow
    ntk_on_disk(path, NET, PARAMS, X, progress=False)


def child(path):
    process = multiprocessing.get_context("fork").Process(target=slowly, args=(path,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that other tests left
        process.start()
    return process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork")
def test_a_kill_at_any_moment_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "BLOCK", 1)
    want, moments = ntk(NET, PARAMS, X, outputs="trace"), np.random.default_rng(2)
    path, journal = tmp_path / "theta.npy", tmp_path / "theta.npy.blocks"
    kills, known, most = 0, [], 0.1
    while not path.exists():
        process, most = child(path), 1.3 * most  # to open takes its time on a machine under load
        process.join(moments.uniform(0, most))
        kills += process.is_alive()
        process.kill()
        process.join()
        lines = journal.read_bytes().splitlines() if journal.exists() else []
        assert lines[: len(known)] == known  # which only grows
        known = lines
    assert kills > 2
    close(torch.tensor(ntk_on_disk(path, NET, PARAMS, X, progress=False)), want)
    done = [line for line in known if line]
    assert len(done) == len(set(done)) == 66  # no block was computed twice


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork")
def test_a_second_writer_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "BLOCK", 1)
    path, journal = tmp_path / "theta.npy", tmp_path / "theta.npy.blocks"
    process = child(path)
    while not journal.exists():
        time.sleep(0.001)
    with pytest.raises(OSError, match="another process computes this kernel: wait for its end"):
        ntk_on_disk(path, NET, PARAMS, X, progress=False)
    process.join()
    got = ntk_on_disk(path, NET, PARAMS, X, progress=False)
    close(torch.tensor(got), ntk(NET, PARAMS, X, outputs="trace"))


def test_a_full_disk_is_told_before_the_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for the kernel, 1\.1e-06 GB: No space left"):
        ntk_on_disk(tmp_path / "theta.npy", NET, PARAMS, X, progress=False)
    assert not any(tmp_path.iterdir())


def test_threads_of_one_process_do_not_mix_their_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "BLOCK", 1)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        got = ntk_on_disk(tmp_path / "t.npy", NET, PARAMS, X, client=client, progress=False)
    close(torch.tensor(got), ntk(NET, PARAMS, X, outputs="trace"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        ntk_on_disk(tmp_path / "gone" / "t.npy", NET, PARAMS, X, progress=False)


def test_workers_share_the_blocks(tmp_path):
    with sweep._client(2, None) as client:
        got = ntk_on_disk(tmp_path / "t.npy", NET, PARAMS, X, client=client, progress=False)
    close(torch.tensor(got), ntk(NET, PARAMS, X, outputs="trace"))


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.net = NET

    def forward(self, x):
        return self.net(x["inputs"])


def test_inputs_by_name_are_opened_again(tmp_path):
    params = {f"net.{name}": v for name, v in PARAMS.items()}
    for _ in range(2):  # computed, and read
        got = ntk_on_disk(tmp_path / "theta.npy", Named(), params, {"inputs": X}, progress=False)
        close(torch.tensor(got), ntk(NET, PARAMS, X, outputs="trace"))
