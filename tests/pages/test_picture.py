"""The picture of what was measured, and the place on the map."""

import math

import pytest

from tangents.laziness import OF_LAYERS, WORDS, Laziness, Measured
from tangents.pages.picture import SHOWN, picture, place


def some(layers: int = 3) -> Laziness:
    rows = {f"blocks.{i}": {name: Measured(0.1 + i / 50, 0.05, 0.3) for name in OF_LAYERS}
            for i in range(layers)}  # fmt: skip
    rows["blocks.0"]["turn"] = Measured(*[math.nan] * 3)
    return Laziness({name: Measured(0.2, 0.1, 0.3) for name in WORDS}, rows)


def test_bars_are_what_was_measured_with_intervals():
    found = some()
    whole, layers = picture(found).axes
    assert [bar.get_width() for bar in whole.patches] == [0.2] * 8
    assert [label.get_text() for label in layers.get_yticklabels()] == list(found.layers)
    widths = [bar.get_width() for bar in layers.patches]
    assert widths[:3] == [found.layers[k]["share_before"].value for k in found.layers]
    assert sum(map(math.isnan, widths)) == 1
    segments = [s for c in layers.collections for s in c.get_segments()]
    assert len(segments) == 9 and all(s[0, 0] == 0.05 and s[1, 0] == 0.3 for s in segments[:3])


def test_the_largest_layers_are_drawn_in_their_order():
    layers = picture(some(40)).axes[1]
    names = [label.get_text() for label in layers.get_yticklabels()]
    assert names == [f"blocks.{i}" for i in range(40 - SHOWN, 40)]


def test_the_place_on_the_map():
    found = some()
    found["error_before"] = Measured(0.25, 0.2, 0.3)
    found["turn"] = Measured(0.7, 0.6, 0.8)
    at = place(found)
    assert at.turn == 0.7 and at.gain == pytest.approx(5)
    del found["error_before"]
    assert math.isnan(place(found).gain)
