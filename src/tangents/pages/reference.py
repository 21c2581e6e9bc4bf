"""Sphinx extension: docstrings as this package writes them, in plain English, for autodoc.

A docstring is no markup: |x| is a norm, a* a border, x_ a name. *Emphasis* stays; what stands in
backticks is code, and links to what it names where that is on the page.
"""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(``?[^`]+``?|(?<![\w*])\*\w[\w -]*\*(?![\w*]))")
MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")


def plain(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText that shows them as they are; indented ones are
    code."""
    found: list[str] = []
    code = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not code:
            found += ["::", ""]
        code = indented or (code and not line.strip())
        found.append(line if code else _escaped(line))
    return found


def _escaped(line: str) -> str:
    parts = CODE.split(line)  # plain, code, plain, ..., plain
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [rf"{part}\ " for part in parts[1::2]]  # it ends there, whatever follows
    return "".join(parts)


def _process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def setup(app: Any) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.viewcode")
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
