"""A chapter replayed: what is refused before anything runs, its execution, and its page."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from tangents.__main__ import main
from tangents.lab.study import ConfigError
from tangents.pages import replay
from tangents.pages.replay import ChapterError

PARAMETERS = """
alpha = 0.1  # such as "alpha=1"
width: int = 32
seeds = [0]
name = "book"
small = True
other = 2 * alpha
"""
TEXT = "# Small\n\n{cite:t}`geiger2019` take $\\alpha^2$ and\n\n$$E = mc^2.$$"
RUNS = "print('alpha is', alpha, seeds)\nassert alpha < 5"


@pytest.fixture
def notebook(tmp_path):
    """A chapter with a formula, a citation and a cell that fails for a large alpha."""
    cells = [
        nbformat.v4.new_markdown_cell(TEXT, id="a"),
        nbformat.v4.new_code_cell(PARAMETERS, id="b", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(RUNS, id="c"),
    ]
    path = tmp_path / "book" / "small.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def call(notebook, capfd):
    """Replays the chapter from the command line; returns status, output and complaint."""

    def called(*words):
        words = ["chapter", "small", "--book", notebook.parent, *words]
        return main([str(word) for word in words]), *capfd.readouterr()

    return called


@pytest.fixture
def executed(monkeypatch):
    """Replaces the execution by a copy: for what comes after it."""
    monkeypatch.setattr(replay, "_run", lambda path, _, output: shutil.copy(path, output) and "")


# ---- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1), ("-3", -3), ("010", 10), ("0.5", 0.5), ("1e-3", 1e-3), ("-1e3", -1e3)],
        *[("true", True), ("False", False), ("null", None), ("no", "no"), ("1:30", "1:30")],
        *[("mnist", "mnist"), ("'1'", "1"), ("2020-01-01", "2020-01-01"), ("", "")],
        *[("[1, 2]", [1, 2]), ("[010, 1:30, '2']", [10, "1:30", "2"]), ("[]", [])],
    ],
)
def test_values_are_yaml_with_pythons_numbers(text, value):
    found = replay.parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["{a: 1}", "a: 1", "[{a: 1}]", "[[1]]", "&a 1", "*a", "!!int '1'",
                                  "1\n---\n2", "[1", "@", "# a"])  # fmt: skip
def test_values_that_are_not_flat_are_refused(text):
    with pytest.raises(ConfigError) as error:
        replay.parse(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


# ---- refused before anything runs


def test_values_have_the_kind_of_the_default(notebook):
    given = {"alpha": "2", "width": "64", "seeds": "[]", "small": "false", "other": "x"}
    values = {"alpha": 2, "width": 64, "seeds": [], "small": False, "other": "x"}
    assert replay.read_parameters(notebook, given) == values


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-p alhpa 1", ["'alhpa'", "alpha, width, seeds", "did you mean 'alpha'"]),
        ("-p alpha", ["expected 2 arguments"]),
        ("-p alpha [1", ["alpha", "YAML"]),
        ("-p alpha abc", ["alpha", "a number", "'abc'"]),
        ("-p alpha true", ["alpha", "a number", "'true'"]),
        ("-p width abc", ["width", "an integer", "32", "'abc'"]),
        ("-p width 0.5", ["width", "an integer", "'0.5'"]),
        ("-p seeds 1", ["seeds", "a list", "'1'"]),
        ("-p seeds [1,abc]", ["seeds", "a list", "[0]", "'[1,abc]'"]),
        ("-p name 1", ["name", "a word", "'1'"]),
        ("-p small 1", ["small", "true or false", "'1'"]),
        ("--output book/small.html", [".ipynb"]),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(call, monkeypatch, words, expected):
    monkeypatch.setattr(replay, "_run", None)
    status, out, err = call(*words.split())
    assert status == 2 and not out and len(err.splitlines()) == 1
    assert all(word in err for word in expected)


def test_neither_the_chapter_nor_a_folder_is_overwritten(call, notebook, tmp_path):
    status, _, err = call("--output", notebook)
    assert status == 2 and "another" in err
    (tmp_path / "data").mkdir()
    status, _, err = call("--output", tmp_path / "data.ipynb")
    assert status == 2 and f"{tmp_path / 'data'} " in err and (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}',
                                  "[" * 100_000])  # fmt: skip
def test_what_is_no_notebook_is_refused(call, notebook, text):
    notebook.write_text(text)
    assert call() == (1, "", f"tangents: {notebook} is not a notebook\n")


def test_parameters_need_a_cell_that_can_be_read(notebook):
    content = json.loads(notebook.read_text())
    content["cells"][1]["source"] = "alpha = ["
    notebook.write_text(json.dumps(content))
    with pytest.raises(ChapterError, match="cannot be read"):
        replay.read_parameters(notebook, {})
    del content["cells"][1]
    notebook.write_text(json.dumps(content))
    assert replay.read_parameters(notebook, {}) == {}
    with pytest.raises(ChapterError, match="takes no parameters"):
        replay.read_parameters(notebook, {"alpha": "1"})


# ---- execution and page


# The kernel's client leaves sockets and event loops to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chapter_is_executed_and_shown_as_in_the_book(call, notebook, tmp_path):
    source = notebook.read_bytes()
    output = tmp_path / "built" / "deep" / "mine.ipynb"
    status, out, err = call("--output", output, "-p", "alpha", "1e-3", "-p", "seeds", "[1, 2]")
    page = output.with_suffix("") / "book" / "small.html"
    assert (status, out, err) == (0, f"{page}\n", "")
    html = page.read_text(encoding="utf-8")
    assert "alpha is 0.001 [1, 2]" in html and "Geiger <em>et al.</em>" in html
    assert r"\(\alpha^2\)" in html and "E = mc^2" in html
    assert "$" not in html.split("<article")[1].split("</article>")[0] and "{cite" not in html
    loaded = re.findall(r'(?:\ssrc|<link [^>]*href)="([^"?]*)', html)
    assert any("mathjax" in path for path in loaded)
    assert all((page.parent / path).is_file() for path in loaded)
    assert notebook.read_bytes() == source
    status, out, err = call("--output", output, "-p", "alpha", "7")
    expected = f"tangents: small failed with AssertionError; see {output}"
    assert (status, out, err.splitlines()[-1]) == (1, "", expected)
    assert "AssertionError" in output.read_text() and list(output.parent.iterdir()) == [output]


def test_without_the_builder_there_is_no_page(call, executed, monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "_lacking", lambda: "jupyter-book 1 is missing")
    output = tmp_path / "built" / "small.ipynb"
    former = output.with_suffix("") / "book" / "small.html"
    former.parent.mkdir(parents=True)
    former.touch()
    status, out, err = call("--output", output)
    assert status == 0 and out == f"{output}\n"
    assert "jupyter-book" in err and len(err.splitlines()) == 1
    assert list(output.parent.iterdir()) == [output]


def test_what_killed_processes_left_is_removed_a_day_later(call, executed, monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "_lacking", lambda: "jupyter-book 1 is missing")
    old, new = tmp_path / ".small-old", tmp_path / ".small-new"
    for folder in (old, new):
        (folder / "book").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert call("--output", tmp_path / "small.ipynb")[0] == 0
    assert new.exists() and not old.exists()


def test_a_notebook_that_cannot_be_written_leaves_the_former_and_its_page(
    call, monkeypatch, tmp_path
):
    def full(path, _, output):
        output.write_text('{"cells": [')  # half of it
        raise ChapterError("small failed with OSError: No space left on device")

    monkeypatch.setattr(replay, "_run", full)
    output = tmp_path / "built" / "small.ipynb"
    former = output.with_suffix("") / "book" / "small.html"
    former.parent.mkdir(parents=True)
    former.write_text("page")
    output.write_text("notebook")
    status, out, err = call("--output", output)
    assert status == 1 and not out and "No space left" in err and err.count("\n") == 1
    assert output.read_text() == "notebook" and former.read_text() == "page"


def test_a_page_that_fails_is_reported_on_one_line(call, executed, monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "BUILD", [sys.executable, "-c", "raise ValueError('no ink')"])
    output = tmp_path / "small.ipynb"
    reason = "its page failed: ValueError: no ink"
    assert call("--output", output) == (1, "", f"tangents: {output} is executed, but {reason}\n")
    assert Path(output).exists() and not output.with_suffix("").exists()
