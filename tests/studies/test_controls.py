"""Columns that are turned upside down turn or open what is read from them.

In a copy of the published table each metric is changed, one after the other: 1/x where it is
positive throughout, else -x; likewise times and kept outputs. No finding that depends on it may
still be supported.
"""

import pytest

from tangents import studies
from tangents.lab.evidence import Table
from tangents.lab.ledger import entry
from tangents.lab.store import is_published, published

# Columns of one quantity, which are compared with one another, are turned together.
TOGETHER = [{"error", "error_linear", "error_validation", "error_linear_validation"},
            {"cka_1", "cka_2"}]  # fmt: skip
NO_DIRECTION = "an exponent of zero: the reciprocal is as flat"
NEAR_ONE = "a ratio near one: its reciprocal is as near"
UPPER_BOUND = "a bound on growth: turned at one end of the distances, growth is less throughout"
FALLING = "errors fall with n, so that the difference of their reciprocals grows, downwards"
NO_SIGN = "a ratio of values of one sign, which is turned in both"
SMALL = "a difference near zero, whose sign does not matter"
AT_THE_START = "the least reciprocal is that of the start, where nothing is learnt yet"
ONLY_PICKS = "asked for to know which runs fitted; what is judged is the frozen kernels' error"
ITS_OWN = "a label, 1 or -1, is its own reciprocal"
ONE_SIDED = "at most so much more than another error, which is larger when it is turned"
STABLE = "asked for to know which steps were stable"
RANKS = "what a smooth function of ranks explains, it explains of reciprocals, too"
APART = "at least so far apart, as reciprocals are"
TURNS = {"mnist": "turn_centred", "xor": "turn"}
OFF = ["newton-mnist", "newton-xor", "activation", "adam-mnist", "adam-xor"]
EXCEPTIONS = {
    ("liu-2a", "gradient"): NO_DIRECTION,
    ("liu-2b", "gradient"): NO_DIRECTION,
    ("liu-2c", "signal_two_2"): NO_DIRECTION,
    **{(f"liu-6{end}", "radius"): NEAR_ONE for end in "abc"},
    ("beyond-schedule-kernel", "kernel_cka"): NEAR_ONE,
    ("beyond-schedule-weights", "distance"): NEAR_ONE,
    ("beyond-gap-size", "error_linear"): FALLING,
    **{
        (f"goldwaser-2-stopped-{part}", metric): AT_THE_START
        for part in ("classes", "parity")
        for metric in TOGETHER[0]
    },
    **{(f"beyond-causes-{name}", "error"): SMALL for name in ("centred", "both", "random")},
    **{
        (name, "loss"): NEAR_ONE
        for name in (
            "buffelli-5-reversible-squared",
            "buffelli-5-reversible-cross-entropy",
            "buffelli-5-published-cross-entropy",
            "beyond-features-258",
            "beyond-features-514",
            "beyond-remedies-both",
        )
    },
    **{
        (f"buffelli-7-{name}", "kernel_cosine"): NEAR_ONE
        for name in ("reversible-squared", "sgd-squared", "reversible-cross-entropy")
    },
    **{
        (name, "change_own"): NO_SIGN
        for name in (
            "buffelli-6-squared-2",
            "buffelli-6-cross-entropy-2",
            "beyond-batches-drop-squared",
            "beyond-batches-drop-cross-entropy",
        )
    },
    ("beyond-lazy-digits", "kernel_change"): NO_SIGN,
    ("beyond-lazy-mnist", "kernel_change"): NO_SIGN,
    ("huang-3-weights", "steps"): NEAR_ONE,
    ("zandieh-5-d", "inputs"): UPPER_BOUND,
    ("zandieh-5-d", "cost"): UPPER_BOUND,
    ("fort-4-fc", "error_test"): ONE_SIDED,
    ("fort-4-conv", "error_test"): ONE_SIDED,
    ("fort-4-beside-fc", "error_beside"): ONE_SIDED,
    **{(f"beyond-rates-{rate}", "barrier_train"): SMALL for rate in (0.005, 0.02)},
    ("geiger-t1-at", "t1"): "a time after the end, at which the kernel has changed by more still",
    ("geiger-5b", "test_label"): ITS_OWN,
    ("geiger-6d", "test_label"): ITS_OWN,
    **{
        (f"map-measure-{task}", metric): RANKS
        for task, turn in TURNS.items()
        for metric in ("error", "error_linear", turn)
    },
    **{(f"map-measure-{task}", turn): RANKS for task in TURNS for turn in TURNS.values()},
    **{(f"map-measure-{task}", "edge"): STABLE for task in TURNS},
    ("map-alpha-mnist", "turn_centred"): RANKS,
    ("map-alpha-mnist", "edge"): STABLE,
    **{(f"map-offender-{name}", "edge"): STABLE for name in OFF if name != "newton-xor"},
    **{(f"map-offender-{name}", TURNS["xor" if "xor" in name else "mnist"]): RANKS for name in OFF},
    ("map-collapse-xor-same", "edge"): STABLE,
    ("map-collapse-xor-same", "turn"): RANKS,
    ("map-final-xor", "edge"): STABLE,
    ("map-final-flipped", "edge"): STABLE,
    **{("map-final-flipped", name): APART for name in ("error", "error_linear", "error_final")},
    ("geiger-13b", "error"): ONLY_PICKS,
    ("geiger-13b", "frozen_converged"): ONLY_PICKS,
}
PUBLISHED = [name for name in studies.names() if is_published(name, "book")]


class Recording(Table):
    """A table that notes the metrics that are asked of it."""

    def __init__(self, frame, arrays):
        super().__init__(frame, arrays)
        self.asked = set()

    def metric(self, metric, part=None):
        self.asked.add(metric)
        return super().metric(metric, part)

    def array(self, run_id, name):
        self.asked.add(name)
        return super().array(run_id, name)


def upside_down(table, metric):
    """A copy of the table with the values of one metric changed, or the times, or an array."""
    if metric == "time":
        return Table(table.frame.assign(time=1 / table.frame["time"]), table.arrays)
    if any(name.endswith(f"/{metric}") for name in table.arrays):
        changed = {
            k: 1 / v.astype(float) if k.endswith(metric) else v for k, v in table.arrays.items()
        }
        return Table(table.frame, changed)
    values = table.frame["value"].copy()
    for name in next((group for group in TOGETHER if metric in group), {metric}):
        rows = table.frame["metric"] == name
        old = values[rows]
        values[rows] = 1 / old if (old.dropna() > 0).all() else -old
    return Table(table.frame.assign(value=values), table.arrays)


def supported(study):
    """The supported findings of a study, and the metrics that each asks for."""
    table = Recording(*published(study.name, "book"))
    for claim in study.claims:
        for setting in claim.settings if claim.kind == "finding" else ():
            table.asked.clear()
            if entry(claim, setting, table)["verdict"] == "supported":
                yield claim, setting, table.asked - {"converged"} or {"time"}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
def test_a_column_upside_down_supports_nothing(name):
    study = studies.find(name)
    table, asking = Table(*published(name, "book")), {}
    for claim, setting, metrics in supported(study):
        for metric in metrics:
            asking.setdefault(metric, []).append((claim, setting))
    still = set()
    for metric, claims in asking.items():
        changed = upside_down(table, metric)
        still |= {
            (setting, metric)
            for claim, setting in claims
            if entry(claim, setting, changed)["verdict"] == "supported"
        }
    settings = {setting for claim in study.claims for setting in claim.settings}
    assert still == {pair for pair in EXCEPTIONS if pair[0] in settings}
