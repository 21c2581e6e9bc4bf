"""How lazy a training was, as a picture, and its place on the map of all knobs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tangents.lab.figures import PALETTE, panels
from tangents.laziness import Laziness, Measured

SHOWN = 10  # layers, those with the largest shares
WHOLE = {
    "nonlinear": "nonlinear share $R$",
    "turn": "turn of the kernel",
    "turn_centred": "turn of the centred one",
    "turn_hidden": "turn of hidden layers",
    "alignment_before": "alignment, before",
    "alignment_after": "alignment, after",
    "error_before": "error of kernel, before",
    "error_after": "error, after",
}
LAYERS = {
    "share_before": "share of the kernel's trace, before",
    "share_after": "the same, after",
    "turn": "turn of its part, 1 − CKA",
}


def picture(found: Laziness) -> Figure:
    """What was measured with its intervals, and below it layer by layer."""
    rows = found.largest(SHOWN)
    fig, axes = panels(1, 0.28 * (len(WHOLE) + 3 * len(rows)) / 2 + 0.6, 2)
    known = {name: words for name, words in WHOLE.items() if name in found}
    _draw(axes[0], [found[name] for name in known], np.arange(len(known)), None)
    axes[0].set_yticks(range(len(known)), known.values())
    axes[0].set_ylim(len(known) - 0.5, -0.5)
    for place, (name, words) in enumerate(LAYERS.items()):
        at = np.arange(len(rows)) + 0.27 * (place - 1)
        _draw(axes[1], [row[name] for row in rows.values()], at, words, place, 0.25)
    axes[1].set_yticks(range(len(rows)), [name or "the module itself" for name in rows])
    axes[1].set_ylim(len(rows) - 0.5, -0.5)
    axes[1].set_xlim(0)
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", fontsize=9)
    return fig


def _draw(ax, measured: list[Measured], at, words, place=0, height=0.6) -> None:
    """Bars with intervals; none for nan."""
    value, low, high = np.array(measured, dtype=float).reshape(-1, 3).T
    ax.barh(at, value, height, label=words, color=PALETTE[place], alpha=0.6)
    ax.hlines(at, low, high, color="0.2", lw=1.5)


class Place(NamedTuple):
    """Coordinates on the map: its horizontal axes, and the gain of the last kernel over the first
    in points, where labels are classes; nan without."""

    nonlinear: float
    turn: float
    turn_centred: float
    kernel_change: float
    distance: float
    turn_hidden: float
    gain: float


def place(found: Laziness) -> Place:
    """Where a network of the reader's own stands among those of the map.

    The gain there is that of the network over the machine of its first kernel, which its last one
    has too (chapter on the map, where the two are compared); here that of regression with the last
    kernel, by folds of the batch.
    """
    x = [found[k].value if k in found else math.nan for k in Place._fields[:-1]]
    errors = [found[f"error_{k}"].value if f"error_{k}" in found else math.nan
              for k in ("before", "after")]  # fmt: skip
    return Place(*x, 100 * (errors[0] - errors[1]))
