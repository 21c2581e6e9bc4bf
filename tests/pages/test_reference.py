"""The reference: all of the engine is on its page, and docstrings are shown as they stand."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from docutils.core import publish_doctree

import tangents
from tangents.pages.reference import plain

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "api.md").read_text("utf-8")
ENGINE = sorted(path.stem for path in (ROOT / "src" / "tangents").glob("[!_]*.py"))


@pytest.mark.parametrize(
    ("line", "shown"),
    [("|K - K0|_F / |K0|_F, at a*", "|K - K0|_F / |K0|_F, at a*"),
     ("w_0 and x_ by J J'^T", "w_0 and x_ by J J'^T"),
     (r"\theta * 2 ** n, s*a*b", r"\theta * 2 ** n, s*a*b"),
     ("every `w`[l] of `ws`s", "every w[l] of wss"),
     ("a *signal* df/dz, *not* |z|", "a signal df/dz, not |z|"),
     ("``x[0]`` | y", "x[0] | y")],
)  # fmt: skip
def test_a_docstring_is_shown_as_it_stands(line, shown):
    assert publish_doctree("\n".join(plain([line]))).astext() == shown


def test_indented_lines_are_code():
    lines = ["Use:", "", "    y = f(*x)", "    z = |y|", "", "So."]
    tree = publish_doctree("\n".join(plain(lines)))
    assert "y = f(*x)\nz = |y|" in [node.astext() for node in tree]


def test_the_whole_engine_is_on_the_page():
    assert sorted(re.findall(r"automodule:: tangents\.(\w+)", PAGE)) == ENGINE
    assert all(re.search(rf"tangents\.\w+\.{name}`", PAGE) for name in tangents.__all__)


@pytest.mark.parametrize("name", ENGINE)
def test_every_public_name_says_what_it_is(name):
    module = import_module(f"tangents.{name}")
    own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    public = {k: v for k, v in own.items() if callable(v) and not k.startswith("_")}
    assert public
    for k, thing in public.items():
        text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert text and not text.startswith(f"{k}("), k  # what dataclasses write of themselves
