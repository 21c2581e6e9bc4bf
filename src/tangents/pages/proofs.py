"""Sphinx extension: from a claim in the ledger to what it rests on, and from a chapter back.

The ledger's claims get links to the chapter and its figure, to the code that judged them, to the
rows that this code was given, as CSV, and the command that computes them anew. The links are made
when pages are, so that a notebook holds nothing but what it found.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util import logging

from tangents import studies
from tangents.lab import evidence
from tangents.lab.store import published, table_path
from tangents.lab.study import Study
from tangents.pages import rows
from tangents.pages.tables import anchor, plain_id

log = logging.getLogger(__name__)
LEDGER = "book/claims"
TABLE = 'class="dataframe ledger"'
ROW = re.compile(r'<tr id="([^"]+)"')
PROOF = re.compile(r'(<div class="proof"((?: data-\w+="[^"]*")+)>)</div>')
FILES = ("config", "run", "claims", "figures")


def resolve(app: Any, doctree: nodes.document, docname: str) -> None:
    """Puts the links into a page."""
    if app.builder.name != "html" or LEDGER not in app.env.found_docs:
        return
    if docname == LEDGER:
        proofs = Proofs(app)
        for table in _tables(doctree):
            _replace(table, PROOF.sub(proofs.links, table.astext()))
    elif (study := docname.rpartition("/")[2]) in studies.names():
        to = app.builder.get_relative_uri(docname, LEDGER)
        known = {i for table in _tables(app.env.get_doctree(LEDGER)) for i in _ids(table)}
        for table in _tables(doctree):
            _replace(table, _linked(table, study, to, known))
        _link_forest(doctree, f"{to}?study={study}")


def _tables(doctree: nodes.document) -> Iterator[nodes.raw]:
    return (raw for raw in [*doctree.findall(nodes.raw)] if TABLE in raw.astext())


def _ids(table: nodes.raw) -> list[str]:
    return ROW.findall(table.astext())


def _replace(table: nodes.raw, html: str) -> None:
    table.replace_self(nodes.raw("", html, format="html"))


# ---- from a chapter to the ledger


def _linked(table: nodes.raw, study: str, to: str, known: set[str]) -> str:
    """The table, with each id that the ledger knows as a link to its row there."""
    html = table.astext()
    for name in _ids(table):
        row = f'<tr id="{name}"'
        before, after = html[: html.index(row)], html[html.index(row) + len(row) :]
        places = (anchor(study, name, preset) for preset in ("book", "paper"))
        if place := next((p for p in places if p in known), ""):
            link = f'<a href="{to}#{place}" title="in the ledger">{name}</a>'
            after = after.replace(f"{name}</small>", f"{link}</small>", 1)
        html = f'{before}<tr id="{plain_id(name)}"{after}'
    return html


def _link_forest(doctree: nodes.document, to: str) -> None:
    for figure in doctree.findall(nodes.figure):
        if any(name.endswith("-forest") for name in figure["ids"]):
            for caption in figure.findall(nodes.caption):
                text = "Each with its evidence in the ledger."
                caption += [nodes.Text(" "), nodes.reference("", text, refuri=to, internal=True)]


# ---- from the ledger to the evidence


class Proofs:
    """The links of the ledger's claims."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.figures: dict[str, dict[str, str | None]] = {}  # by study, then by id
        self.found: dict[tuple[str, str], dict[str, dict]] = {}  # by study and preset

    def links(self, match: re.Match) -> str:
        """What stands in a claim: its links, as far as there is anything to link to."""
        about = dict(re.findall(r'data-(\w+)="([^"]*)"', match[2]))
        study, preset, claim = about["study"], about["preset"], about["claim"]
        if (study, preset) not in self.found:
            folder = Path(self.app.outdir, "_rows", f"{study}-{preset}")
            cache = Path(self.app.outdir).parent / "rows" / folder.name
            self.found[study, preset] = written(studies.find(study), preset, folder, cache)
        parts = [*self._chapter(study, about["id"]), self._code(study, claim)]
        if known := self.found[study, preset].get(claim):
            file = self._uri(f"_rows/{study}-{preset}/{claim}.csv")
            parts.append(f'<a href="{file}" download>{known["rows"]} rows (CSV)</a>')
            again = f"<summary>compute again</summary> <code>{escape(known['command'])}</code>"
            parts.append(f"<details>{again}</details>")
        return f"{match[1]}{' · '.join(parts)}</div>"

    def _uri(self, path: str) -> str:
        return "../" * LEDGER.count("/") + path

    def _chapter(self, study: str, name: str) -> Iterator[str]:
        page = f"{LEDGER.rpartition('/')[0]}/{study}"
        if page not in self.app.env.found_docs:
            return
        if study not in self.figures:
            self.figures[study] = figures(self.app.env.get_doctree(page))
        to = self.app.builder.get_relative_uri(LEDGER, page)
        shown = self.figures[study]
        yield f'<a href="{to}{f"#{plain_id(name)}" if name in shown else ""}">chapter</a>'
        if figure := shown.get(name) or shown.get(""):
            numbers = self.app.env.toc_fignumbers.get(page, {}).get("figure", {})
            number = ".".join(map(str, numbers.get(figure, ())))
            yield f'<a href="{to}#{figure}">figure {number}</a>'

    def _code(self, study: str, claim: str) -> str:
        if claim not in dict(anchors(source(study, "claims").read_text("utf-8"))):
            log.warning("the ledger shows a claim that %s no longer makes: %s; execute it anew",
                        study, claim)  # fmt: skip
        return f'<a href="{self._uri(source_page(study, "claims"))}.html#{claim}">code</a>'


def figures(doctree: nodes.document) -> dict[str, str | None]:
    """The figure that each claim of a chapter follows; under "" the one of all claims."""
    found: dict[str, str | None] = {}
    last = None
    for node in doctree.findall(lambda n: isinstance(n, nodes.figure | nodes.raw)):
        if isinstance(node, nodes.figure) and node["ids"]:
            name = node["ids"][0]
            if name.endswith("-forest"):
                found[""] = name
            else:
                last = name
        elif isinstance(node, nodes.raw) and TABLE in node.astext():
            found |= dict.fromkeys(_ids(node), last)
    return found


def written(study: Study, preset: str, folder: Path, cache: Path) -> dict[str, dict]:
    """Writes the rows of each claim, as CSV; how many they are, and what computes them anew.

    What is in `cache` is taken from there while tables and code are the same.
    """
    index, key = cache / "index.json", _key(study, preset)
    if not index.exists() or json.loads(index.read_text())["key"] != key:
        cache.mkdir(parents=True, exist_ok=True)
        frame, arrays = published(study.name, preset)
        table, claims = rows.Watched(frame, arrays), {}
        for claim in study.claims:
            found = rows.behind(study, claim.name, table)
            if len(found):
                found.to_csv(cache / f"{claim.name}.csv", index=False, lineterminator="\n")
                command = rows.command(study, preset, frame, found["run_id"])
                claims[claim.name] = {"rows": len(found), "command": command}
        index.write_text(json.dumps({"key": key, "claims": claims}))
    claims = json.loads(index.read_text())["claims"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in claims:
        (folder / f"{name}.csv").write_bytes((cache / f"{name}.csv").read_bytes())
    return claims


def _key(study: Study, preset: str) -> str:
    """What the rows of claims depend on."""
    table = table_path(study.name, preset).with_suffix(".sha256")
    files = [table, Path(evidence.__file__), Path(rows.__file__), source(study.name, "claims")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


# ---- the code


def source(study: str, file: str) -> Path:
    return Path(import_module(studies.path(study)).__file__).with_name(f"{file}.py")


def source_page(study: str, file: str) -> str:
    return f"_modules/tangents/studies/{study}/{file}"


def pages(app: Any) -> Iterator[tuple[str, dict[str, str], str]]:
    """The code of each study that has a chapter, an anchor at each function and claim."""
    if app.builder.name != "html" or LEDGER not in app.env.found_docs:
        return
    for study in studies.names():
        for file in FILES if f"book/{study}" in app.env.found_docs else ():
            code = source(study, file).read_text("utf-8")
            lines = app.builder.highlighter.highlight_block(code, "python").splitlines()
            for name, line in anchors(code):
                lines[line - 1] = f'<span id="{escape(name)}"></span>{lines[line - 1]}'
            title = f"tangents.studies.{study}.{file}"
            body = f"<h1>Source code of {title}</h1>\n" + "\n".join(lines)
            yield source_page(study, file), {"title": title, "body": body}, "page.html"


def anchors(code: str) -> Iterator[tuple[str, int]]:
    """Names of functions and classes of a module, and of claims, with the lines they start at."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield node.name, line
            for made in node.decorator_list:
                match made:
                    case ast.Call(func=ast.Name(id="claim"), args=[ast.Constant(value=name), *_]):
                        yield name, line


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
