"""A chapter's notebook executed with a reader's own parameters, and its page."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tangents.declaration import ConfigError, unknown


class ChapterError(Exception):
    """A notebook that could not be read or executed (one line)."""


def find(name: str, book: Path) -> Path:
    """The notebook of that chapter. Raises ConfigError, naming those that exist."""
    path = book / f"{name}.ipynb"
    if not path.is_file():
        raise unknown("chapter", name, sorted(each.stem for each in book.glob("*.ipynb")))
    return path


def parse(text: str) -> Any:
    """A parameter's value, read as YAML; 1e-3, a text in YAML 1.1, is a number here."""
    import yaml
    from papermill.iorw import NoDatesSafeLoader

    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text):
        return float(text)
    try:
        return yaml.load(text, Loader=NoDatesSafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read {text!r} as YAML: {' '.join(str(error).split())}") from None


def execute(notebook: Path, parameters: Mapping[str, str], output: Path) -> Path:
    """Executes the notebook in its own folder into `output`; returns the path of its HTML page.

    Raises ConfigError for a parameter that the notebook does not declare (papermill only warns),
    ChapterError where a cell fails; `output` then shows that cell.
    """
    import papermill

    accepted = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in accepted:
            raise unknown(f"parameter of {notebook.stem}", name, accepted)
    values = {name: parse(text) for name, text in parameters.items()}
    if output.suffix != ".ipynb" or output.resolve() == notebook.resolve():
        raise ConfigError(f"output must be another .ipynb file than the chapter, not {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            str(notebook), str(output), values, kernel_name="python3", cwd=str(notebook.parent),
            progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
    except papermill.exceptions.PapermillExecutionError as error:
        cause = " ".join(f"{error.ename}: {error.evalue}".split())
        raise ChapterError(f"{notebook.stem} failed with {cause}; see {output}") from error
    return _page(output)


def _page(notebook: Path) -> Path:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page
