"""Tasks against preparations written out, on real digits and on small made-up images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tangents.data import sources, tasks
from tangents.data.sets import DATASETS, load
from tangents.data.sources import DataError
from tangents.data.tasks import Task, classes, pair, parity, shuffled, table, xor


@pytest.fixture
def small(monkeypatch):
    """Puts images and labels in the place of every data set."""

    def use(images, labels, split=0):
        monkeypatch.setattr(tasks, "load", lambda _: (images, labels))
        monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], train=split))
        forget()

    forget()
    yield use
    forget()


def forget():
    for cached in (tasks._mean, tasks._whitener):
        cached.cache_clear()


def needs(name):
    missing = sources.state(DATASETS[name]) != "verified"
    return pytest.mark.skipif(missing, reason=f"no {name} here: tangents data {name}")


def straightforward(name, seed, pca):
    """Geiger et al.'s preparation of the whole balanced set, written out with lists and sklearn."""
    images, labels = load(name)
    generator = torch.Generator().manual_seed(seed)
    classes = [
        [i for i in range(len(labels)) if labels[i] == k] for k in sorted(set(labels.tolist()))
    ]
    shuffled = []
    for members in classes:
        order = torch.randperm(len(members), generator=generator)
        shuffled.append([members[i] for i in order])
    order = [i for group in zip(*shuffled, strict=False) for i in group]
    x = images[order].astype(float) / 255
    x = x - x.mean(0)
    x = x.reshape(len(x), -1)
    x = np.sqrt(x.shape[1]) * x / np.sqrt((x**2).sum(1, keepdims=True))
    if pca:
        # sklearn divides the covariance by N - 1, Geiger et al. by N
        x = PCA(pca, whiten=True, svd_solver="full").fit_transform(x) * np.sqrt(
            len(x) / (len(x) - 1)
        )
    return x, np.where(labels[order] % 2 == 1, 1.0, -1.0)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("pca", [0, 1, 10, 61])
def test_parity_is_the_preparation_of_geiger(seed, pca):
    task = parity("digits", 1000, 700, pca=pca, seed=seed)
    x, y = straightforward("digits", seed, pca)
    ours = torch.cat([task.x, task.x_test]).numpy()
    flip = np.sign((ours * x[:1700]).sum(0)) if pca else 1.0  # components have no sign
    np.testing.assert_allclose(ours, flip * x[:1700], rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(torch.cat([task.y, task.y_test]), y[:1700])


def test_whitened_components_have_unit_covariance():
    task = parity("digits", 1740, 0, pca=20)
    assert task.x_test.shape == (0, 20)
    torch.testing.assert_close(task.x.mean(0), torch.zeros(20, dtype=task.x.dtype))
    covariance = task.x.T @ task.x / len(task.x)
    torch.testing.assert_close(covariance, torch.eye(20, dtype=task.x.dtype))


def test_components_come_in_order_with_a_sign_of_their_own():
    ten, three = parity("digits", 500, 500, pca=10), parity("digits", 500, 500, pca=3)
    torch.testing.assert_close(ten.x[:, :3], three.x, rtol=1e-9, atol=1e-9)
    _, whitener = tasks._whitener("digits", 0, 10)
    assert (whitener[np.abs(whitener).argmax(0), np.arange(10)] > 0).all()
    variance = 1 / (whitener**2).sum(0)
    assert (np.diff(variance) <= 0).all()


def test_examples_have_norm_d_and_the_shape_asked_for():
    flat = parity("digits", 30, 20)
    image = parity("digits", 30, 20, flat=False)
    assert flat.x.shape == (30, 64) and image.x.shape == (30, 1, 8, 8)
    assert torch.equal(image.x_test.flatten(1), flat.x_test)
    torch.testing.assert_close((flat.x**2).sum(1), torch.full((30,), 64.0, dtype=torch.float64))


def test_classes_are_balanced_and_training_and_test_disjoint(small):
    small(np.random.default_rng(0).integers(0, 256, (60, 4, 3)), np.minimum(np.arange(60) % 11, 9))
    labels = tasks.load("digits")[1]
    order = tasks._balanced_order(labels, seed=0)
    assert len(set(order.tolist())) == len(order) == 50  # the smallest class has 5 examples
    assert (labels[order].reshape(-1, 10) == np.arange(10)).all()
    task = parity("digits", 20, 30)
    assert task.y.sum() == 0 and task.y_test.sum() == 0
    assert torch.cdist(task.x, task.x_test).min() > 1e-3


def test_colour_planes_come_one_after_the_other(small):
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    small(images, np.arange(10))
    task = parity("cifar-10", 6, 4, flat=False)
    assert task.x.shape == (6, 3, 32, 32)
    direction = torch.from_numpy((images[0] - images.mean(0)).transpose(2, 0, 1))
    cosine = torch.cosine_similarity(direction.ravel(), task.x[0].ravel(), dim=0)
    assert cosine.item() == pytest.approx(1.0)


def test_the_seed_alone_decides():
    a, b, other = (parity("digits", 100, 50, pca=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.x, b.x) and torch.equal(a.x_test, b.x_test)
    assert not torch.equal(a.x, other.x)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    parity("digits", 10, 10, seed=7)
    assert torch.equal(before, torch.get_rng_state())


def test_n_does_not_change_the_examples():
    small, large = parity("digits", 50, 10, pca=4), parity("digits", 100, 10, pca=4)
    torch.testing.assert_close(small.x, large.x[:50])


def test_dtype_and_device():
    task = parity("digits", 10, 5, dtype=torch.float32)
    assert {part.dtype for part in vars(task).values()} == {torch.float32}
    moved = task.to(device="meta", dtype=torch.float64)
    assert isinstance(moved, Task) and moved.x_test.device.type == "meta"
    assert moved.y.dtype == torch.float64 and task.to(dtype=torch.float16).x.dtype == torch.float16


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"n": 0}, "n=0, n_test=10: at least 1 training and 0 test examples needed"),
        ({"n_test": -1}, "n=10, n_test=-1: at least"),
        ({"n": 1735}, "n + n_test = 1745: digits has 1740 balanced examples"),
        ({"pca": -1}, "pca=-1: digits has 64 pixels, accepted are 0 (none) to 64"),
        ({"pca": 65}, "pca=65: digits has 64 pixels"),
        ({"pca": 64}, "pca=64: fewer components of digits vary, ask for less"),
        ({"pca": 5, "flat": False}, "pca=5 with flat=False: principal components are no image"),
        ({"name": "svhn"}, "unknown data set 'svhn': accepted are"),
    ],
)
def test_impossible_requests_are_refused(request_, complaint):
    with pytest.raises(DataError) as error:
        parity(**{"name": "digits", "n": 10, "n_test": 10} | request_)
    assert str(error.value).startswith(complaint) and "\n" not in str(error.value)


@pytest.mark.parametrize("two", [(0, 1), (7, 3)])
def test_a_pair_is_two_classes_in_turn(two):
    images, labels = load("digits")
    both = images[np.isin(labels, two)].reshape(-1, 64) / 16
    task = pair("digits", 40, 20, two, seed=1)
    assert task.x.shape == (40, 64) and task.x_test.shape == (20, 64)
    assert task.y.tolist() == [-1, 1] * 20 and task.y_test.tolist() == [-1, 1] * 10
    ours = torch.cat([task.x, task.x_test]).numpy()
    for sign, k in zip((-1, 1), two, strict=True):
        of_class = images[labels == k].reshape(-1, 64) / 16 - both.mean(0)
        of_class *= 8 / np.linalg.norm(of_class, axis=1, keepdims=True)
        mine = ours[torch.cat([task.y, task.y_test]).numpy() == sign]
        nearest = np.abs(mine[:, None] - of_class).max(2)
        assert nearest.min(1).max() < 1e-12 and len(set(nearest.argmin(1))) == 30
    image = pair("digits", 40, classes=two, seed=1, flat=False)
    assert image.x.shape == (40, 1, 8, 8) and torch.equal(image.x.flatten(1), task.x)
    assert not torch.equal(pair("digits", 40, 20, two, seed=2).x, task.x)


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"classes": (1, 1)}, "classes=(1, 1): accepted are two different ones of [0, 1, 2"),
        ({"classes": (1, 10)}, "classes=(1, 10): accepted are"),
        ({"n": 0}, "n=0, n_test=0: digits has 356 balanced examples of two"),
        ({"n": 300, "n_test": 57}, "n=300, n_test=57: digits has"),
    ],
)
def test_impossible_pairs_are_refused(request_, complaint):
    with pytest.raises(DataError) as error:
        pair(**{"name": "digits", "n": 10} | request_)
    assert str(error.value).startswith(complaint)


@needs("mnist")
def test_setup_a_of_geiger_on_mnist():
    task = parity("mnist", 5000, 50000, pca=10)
    assert task.x.shape == (5000, 10) and task.x_test.shape == (50000, 10)
    assert task.y.sum() == 0 and task.y_test.sum() == 0
    everything = parity("mnist", 63130, 0, pca=10).x
    torch.testing.assert_close(everything.T @ everything / 63130, torch.eye(10).double())
    with pytest.raises(DataError, match="mnist has 63130 balanced examples"):
        parity("mnist", 63130, 1)


# ---- all classes


def test_all_classes_are_one_hot_and_keep_the_official_split(small):
    """40 training and 20 test images of 4 x 6 pixels in three classes, the split after 40."""
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 6, 3)).astype(np.uint8)
    labels = np.arange(60) % 3
    small(images, labels, split=40)
    task = classes("mnist", 12, 9, pool=2)
    assert task.x.shape == (12, 18) and task.x_test.shape == (9, 18)
    assert task.y.tolist() == np.eye(3)[[0, 1, 2] * 4].tolist()
    pooled = images.reshape(60, 2, 2, 3, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(60, 18)
    order = [tasks._balanced_order(labels[:40], 0)[:12], 40 + tasks._balanced_order(labels[40:], 0)]
    chosen = pooled[np.concatenate([order[0], order[1][:9]])]
    want = chosen - chosen[:12].mean(0)
    want *= np.sqrt(18) / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(torch.cat([task.x, task.x_test]), want, atol=1e-12)
    image = classes("mnist", 12, 9, pool=2, flat=False)
    assert image.x.shape == (12, 3, 2, 3) and torch.equal(image.x.flatten(1), task.x)


def test_without_an_official_split_training_and_test_are_disjoint():
    task = classes("digits", 100, 50)
    assert task.y.shape == (100, 10) and (task.y.sum(1) == 1).all()
    assert torch.cdist(task.x, task.x_test).min() > 1e-3


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"pool": 3}, "pool=3: it must divide the images of digits, 8 x 8"),
        ({"pool": 0}, "pool=0: it must divide"),
        ({"n": 0}, "n=0, n_test=10: digits has 1740 in all balanced examples"),
        ({"n_test": 1731}, "n=10, n_test=1731: digits has"),
    ],
)
def test_impossible_classes_are_refused(request_, complaint):
    with pytest.raises(DataError) as error:
        classes(**{"name": "digits", "n": 10, "n_test": 10} | request_)
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize("name, d, c", [("wine", 13, 3), ("breast-cancer", 30, 2)])
def test_a_table_is_standardised_by_its_training_examples(name, d, c):
    task = table(name, 100, 50, seed=1)
    assert task.x.shape == (100, d) and task.y_test.shape == (50, c)
    assert task.x.mean(0).abs().max() < 1e-12
    assert (task.x.std(0, correction=0) - 1).abs().max() < 1e-12
    assert (task.y.sum(1) == 1).all() and (task.y_test.sum(1) == 1).all()
    assert task.x_test.mean(0).abs().max() > 1e-3
    assert not torch.equal(table(name, 100, 50, seed=2).x, task.x)


def test_a_table_of_real_targets():
    task = table("diabetes", 300, 100)
    assert task.y.shape == (300, 1) and task.y.mean().abs() < 1e-12
    assert task.y.std(correction=0).item() == pytest.approx(1)


def test_a_table_has_so_many_examples():
    with pytest.raises(DataError, match="n=100, n_test=79: wine has 178 examples"):
        table("wine", 100, 79)
    with pytest.raises(DataError, match="unknown table 'iris': accepted are wine"):
        table("iris", 10, 10)


def test_images_are_series_of_their_columns():
    found = tasks.image_columns("mnist", 20, 10, pool=2, seed=3)
    again = tasks.classes("mnist", 20, 10, pool=2, seed=3)
    assert found.x.shape == (30, 14, 14) and found.train == 20 and set(found.lengths) == {14}
    assert (found.y == torch.cat([again.y, again.y_test]).argmax(1).numpy()).all()
    assert np.square(found.x[:20]).mean() == pytest.approx(1)
    images, _ = load("mnist")
    first = images[tasks.split("mnist", 20, 10, 3)[0]].reshape(14, 2, 14, 2).mean((1, 3)).T
    assert np.corrcoef(first.ravel(), found.x[0].ravel())[0, 1] == pytest.approx(1)


def test_empty_columns_are_cut_away_at_both_ends():
    whole, cut = (tasks.image_columns("mnist", 20, 10, 2, cut=c, seed=3) for c in (False, True))
    assert len(set(cut.lengths)) > 4 and cut.x.shape[1] == cut.lengths.max()
    for a, b, length in zip(whole.x, cut.x, cut.lengths, strict=True):
        there = np.flatnonzero(a.any(1))
        assert (b[:length] == a[there[0] : there[-1] + 1]).all() and not b[length:].any()
        assert b[0].any() and b[length - 1].any()


def test_columns_of_images_in_colour_are_refused(monkeypatch):
    monkeypatch.setattr(tasks, "load", lambda _: (np.zeros((4, 2, 2, 3)), np.zeros(4)))
    with pytest.raises(DataError, match="in colour"):
        tasks.image_columns("cifar-10", 2, 2)


def test_xor_is_the_sign_of_a_product_and_has_no_linear_part():
    task = xor(40_000, 3, d=4, seed=1)
    assert torch.equal(task.y, (task.x[:, 0] * task.x[:, 1]).sign())
    assert task.x_test.shape == (3, 4) and abs(task.y.mean()) < 0.02
    assert (task.x.mT @ task.y / 40_000).abs().max() < 0.02
    assert not torch.equal(task.x[:3], xor(3, 0, d=4, seed=2).x)
    with pytest.raises(DataError, match="d=1: at least 1, 0 and 2 needed"):
        xor(3, 0, d=1)


def test_shuffled_labels_are_the_same_labels_elsewhere():
    task = classes("digits", 60, 20)
    found = shuffled(task, 1)
    assert torch.equal(found.y.sum(0), task.y.sum(0)) and not torch.equal(found.y, task.y)
    assert torch.equal(found.y, shuffled(task, 1).y)
    assert not torch.equal(found.y, shuffled(task, 2).y)
    assert all(torch.equal(getattr(found, k), getattr(task, k)) for k in ("x", "x_test", "y_test"))
