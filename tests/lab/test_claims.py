"""Claims: what they say, when a verdict was registered, and where a paper makes its statement."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from tangents.lab.claims import Setting, claim, claims_in, digests, registered
from tangents.lab.evidence import Accept, Estimate, Table
from tangents.lab.ledger import entry, judged
from tests.toy import STUDY

CLEAN, OTHER = "a" * 40, "b" * 40


@claim("wide", "nobody2020", "p. 1", Accept("2", 1, 3), range=dict(width=(100, math.inf)))
def wide(t: Table) -> Estimate:
    """It is
    two."""
    return t.every("x").mean()


@claim("many", "nobody2020", "p. 2", Accept("2", 1, 3),
       over={"many-a": Setting("first", dict(part="a")),
             "many-b": Setting("second", dict(part="b"), Accept("5", 4, 6))})  # fmt: skip
def many(t: Table, part: str) -> Estimate:
    """It is as asked for."""
    return t.every("x", part).mean()


def table(value=2.0, width=200, **columns):
    rows = [(f"r{s}", s, width, part, "x", value + 0.01 * s) for s in range(4) for part in "ab"]
    frame = pd.DataFrame(rows, columns=["run_id", "seed", "width", "part", "metric", "value"])
    return Table(frame.assign(step=0, time=0.0, **columns))


def test_the_docstring_is_the_statement():
    assert wide.statement == "It is two." and claims_in(globals()) == (wide, many)


def test_each_setting_is_a_row_with_its_own_range():
    first, second = (entry(many, setting, table()) for setting in many.settings)
    assert (first["id"], first["verdict"], first["accepted"]) == ("many-a", "supported", (1, 3))
    assert (second["id"], second["verdict"]) == ("many-b", "contradicted")
    assert second["setting"] == "second"
    assert first["claim"] == second["claim"] == "many" and first["seeds"] == 4


@pytest.mark.parametrize(
    "value, width, verdict",
    [(2, 200, "supported"), (9, 200, "contradicted"), (9, 50, "outside"), (2, 50, "supported")],
)
def test_what_lies_outside_of_the_papers_range_contradicts_it_not(value, width, verdict):
    assert entry(wide, "wide", table(value, width))["verdict"] == verdict


def test_a_verdict_is_registered_where_its_runs_were_made_by_a_commit_that_held_the_claim():
    made = digests((wide, many))
    assert registered(wide, "wide", table(claims=made, commit=CLEAN))
    assert not registered(wide, "wide", table())
    assert not registered(wide, "wide", table(claims="", commit=CLEAN))
    for commit in (f"{CLEAN}-dirty", "unknown"):
        assert not registered(wide, "wide", table(claims=made, commit=commit))
    moved = replace(wide, accept=Accept("2", 1, 2.5))
    assert not registered(moved, "wide", table(claims=made, commit=CLEAN))
    later = table(claims=made, commit=CLEAN)
    mixed = Table(pd.concat([later.frame, table(claims="", commit=OTHER).frame]))
    assert not registered(wide, "wide", mixed)


def test_a_verdict_depends_on_the_origin_of_the_parts_that_it_reads_alone():
    made = digests((many,))
    frame = table(claims=made, commit=CLEAN).frame
    frame.loc[frame["part"] == "b", "claims"] = ""
    found = {setting: entry(many, setting, Table(frame)) for setting in many.settings}
    assert found["many-a"]["registered"] and not found["many-b"]["registered"]


def test_identities_and_controls_do_not_count_among_the_corrected():
    identity = replace(wide, kind="identity")
    one = judged(replace(STUDY, claims=(wide,)), table())
    both = judged(replace(STUDY, claims=(wide, identity)), table())
    assert both[0]["holm"] == one[0]["holm"] and math.isnan(both[1]["holm"])
