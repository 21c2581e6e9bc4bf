"""The commands that the README and the pages show are accepted by the command line."""

import re
import shlex
from pathlib import Path

import pytest

from tangents import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
SHOWN = re.compile(r"^(?:\S*/)?python -m tangents (.+)$", re.MULTILINE)
COMMANDS = sorted({line for page in PAGES for line in SHOWN.findall(page.read_text("utf-8"))})


def test_commands_are_shown():
    assert COMMANDS


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--help" not in line])
def test_shown_command_is_accepted(line):
    cli.parse(shlex.split(line, comments=True))
