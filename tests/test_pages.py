"""What pages show: claims as tables, and commands that the command line accepts."""

import math
import re
import shlex
from pathlib import Path

import pytest

from tangents import cli, pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
SHOWN = re.compile(r"^(?:\S*/)?python -m tangents (.+)$", re.MULTILINE)
COMMANDS = sorted({line for page in PAGES for line in SHOWN.findall(page.read_text("utf-8"))})


@pytest.mark.parametrize(
    "accepted, shown",
    [((-0.6, -0.4), "accepted: −0.6 to −0.4"), ((0, math.inf), "accepted: ≥ 0<"),
     ((-math.inf, 0.05), "accepted: ≤ 0.05"), ((math.nan, math.nan), "")],
)  # fmt: skip
def test_a_claim_is_shown_with_what_its_check_accepts(accepted, shown):
    names = dict(id="a-1", source="here", statement="It is $x$.", expected="2", note="")
    names |= dict(
        estimate=2.0, low=1.5, high=math.nan, n_runs=3, preset="book", verdict="supported"
    )
    table = pages.claims_table([names | {"accepted": accepted}])
    assert shown in table and ("accepted" in table) == bool(shown)


def test_commands_are_shown():
    assert COMMANDS


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--help" not in line])
def test_shown_command_is_accepted(line):
    cli.parse(shlex.split(line, comments=True))
