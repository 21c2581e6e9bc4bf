"""A chapter's notebook executed with a reader's own parameters, and its page as in the book."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tangents.lab.provenance import REPOSITORY
from tangents.lab.store import remove_dead
from tangents.lab.study import ConfigError, unknown

DAY = 24 * 3600.0  # seconds: an execution that began earlier, and left its folder, was killed
WORDS = {"true": True, "false": False, "null": None, "~": None}
KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a word (in quotation marks where it reads as something else)",
    list: "a list such as [1, 2]",
}
# What the builder reads, apart from the notebook; cited papers are listed in the bibliography.
SOURCES = ("_config.yml", "book/_static", "book/references.bib", "book/bibliography.md")
BUILD = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]


class ChapterError(Exception):
    """A notebook that could not be read, executed or made into a page (one line)."""


def find(name: str, book: Path) -> Path:
    """The notebook of that chapter. Raises ConfigError, naming those that exist."""
    known = {path.stem: path for path in sorted(book.glob("*.ipynb"))}
    if name not in known:
        raise unknown("chapter", name, known)
    return known[name]


def execute(notebook: Path, parameters: Mapping[str, str], output: Path) -> Path:
    """Executes the notebook in its own folder into `output`; returns the path of its HTML page.

    The page lies in a folder beside `output`, named after it; without jupyter-book there is none,
    and the path of `output` is returned. Raises ConfigError, before anything runs, for a wrong
    parameter or output, ChapterError where the notebook cannot be read, a cell fails (`output` then
    shows that cell, and the former page is gone) or the page cannot be made.
    """
    notebook, output = notebook.resolve(), output.resolve()
    pages = output.with_suffix("")
    _check_output(notebook, output)
    values = read_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(output.parent.glob(f".{output.stem}-*"), DAY)
    with TemporaryDirectory(prefix=f".{output.stem}-", dir=output.parent) as folder:
        executed = Path(folder, notebook.name)
        reason = _run(notebook, values, executed)
        if pages.exists():  # it shows another run; at once, and not file by file
            os.replace(pages, Path(folder, "former"))
        os.replace(executed, output)
        if reason:
            raise ChapterError(f"{notebook.stem} failed with {reason}; see {output}")
        if lacking := _lacking():
            print(f"tangents: the page is not made, as {lacking}", file=sys.stderr)
            return output
        os.replace(_build(output, notebook.stem, Path(folder)), pages)
    return _page(pages, notebook.stem)


# ---- before anything runs


def read_parameters(notebook: Path, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The parameters' values, each of the kind of the notebook's own.

    Raises ConfigError for a name or a kind of value that the notebook does not have, ChapterError
    where it has no parameters at all or is no notebook.
    """
    accepted = defaults(notebook)
    if parameters and not accepted:
        raise ChapterError(f"{notebook.stem} takes no parameters: no cell tagged so defines any")
    for name in parameters:
        if name not in accepted:
            raise unknown(f"parameter of {notebook.stem}", name, accepted)
    return {name: _value(name, text, accepted[name]) for name, text in parameters.items()}


def _value(name: str, text: str, default: Any) -> Any:
    try:
        value = parse(text)
    except ConfigError as error:
        raise ConfigError(f"parameter {name}: {error}") from None
    if default is None or _alike(value, default):
        return value
    kind = KINDS.get(type(default), f"a {type(default).__name__}")
    raise ConfigError(f"parameter {name}: expected {kind}, as is its default {default!r}, "
                      f"not {_cut(text)}")  # fmt: skip


def _alike(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default, and so have a list's entries."""
    if type(default) is list and type(value) is list and default:
        return all(any(_alike(entry, known) for known in default) for entry in value)
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _cut(text: str) -> str:
    """As it was given, but for the rest of what is long."""
    return repr(text) if len(text) < 80 else f"{text[:60]!r}..."


def defaults(notebook: Path) -> dict[str, Any]:
    """The notebook's parameters with their defaults; None for one that is no plain literal.

    Raises ChapterError where the file is no notebook, or its cell of parameters is no Python.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
        tree = ast.parse("".join(tagged[0]) if tagged else "")
    except SyntaxError as error:
        reason = f"its parameters cannot be read ({error.msg}, line {error.lineno})"
        raise ChapterError(f"{notebook}: {reason}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError):
        raise ChapterError(f"{notebook} is not a notebook") from None
    found = {}
    for line in tree.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if isinstance(target, ast.Name):
                found[target.id] = _literal(line.value)
    return found


def parse(text: str) -> Any:
    """A parameter's value: a number, a word, true, false or null, or a list of these in YAML.

    Numbers are what Python takes for one: 010 is ten, 1:30 a word. Raises ConfigError for all else.
    """
    import yaml

    try:
        events = list(yaml.parse(text, yaml.SafeLoader))[2:-2]
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"cannot read {_cut(text)} as YAML: {reason}") from None
    scalars = [event for event in events if isinstance(event, yaml.ScalarEvent)]
    is_list = bool(events) and isinstance(events[0], yaml.SequenceStartEvent)
    marked = any(getattr(event, "anchor", None) or getattr(event, "tag", None) for event in events)
    is_flat = len(events) == len(scalars) + 2 if is_list else len(events) == len(scalars) <= 1
    if marked or not is_flat or (text.strip() and not events):
        raise ConfigError(f"expected a number, a word, true or false, or a list, not {_cut(text)}")
    values = [event.value if event.style else _plain(event.value) for event in scalars]
    return values if is_list else values[0] if values else ""


def _plain(word: str) -> Any:
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return WORDS.get(word.lower(), word)


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError):
        return None


def _check_output(notebook: Path, output: Path) -> None:
    """Raises ConfigError where `output` or the folder beside it must not be replaced."""
    if output.suffix != ".ipynb" or output == notebook:
        raise ConfigError(f"output must be another .ipynb file than the chapter, not {output}")
    pages = output.with_suffix("")
    if pages.exists() and not _page(pages, notebook.stem).exists():
        raise ConfigError(f"output {output.name} would replace the folder {pages} by its page")


# ---- execution and page


def _run(notebook: Path, values: dict[str, Any], output: Path) -> str:
    """Executes the notebook into `output`; returns what its failing cell says, or nothing.

    Raises ChapterError where it could not be executed, or written.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # papermill takes braces in a path for parameters
    paths = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output))
    try:
        papermill.execute_notebook(
            *paths, values, kernel_name="python3", language="python", cwd=str(notebook.parent),
            progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
    except papermill.exceptions.PapermillExecutionError as error:
        return " ".join(f"{error.ename}: {error.evalue}".split()).rstrip(":")
    except Exception as error:  # no kernel, a dead one, a full disk: of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise ChapterError(f"{notebook.stem} failed with {reason}") from error
    return ""


def _lacking() -> str:
    """What is missing for a page, if anything."""
    if not all((REPOSITORY / source).exists() for source in SOURCES):
        return "the book's settings are missing: that takes a checkout"
    try:
        found = metadata.version("jupyter-book").startswith("1.")
    except metadata.PackageNotFoundError:
        found = False
    return "" if found else "jupyter-book 1 is missing (pip install -r requirements.txt)"


def _build(notebook: Path, name: str, folder: Path) -> Path:
    """The book of this one page, made in `folder` by the book's builder with the book's settings.

    Raises ChapterError with the first error that the builder reports.
    """
    failed = f"{notebook} is executed, but its page failed"
    contents = {"format": "jb-book", "root": f"book/{name}"}
    contents["chapters"] = [{"file": "book/bibliography"}]
    try:
        for source in SOURCES:
            copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copyfile
            (folder / source).parent.mkdir(exist_ok=True)
            copy(REPOSITORY / source, folder / source)
        shutil.copyfile(notebook, folder / "book" / f"{name}.ipynb")
        (folder / "_toc.yml").write_text(json.dumps(contents), encoding="utf-8")
    except OSError as error:  # of copytree with a reason for each file
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise ChapterError(f"{failed}: {first}") from error
    done = subprocess.run([*BUILD, str(folder)], cwd=folder, capture_output=True, encoding="utf-8",
                          errors="replace")  # fmt: skip
    pages = folder / "_build" / "html"
    if done.returncode or not _page(pages, name).exists():
        found = re.search(r"^[\w.]*(Error|Exception): .+", done.stderr, re.MULTILINE)
        reason = found[0] if found else "jupyter-book gives no reason"
        raise ChapterError(f"{failed}: {reason}")
    return pages


def _page(pages: Path, name: str) -> Path:
    return pages / "book" / f"{name}.html"
