"""The study of recurrent kernels on tables: tiny runs against what they have to be."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from tangents import infinite
from tangents.data.uci import Split
from tangents.lab.study import ConfigError, coerce
from tangents.recurrent import Recurrent
from tangents.studies.enhanced import run as study
from tangents.studies.enhanced.config import EVERY, FEW, KNOWN, SMALL, Enhanced
from tangents.studies.enhanced.run import FOLDS, INNER, TUNING, Answer, Setting, Task

TINY = dict(source="sklearn", dataset="wine", n=60, trees=5)


def run(*configs):
    """{metric: value} of each config, all in one stack."""
    found = [{} for _ in configs]
    for i, rows, arrays in study.run([Enhanced(**c) for c in configs], "cpu"):
        assert not arrays and {row["step"] for row in rows} == {0}
        found[i] = {row["metric"]: row["value"] for row in rows}
    return found


@pytest.fixture(scope="module")
def task():
    return study.task(Enhanced(**TINY))


def test_every_method_classifies_and_shares_nothing_that_matters():
    methods = [m for m in EVERY if m not in ("bi", "avg")]
    found = dict(zip(methods, run(*(TINY | dict(method=m) for m in methods)), strict=True))
    for method, metrics in found.items():
        assert metrics["converged"] == 1 and metrics["examples"] == 60, method
        errors = [metrics[f"error_{how}"] for how in ("published", "nested", "seen", "folds")]
        assert min(errors) >= 0 and max(errors) < 0.25, method
    assert found["all"]["settings"] == 320 and found["rntk"]["settings"] == 80
    assert 0.4 < found["all"]["error_majority"] < 0.8
    (alone,) = run(TINY | dict(method="neighbours"))
    assert alone == found["neighbours"]


def test_splits_without_test_examples(task):
    n = len(task.y)
    halves, folds = task.splits[TUNING], [task.splits[i] for i in FOLDS]
    assert sorted(np.concatenate(halves)) == [*range(n)] == sorted(np.concatenate(folds[0]))
    for fold, i in zip(folds, INNER, strict=True):
        inner = task.splits[i]
        assert not {*fold.test} & {*np.concatenate(inner)} and len(fold.test) == n // 4
        assert len(np.concatenate(inner)) == n - len(fold.test)
        assert {*inner.train} <= {*halves.train} and {*inner.test} <= {*halves.test}


def answers(found):
    """The classes of a split's test examples, by what is chosen."""
    return {tuple(sorted(s.chosen.items())): s.answer(1).classes for s in found}


def reference(task, k, cost, i=1):
    train, test = task.splits[i]
    machine = SVC(C=cost, kernel="precomputed").fit(k[np.ix_(train, train)], task.y[train])
    return machine.predict(k[np.ix_(test, train)])


def test_recurrent_kernels_are_those_of_the_scaled_attributes(task):
    x = torch.from_numpy(task.x / np.sqrt((task.x**2).sum(1)).max())[..., None]
    for readout, one, both in (("last", "rntk", "bi"), ("steps", "avg", "bi-avg")):
        found = {k: answers(v) for k, v in study.recurrent(task, readout).items()}
        for frozen in (0, 2):
            net = Recurrent(2, su=0.5, sb=0.1, readout=readout, frozen=frozen)
            ahead, back = net.kernels(x)[1].numpy(), net.kernels(x.flip(1))[1].numpy()
            key = dict(layers=2, su=0.5, sb=0.1, frozen=frozen, cost=100.0)
            for name, k in ((one, ahead), (both, ahead + back)):
                got = found[name][tuple(sorted(key.items()))]
                assert np.array_equal(got, reference(task, k, 100.0))


def test_other_kernels_are_those_of_scikit_learn(task):
    d = task.x.shape[1]
    found = answers(study.gaussian(task))
    want = reference(task, rbf_kernel(task.x, gamma=0.25 / d), 10.0)
    assert np.array_equal(found[("cost", 10.0), ("gamma", 0.25)], want)
    found = answers(study.polynomial(task))
    k = polynomial_kernel(task.x, degree=3, gamma=0.25 / d, coef0=1)
    want = reference(task, k / k.diagonal().mean(), 1.0)
    assert np.array_equal(found[("cost", 1.0), ("degree", 3), ("stretch", 0.25)], want)
    found = answers(study.linear(task))
    k = 1 + task.x @ task.x.T / d
    assert np.array_equal(found[(("cost", 1.0),)], reference(task, k / k.diagonal().mean(), 1.0))
    each = infinite.fully_connected(torch.from_numpy(task.x), None, 2, "relu", False)
    found = answers(study.connected(task))
    for frozen, k in zip((2, 0), each, strict=True):
        want = reference(task, k.numpy() / k.diagonal().mean().item(), 10.0)
        assert np.array_equal(found[("cost", 10.0), ("frozen", frozen), ("layers", 2)], want)


def test_an_example_of_zeros_has_a_kernel_of_zeros(task):
    x = task.x.copy()
    x[3] = 0
    found = study.connected(Task(x, task.y, task.splits))
    assert len([*found]) == 70


def test_neighbours_are_those_of_scikit_learn(task):
    train, test = task.splits[1]
    for setting in study.neighbours(task)[:2]:
        other = KNeighborsClassifier(setting.chosen["nearest"]).fit(task.x[train], task.y[train])
        assert np.array_equal(setting.answer(1).classes, other.predict(task.x[test]))


def answering(*classes):
    """Settings whose answers are these, for every split."""
    return [Setting({}, lambda i, c=c: Answer(np.array(c))) for c in classes]


TWO = Task(np.zeros((4, 1)), np.array([0, 1, 2, 1]), [Split(np.arange(2), np.array([1, 2, 3]))])


def test_the_best_vote_and_an_even_number_leaves_one_out():
    bad, a, b, c, d = answering([0, 0, 0], [1, 0, 1], [1, 2, 2], [0, 2, 1], [1, 0, 1])
    assert study.best(TWO, [bad, a, b], 0) == [a]
    assert study.best(TWO, [a, bad, b, c, d], 0) == [a, b, c]
    assert study.voted(TWO, [a, b, c], 0) == 0  # each errs once, elsewhere
    assert study.voted(TWO, [b], 0) == pytest.approx(1 / 3)


def test_of_equally_many_votes_the_first_class_wins():
    assert study.majority(np.array([[2, 1, 0], [2, 2, 1], [1, 2, 2]])).tolist() == [0, 2, 2]


def test_the_ways_to_choose(monkeypatch):
    """By numbers of errors among four test examples: on the tuning split, the test parts, and the
    tuning split without each part's examples."""
    errors = [[0, 2, 2, 2, 2, 4, 0, 4, 0], [1, 1, 0, 3, 0, 1, 1, 1, 1]]
    among = [Setting({"name": k}, lambda i, e=e: Answer(np.array([1] * e[i] + [0] * (4 - e[i]))))
             for k, e in enumerate(errors)]  # fmt: skip
    monkeypatch.setattr(study, "settings", lambda c, task: among)
    task = Task(np.zeros((8, 1)), np.zeros(8, int), [Split(np.arange(4, 8), np.arange(4))] * 9)
    found = study.measured(Enhanced(), task)
    assert found["error_published"] == 2 / 4 and found["chosen_name"] == 0 and found["tied"] == 1
    assert found["error_nested"] == pytest.approx((1 + 2 + 3 + 2) / 16)
    seen = [(2 + 1 + 2) / 3, 0 / 3 + (0 + 0 + 2) / 3, (3 + 2 + 2) / 3, (0 + 2 + 0) / 3]
    assert found["error_seen"] == pytest.approx(sum(seen) / 16)
    assert found["error_folds"] == 4 / 16 and found["error_majority"] == 0
    assert found["unfinished"] == 0 and found["settings"] == 2


def test_kernels_that_are_none_and_classes_of_one_kind(task):
    k = np.eye(len(task.y))
    k[0, 0] = np.inf
    assert study.machines(task, k, [1.0]) == []
    one = Task(task.x, np.full_like(task.y, 2), task.splits)
    (setting,) = study.machines(one, np.eye(len(one.y)), [1.0])
    assert setting.answer(0).ended and (setting.answer(0).classes == 2).all()


def test_a_method_without_a_finite_kernel_is_lost(task, monkeypatch):
    monkeypatch.setattr(study, "settings", lambda c, task: [])
    assert study.measured(Enhanced(**TINY), task) == {"converged": False}


def test_shuffled_classes_are_the_same_ones_elsewhere(task):
    other = study.task(Enhanced(**TINY, shuffled=True))
    assert sorted(other.y) == sorted(task.y) and (other.y != task.y).mean() > 0.3
    (found,) = run(TINY | dict(shuffled=True, method="rbf"))
    assert found["error_nested"] > 0.45


def test_columns_in_another_order(task):
    other = study.task(Enhanced(**TINY, mixed=True))
    assert np.array_equal(np.sort(other.x, 1), np.sort(task.x, 1)) and (other.x != task.x).any()
    methods = dict(rntk=False, ntk=True, rbf=True, forest=False)
    for method, same in methods.items():
        (one,), (two,) = (run(TINY | dict(method=method, mixed=m)) for m in (False, True))
        assert same == all(one[f"error_{how}"] == pytest.approx(two[f"error_{how}"])
                           for how in ("published", "nested", "seen")), method  # fmt: skip


def test_tables_of_the_presets():
    assert len(KNOWN) == 90 and len(SMALL) == 66 and {*FEW} < {*SMALL} < {*KNOWN}


@pytest.mark.parametrize("given, message", [
    (dict(dataset="whine"), "must be one of the 117 tables of UCI, got 'whine'"),
    (dict(n=10), "n must be 0 for tables of UCI"), (dict(trees=0), "trees must be at least 1"),
])  # fmt: skip
def test_configs_that_cannot_be_run_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Enhanced, given)
