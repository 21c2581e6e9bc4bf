"""What pages show: claims as tables, and commands that the command line accepts."""

import math
import re
import shlex
from pathlib import Path

import pytest

from tangents.__main__ import parse
from tangents.pages import tables

ENTRY = dict(
    id="a-1", claim="a-1", source="here", statement="It is $x$.", setting="", expected="2",
    note="", estimate=2.0, low=1.5, high=math.nan, seeds=3, n_runs=3, preset="book",
    verdict="supported", accepted=(0.0, 1.0), kind="finding", registered=False, holm=0.01,
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
SHOWN = re.compile(r"^(?:\S*/)?python -m tangents (.+)$", re.MULTILINE)
COMMANDS = sorted({line for page in PAGES for line in SHOWN.findall(page.read_text("utf-8"))})


@pytest.mark.parametrize(
    "accepted, shown",
    [((-0.6, -0.4), "accepted: −0.6 to −0.4"), ((0, math.inf), "accepted: ≥ 0<"),
     ((-math.inf, 0.05), "accepted: ≤ 0.05"), ((1, 1), "accepted: 1<")],
)  # fmt: skip
def test_a_claim_is_shown_with_what_its_check_accepts(accepted, shown):
    assert shown in tables.claims_table([ENTRY | {"accepted": accepted}])


def test_a_statement_holds_formulas_and_emphasis():
    found = tables.claims_table([ENTRY | {"statement": "*Often*: $a * b * c$ & 2 * 3 * 4"}])
    formula = r'<span class="math">\(a * b * c\)</span>'
    assert f"<em>Often</em>: {formula} &amp; 2 * 3 * 4" in found


def test_settings_of_one_claim_stand_below_its_statement():
    one = ENTRY | {"id": "a-1x", "setting": "wide"}
    other = ENTRY | {"id": "a-1y", "setting": "narrow", "verdict": "inconclusive"}
    found = tables.claims_table([one, other, ENTRY | {"claim": "b", "id": "b"}])
    assert found.count("It is") == 2 and found.count("<tr") == 1 + 3 + 1
    assert 'id="a-1x"' in found and 'id="a-1y"' in found
    heads = found.count("<th>")
    assert f'colspan="{heads}"' in found


@pytest.mark.parametrize(
    "change, shown",
    [({"verdict": "outside"}, "open outside its range"), ({"kind": "identity"}, ">identity<"),
     ({"registered": True}, ">registered<"), ({"holm": 0.2}, ">not after Holm<")],
)  # fmt: skip
def test_marks_beside_a_verdict(change, shown):
    assert shown in tables.claims_table([ENTRY | change])
    assert shown not in tables.claims_table([ENTRY])


def test_rows_of_the_ledger_tell_what_they_are_and_of_which_preset():
    one = ENTRY | {"study": "toy", "paper": "nobody2020"}
    found = tables.claims_table([one, one | {"preset": "paper"}])
    assert 'id="toy-a-1" data-study="toy" data-paper="nobody2020" data-verdict="supported"' in found
    assert 'id="toy-a-1-paper"' in found and ">preset paper<" in found
    assert found.count('<div class="proof" data-study="toy" data-preset=') == 2
    assert tables.claims_table([one, one | {"study": "other"}]).count("It is") == 2
    assert "proof" not in tables.claims_table([ENTRY])


def test_commands_are_shown():
    assert COMMANDS


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--help" not in line])
def test_shown_command_is_accepted(line):
    parse(shlex.split(line.partition(" > ")[0], comments=True))
