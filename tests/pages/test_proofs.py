"""From claims to their evidence: what the links of the ledger are made of."""

import json

import pandas as pd
import pytest
from docutils import nodes

from tangents import studies
from tangents.lab.store import published
from tangents.pages import proofs, tables
from tests.pages.test_chapter import published as publish_toy
from tests.pages.test_tables import ENTRY
from tests.toy import STUDY


@pytest.mark.parametrize("name", studies.names())
def test_every_claim_has_its_place_in_the_code(name):
    found = dict(proofs.anchors(proofs.source(name, "claims").read_text("utf-8")))
    assert {claim.name for claim in studies.find(name).claims} <= found.keys()


def test_anchors_stand_where_the_code_begins():
    code = 'x = 1\n@claim("a-1", V)\n@other\ndef f():\n    pass\nclass G:\n    pass\n'
    assert [*proofs.anchors(code)] == [("f", 2), ("a-1", 2), ("G", 6)]


def page(*parts):
    """A page of figures, by name, and of tables of claims, by id."""
    tree = nodes.section()
    for part in parts:
        if part.startswith("fig-"):
            tree += nodes.figure(ids=[part])
        else:
            html = tables.claims_table([ENTRY | {"id": part, "claim": part}])
            tree += nodes.raw("", html, format="html")
    return tree


def test_a_claim_belongs_to_the_figure_above_it():
    found = proofs.figures(page("a", "fig-one", "b", "c", "fig-x-forest", "d"))
    assert found == {"a": None, "b": "fig-one", "c": "fig-one", "": "fig-x-forest", "d": "fig-one"}


def test_ids_of_a_chapter_become_links_where_the_ledger_knows_them():
    known = {"toy-a-1", "toy-a-2-paper"}
    for name, place in {"a-1": "toy-a-1", "a-2": "toy-a-2-paper", "a-3": None}.items():
        found = proofs._linked(page(name)[0], "toy", "claims.html", known)
        link = f'<a href="claims.html#{place}" title="in the ledger">{name}</a></small>'
        assert (link in found) == (place is not None) and found.count(f'id="{name}"') == 1


def test_rows_of_claims_are_written_once(toys, tmp_path, monkeypatch):
    publish_toy(toys)
    folder, cache = tmp_path / "html", tmp_path / "cache"
    monkeypatch.setattr(proofs, "source", lambda *_: tmp_path / "results" / "toy-book.sha256")
    found = proofs.written(STUDY, "book", folder, cache)
    assert [*found] == ["toy-decays"] and found["toy-decays"]["rows"] == 60
    assert "run toy --preset book" in found["toy-decays"]["command"]
    frame = published("toy", "book")[0]
    known = frame[frame["metric"] == "loss"]["value"]
    assert [*pd.read_csv(folder / "toy-decays.csv")["value"]] == [*known]
    (cache / "toy-decays.csv").write_text("kept")
    proofs.written(STUDY, "book", folder, cache)
    assert (folder / "toy-decays.csv").read_text() == "kept"
    index = json.loads((cache / "index.json").read_text())
    (cache / "index.json").write_text(json.dumps(index | {"key": "of old"}))
    proofs.written(STUDY, "book", folder, cache)
    assert (folder / "toy-decays.csv").read_text() != "kept"


def test_all_studies_have_the_files_that_are_shown():
    for name in studies.names():
        assert all(proofs.source(name, file).exists() for file in proofs.FILES)
