"""Draws the book's headline figure from the published results.

    python tools/headline.py

White behind, not transparent: the README shows it on pages of any colour.
"""

from pathlib import Path

from tangents.lab.evidence import Table
from tangents.lab.store import published
from tangents.studies.lazy.figures import headline

PATH = Path(__file__).resolve().parents[1] / "book" / "_static" / "headline.png"

if __name__ == "__main__":
    figure = headline(Table(*published("lazy", "book")))
    figure.savefig(PATH, dpi=160, facecolor="white", metadata={"Software": None})
    print(PATH.relative_to(PATH.parents[2]))
