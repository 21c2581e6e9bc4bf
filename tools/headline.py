"""Draws the book's headline figure from the published results.

    python tools/headline.py

White behind, not transparent: the README shows it on pages of any colour.
"""

from pathlib import Path

from tangents.experiments import lazy_figures
from tangents.results import published

PATH = Path(__file__).resolve().parents[1] / "book" / "_static" / "headline.png"

if __name__ == "__main__":
    frame, _ = published("lazy", "book")
    figure = lazy_figures.headline(frame)
    figure.savefig(PATH, dpi=160, facecolor="white", metadata={"Software": None})
    print(PATH.relative_to(PATH.parents[2]))
