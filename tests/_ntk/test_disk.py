"""Kernels on disk are those in memory, whatever stops them on the way."""

import errno
import json

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

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


def interrupted(path, blocks, monkeypatch):
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
            ntk_on_disk(path, NET, PARAMS, X, progress=False)
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
    assert record == [(8, 4), (8, 8)]
    again = ntk_on_disk(path, NET, PARAMS, X, progress=False)
    assert np.array_equal(again, got) and len(record) == 2
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 7


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


def test_a_full_disk_is_told_before_the_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for the kernel, 9\.68e-07 GB: No space left"):
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
