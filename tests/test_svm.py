"""Support vector machines on precomputed kernels, against scikit-learn's own kernels."""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import scale
from sklearn.svm import SVC

from tangents import svm

X, Y = load_wine(return_X_y=True)
X = scale(X)
TRAIN, TEST = np.arange(0, 178, 2), np.arange(1, 178, 2)


def rbf(gamma, a=X, b=X):
    return rbf_kernel(a, b, gamma)


def test_the_machine_is_that_of_the_kernel_it_is_given():
    k, k_test = rbf(0.1, X[TRAIN], X[TRAIN]), rbf(0.1, X[TEST], X[TRAIN])
    theirs = SVC(C=10, gamma=0.1).fit(X[TRAIN], Y[TRAIN]).predict(X[TEST])
    assert (svm.classify(k, Y[TRAIN], k_test, 10.0) == theirs).all()
    # whatever the kernel's unit
    assert (svm.classify(7 * k, Y[TRAIN], 7 * k_test, 10.0) == theirs).all()


def test_kernel_and_cost_with_the_least_error_are_chosen():
    parts, gammas, costs = svm.folds(Y), (1e-3, 0.1, 10.0), (0.01, 1.0, 100.0)
    found = svm.choose(((g, rbf(g)) for g in gammas), Y, costs, parts)
    theirs = {
        (g, c): 1 - cross_val_score(SVC(C=c, gamma=g), X, Y, cv=parts).mean()
        for g in gammas
        for c in costs
    }
    assert found.error == pytest.approx(min(theirs.values()))
    assert (found.key, found.cost) == min(theirs, key=theirs.get)


def test_a_kernel_that_is_not_finite_is_out():
    bad = np.full((len(Y), len(Y)), np.inf)
    assert svm.choose([("bad", bad), ("good", rbf(0.1))], Y, (1.0,)).key == "good"
    with pytest.raises(ValueError, match="no kernel is finite"):
        svm.choose([("bad", bad)], Y)


def test_folds_are_as_many_as_the_largest_class_allows():
    y = np.array([0, 0, 0, 1, 1, 2])
    parts = svm.folds(y)
    assert len(parts) == 3
    assert sorted(np.concatenate([b for _, b in parts])) == list(range(6))
    assert svm.folds(np.arange(4)) == []
    assert svm.choose([("first", np.eye(4)), ("second", np.eye(4))], np.arange(4))[0] == "first"


@pytest.mark.parametrize(
    "k, message",
    [
        (np.eye(3), "a kernel is"),
        (np.zeros((178, 178)), "positive"),
        (np.full((178, 178), np.nan), "finite"),
    ],
)
def test_what_is_no_kernel_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        svm.classify(k, Y, rbf(1.0), 1.0)
    with pytest.raises(ValueError, match="a test kernel"):
        svm.classify(rbf(1.0), Y, rbf(1.0)[:, :5], 1.0)
