"""What tools/breaking.py tries, in small: nothing broken on purpose gives a wrong result."""

import random
from collections import Counter

import breaking
import pytest
from breaking import HARMLESS, NOTICED, REDONE, WRONG, Attempt


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """The environment is put back: the tool itself ends with its process."""
    for name in ("TANGENTS_RUNS", "TANGENTS_RESULTS", "TANGENTS_DATA", "PYTHONPATH"):
        monkeypatch.setenv(name, "")


def test_bad_input_is_refused_on_one_line(tmp_path, unchecked):
    tried = [*breaking.inputs(10**6, random.Random(0), tmp_path)]
    counts, wrong = breaking.run(tried, shown=False)
    assert not wrong and {outcome for _, outcome in counts} == {NOTICED}
    assert counts.total() > 500


def test_killed_processes_lose_nothing(tmp_path):
    killer = breaking.Killer(tmp_path)
    for name in ("sweep", "publish", "data"):
        for number, share in enumerate((0.2, 0.6, 0.9)):
            assert killer.attempt(name, share, number) in (NOTICED, REDONE, HARMLESS)


def test_flipped_bits_are_no_other_numbers(tmp_path):
    counts, wrong = breaking.run([*breaking.flips(40, random.Random(0), tmp_path)], shown=False)
    assert not wrong and counts.total() == 40


def raises(error):
    raise error


def test_what_is_wrong_is_counted():
    """A wrong table, a message of two lines, what is accepted, and what raises something else."""
    found = [
        Attempt("a", "wrong", lambda: breaking.demand(False, "a wrong table")),
        Attempt("a", "long", lambda: breaking.refused(lambda: raises(ValueError("two\nlines")))),
        Attempt("a", "accepted", lambda: breaking.refused(lambda: 3)),
        Attempt("a", "other", lambda: breaking.refused(lambda: raises(KeyError("x")))),
        Attempt("b", "right", lambda: breaking.refused(lambda: raises(ValueError("one line")))),
    ]
    counts, wrong = breaking.run(found, shown=False)
    assert counts == Counter({("a", WRONG): 4, ("b", NOTICED): 1}) and len(wrong) == 4
    assert breaking.table(counts)[-1] == ["all", 5, 1, 0, 0, 4]
