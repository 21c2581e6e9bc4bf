"""What the paper on recurrent kernels beyond time series claims, in our words, and what we ask.

Alemohammad et al. (2020): abstract, public code and its data were read. A pilot on 39 of the tables
came before the accepted ranges, which are ours; for a pilot shows which way a mean lies, none of
them is narrower than "above 0". The independent unit is a table: each has one number, the mean of
its four test parts, in points. Intervals are over tables.
"""

import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus

PAPER, HERE = "alemohammad2020", "this book"
BETTER = Accept("better: above 0", 0, INF)
GAIN = Accept("a gain: above 0", 0, INF)
OTHERS = {
    "rbf": "Gaussian kernel",
    "polynomial": "polynomial kernel",
    "forest": "random forest",
    "ntk": "fully connected kernel",
}
VARIANTS = {"bi": "both directions", "avg": "all states", "bi-avg": "both"}
CHOICES = {"all": "recurrent, 320 settings", "ntk": "fully connected, 70", "rbf": "Gaussian, 70"}


def errors(t: Table, method: str, how: str = "published", part: str = "tables") -> Runs:
    """Test errors in points, each table a unit of its own."""
    runs = t.ends(f"error_{how}", part).where(method=method)
    tables = {name: place for place, name in enumerate(sorted(t.frame["dataset"].unique()))}
    rows = runs.rows.assign(value=100 * runs["value"], seed=runs["dataset"].map(tables))
    return Runs(rows, runs.states)


def gain(t: Table, method: str, other: str, how: str) -> Estimate:
    """By how many points `method` errs less than `other`."""
    return minus(errors(t, other, how), errors(t, method, how)).noting("units are tables")


def by_table(t: Table, methods: list[str], how: str) -> pd.DataFrame:
    """Errors, a row a table, a column a method. Raises LookupError where one has no runs."""
    each = {name: errors(t, name, how).rows.set_index("dataset")["value"] for name in methods}
    return pd.DataFrame(each)


def knowing(t: Table, method: str, how: str) -> Runs:
    """By how much less a method errs where the choice of its settings has seen test examples: all
    ("published"), most, and no more examples than the choice that has not ("seen"), or where they
    alone decide ("folds")."""
    chosen, honest = errors(t, method, how), errors(t, method, "nested")
    known = honest["run_id"].map(chosen.by_run)
    return honest.map(honest["value"] - known)


# ---- the paper's findings


@claim(
    "alemohammad-1", PAPER, "abstract", BETTER,
    over={f"alemohammad-1-{name}": Setting(words, dict(other=name))
          for name, words in OTHERS.items()},
)  # fmt: skip
def outperforms(t: Table, other: str) -> Estimate:
    """Support vector machines with recurrent kernels, of four variants and with all settings to
    choose from, err less often than other methods on the mean over tables that are no time series
    (points by which the other errs more; settings chosen as published)."""
    return gain(t, "all", other, "published")


@claim(
    "alemohammad-2", PAPER, "abstract: the kernels' extensions", BETTER,
    over={f"alemohammad-2-{name}": Setting(words, dict(variant=name))
          for name, words in VARIANTS.items()},
)  # fmt: skip
def extensions_help(t: Table, variant: str) -> Estimate:
    """Kernels that read in both directions, or all states, err less often than the plain recurrent
    one, with as many settings to choose from (points, as published)."""
    return gain(t, variant, "rntk", "published")


# ---- beyond the paper


@claim(
    "beyond-nested", PAPER, HERE, BETTER,
    over={f"beyond-nested-{name}": Setting(words, dict(other=name))
          for name, words in OTHERS.items()},
)  # fmt: skip
def outperforms_without_knowing(t: Table, other: str) -> Estimate:
    """They still do where no test example takes part in the choice of settings (points)."""
    return gain(t, "all", other, "nested")


@claim(
    "beyond-knowing", PAPER, HERE, GAIN,
    over={f"beyond-knowing-{name}": Setting(words, dict(method=name))
          for name, words in CHOICES.items()},
)  # fmt: skip
def selection_knows(t: Table, method: str) -> Estimate:
    """A choice of settings that has seen test examples makes errors smaller than one on as many
    examples that has not (points)."""
    return knowing(t, method, "seen").mean().noting("units are tables")


@claim("beyond-favour", PAPER, HERE, Accept("favours: above 0", 0, INF))
def selection_favours_many_settings(t: Table) -> Estimate:
    """The published choice, which has, favours the recurrent kernels, which have more settings,
    over the fully connected one (points of their lead that are lost without it)."""
    found = minus(knowing(t, "all", "published"), knowing(t, "ntk", "published"))
    return found.noting("units are tables")


@claim(
    "beyond-order", PAPER, HERE, Accept("no fewer errors: at most 0", -INF, 0),
    over={
        "beyond-order-published": Setting("fully connected kernel", dict(other="ntk")),
        "beyond-order-nested": Setting("the same, chosen without knowing",
                                       dict(other="ntk", how="nested")),
        "beyond-order-mixed": Setting("columns in another order: within half a point",
                                      dict(other="rntk", part="mixed"),
                                      Accept("no matter: within 0.5", -0.5, 0.5)),
    },
)  # fmt: skip
def reading_in_order(t: Table, other: str, how: str = "published", part="tables") -> Estimate:
    """Reading attributes one by one, in the order of the table's columns, gains nothing (points by
    which the plain recurrent kernel errs less than what does not know their order)."""
    found = minus(errors(t, other, how, part), errors(t, "rntk", how))
    return found.noting("units are tables")


# ---- controls


@claim(
    "control-shuffled", PAPER, HERE, Accept("no better: at most 0.5", -INF, 0.5),
    over={f"control-shuffled-{name}": Setting(words, dict(method=name))
          for name, words in (("rntk", "recurrent"), ("rbf", "Gaussian kernel"))},
    kind="control",
)  # fmt: skip
def shuffled_classes_are_not_learnt(t: Table, method: str) -> Estimate:
    """Where classes are given to the wrong examples no method beats the largest class (points by
    which it errs less, settings chosen without knowing)."""
    answers = errors(t, method, "majority", "shuffled")
    return minus(answers, errors(t, method, "nested", "shuffled")).noting("units are tables")


@claim(
    "control-simple", PAPER, HERE, BETTER,
    over={"control-simple-linear": Setting("linear machine", dict(other="linear")),
          "control-simple-neighbours": Setting("nearest neighbours", dict(other="neighbours"))},
    kind="control",
)  # fmt: skip
def simple_methods_are_beaten(t: Table, other: str) -> Estimate:
    """A Gaussian kernel errs less often than simpler methods (points, without knowing)."""
    return gain(t, "rbf", other, "nested")


CLAIMS = claims_in(globals())
