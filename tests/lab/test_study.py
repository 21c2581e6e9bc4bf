"""Declarations: what a config accepts, how presets expand, what a run is called."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangents.lab.study import (
    LATER,
    Bound,
    Config,
    ConfigError,
    Count,
    Positive,
    Study,
    Whole,
    coerce,
    expand,
    fields,
    fingerprint,
)
from tests.toy import STUDY, Toy


def test_expand_is_the_product_of_each_grid_without_duplicates():
    study = dataclasses.replace(
        STUDY, presets={"smoke": [{"width": [2, 4], "seed": range(2)}, {"width": np.int64(4)}]}
    )
    configs = expand(study, "smoke")
    assert [(c.width, c.seed) for c in configs] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert all(type(c.width) is int for c in configs)


def test_an_override_replaces_its_field_in_every_grid():
    configs = expand(STUDY, "smoke", {"width": ["16", 32.0], "scaled_alpha": 1})
    assert {c.width for c in configs} == {16, 32}
    assert {c.kind for c in configs} == {"plain", "nan"}


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("bok", {}, ["'bok'", "smoke, book", "did you mean 'book'"]),
        ("smoke", {"widht": 3}, ["field 'widht'", "did you mean 'width'"]),
        ("smoke", {"width": 3.5}, ["'width'", "3.5", "int"]),
        ("smoke", {"width": True}, ["'width'", "int"]),
        ("smoke", {"width": [[1]]}, ["'width'"]),
        ("smoke", {"width": 2**63}, ["'width'"]),
        ("smoke", {"width": "inf"}, ["'width'"]),
        ("smoke", {"scaled_alpha": "nan"}, ["'scaled_alpha'", "float"]),
        ("smoke", {"kind": 3}, ["'kind'", "str"]),
        ("smoke", {"flag": "maybe"}, ["'flag'", "bool"]),
        ("smoke", {"width": 0}, ["width must be at least 1, got 0"]),
        ("smoke", {"width": None}, ["'width'"]),
    ],
)
def test_what_cannot_be_a_config_is_refused_on_one_line(preset, overrides, words):
    with pytest.raises(ConfigError) as caught:
        expand(STUDY, preset, overrides)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Nested(Config):
    sizes: tuple = ()


@dataclass(frozen=True)
class Clashing(Config):
    time: float = 0.0


@dataclass(frozen=True)
class Required(Config):
    width: int


@dataclass(frozen=True)
class Annotated_(Config):
    """One field of each kind of annotation."""

    n: Count = 3  # how many
    rest: Whole = 0
    scale: Positive = 1.0
    bound: Bound = 1e-2
    kind: Literal["a", "b"] = "a"  # which of the two: 100 %
    draw: Annotated[int, LATER] = 0  # came later


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stack": ("sed",)}, "did you mean 'seed'"),
        ({"presets": {"tiny": []}}, "preset"),
        ({"config": Clashing, "stack": ()}, "'time'"),
        ({"config": Nested, "stack": ()}, "'sizes'"),
        ({"tolerances": {"loss": (0, 0)}}, "'*'"),
    ],
)
def test_an_inconsistent_declaration_is_refused(change, word):
    with pytest.raises(ConfigError, match=word.replace("*", r"\*")):
        dataclasses.replace(STUDY, **change)


def test_a_missing_required_field_is_named():
    with pytest.raises(ConfigError, match="width"):
        coerce(Required, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"rest": -1}, "rest must be at least 0, got -1"),
        ({"scale": 0}, "scale must be positive and finite, got 0.0"),
        ({"scale": "inf"}, "scale must be positive and finite, got inf"),
        ({"bound": -1}, "bound must be positive, or inf, got -1.0"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
    ],
)
def test_a_field_accepts_what_its_annotation_says(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        coerce(Annotated_, values)
    with pytest.raises(ValueError, match=re.escape(message.partition(",")[0])):
        Annotated_(**{k: float(v) if v == "inf" else v for k, v in values.items()})
    assert coerce(Annotated_, {"bound": "inf"}).bound == float("inf")


def test_a_field_says_its_kind_choices_and_meaning():
    found = fields(Annotated_)
    assert found["n"].kind is int and found["n"].meaning == "how many"
    assert found["kind"].kind is str and found["kind"].choices == ("a", "b")
    assert [name for name, known in found.items() if known.later] == ["draw"]


def test_a_field_that_came_later_leaves_the_names_of_older_runs():
    study = Study("s", 1, Annotated_, {}, (), print)
    older = dataclasses.make_dataclass(
        "Older", [(f.name, f.type, f) for f in dataclasses.fields(Annotated_) if f.name != "draw"],
        bases=(Config,), frozen=True, namespace={"__module__": __name__},
    )  # fmt: skip
    same = Study("s", 1, older, {}, (), print)
    assert fingerprint(study, Annotated_(n=5)) == fingerprint(same, older(n=5))
    assert fingerprint(study, Annotated_(draw=1)) != fingerprint(study, Annotated_())


# ---- fingerprints


def spellings(value):
    """The same number in the types in which grids, tables and command lines hold it."""
    exact = abs(value) < 2**53
    return [value, str(value), np.int64(value), *([float(value), np.float64(value)] * exact)]


@given(st.integers(-(2**63), 2**63 - 1), st.data())
def test_equal_values_share_a_fingerprint(seed, data):
    spelling = data.draw(st.sampled_from(spellings(seed)))
    assert fingerprint(STUDY, Toy(seed=seed)) == fingerprint(STUDY, Toy(seed=spelling))
    assert coerce(Toy, {"seed": spelling}) == Toy(seed=seed)


@given(st.floats(allow_nan=False), st.sampled_from([float, np.float64, str, repr]))
def test_floats_survive_every_spelling(alpha, spelling):
    config = coerce(Toy, {"scaled_alpha": spelling(alpha)})
    assert config.scaled_alpha == alpha
    assert fingerprint(STUDY, config) == fingerprint(STUDY, Toy(scaled_alpha=alpha))


@given(st.integers(), st.integers())
def test_different_seeds_differ(one, other):
    study = STUDY
    low, high = sorted((one % 2**62, other % 2**62))
    same = fingerprint(study, Toy(seed=low)) == fingerprint(study, Toy(seed=high))
    assert same == (low == high)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_text_is_kept(text):
    assert coerce(Toy, {"kind": np.str_(text)}).kind == text


def test_a_fingerprint_is_stable_and_depends_on_name_and_version():
    assert fingerprint(STUDY, Toy()) == "85d52ef79a1497f8"
    for change in ({"name": "other"}, {"version": 2}):
        other = dataclasses.replace(STUDY, **change)
        assert fingerprint(other, Toy()) != fingerprint(STUDY, Toy())
    assert fingerprint(STUDY, Toy(scaled_alpha=-0.0)) == fingerprint(STUDY, Toy(scaled_alpha=0))
