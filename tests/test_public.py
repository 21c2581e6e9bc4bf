"""What stands around the code in public: one version, one address, and commands that exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import tangents

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
MAKE = (ROOT / "Makefile").read_text("utf-8")
ADDRESS = r"https://[\w./-]+"
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


def test_one_version():
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    known = next(version for version in changes if version != "Unreleased")
    assert known == tangents.__version__ == PROJECT["version"] == CITATION["version"]


def test_the_citation_has_what_one_needs():
    needed = {"cff-version", "title", "authors", "version", "license", "message", "url"}
    assert needed <= CITATION.keys() and CITATION["license"] == PROJECT["license"]


def test_one_address():
    known = {PROJECT["urls"]["Repository"], CITATION["url"]}
    known |= {CONFIG["repository"]["url"]} - {""}
    for page in [*(ROOT / "book").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]:
        for line in re.findall(r"git clone [^\n]*", page.read_text("utf-8")):
            known |= {address.removesuffix(".git") for address in re.findall(ADDRESS, line)}
    assert len(known) == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_exists(path):
    text = path.read_text("utf-8")
    assert yaml.safe_load(text)["name"]
    for target in re.findall(r"\bmake (\w+)", text):
        assert re.search(rf"^{target}:", MAKE, re.MULTILINE), target
    for command in re.findall(r"python -m tangents (\w+)", text):
        from tangents.__main__ import COMMANDS

        assert command in COMMANDS
    for action in re.findall(r"uses: \./(\S+)", text):
        assert (ROOT / action / "action.yml").is_file()


def test_drift_audits_studies_that_exist():
    from tangents import studies

    drift = yaml.safe_load((ROOT / ".github/workflows/drift.yml").read_text("utf-8"))
    assert {*drift["jobs"]["audit"]["strategy"]["matrix"]["study"]} <= {*studies.names()}


def test_without_a_browser_there_is_no_pdf_but_a_line(tmp_path):
    env = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, ROOT / "tools" / "pdf.py", tmp_path / "book.pdf"]
    found = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert found.returncode == 1 and found.stderr.startswith("pdf: Chromium or Chrome is needed")
    assert len(found.stderr.splitlines()) == 1 and not any(tmp_path.iterdir())
