"""A plane of points: what stands in the page, and that it cannot break out of it."""

import json
import re

import pytest

from tangents.pages.plane import Axis, Spot, plane

SPOTS = [Spot("one", "a", [0.123456, 2.0], 1.5, "a <b>", "run --only part a", ["theirs"]),
         Spot("two", "b", [0.5, 0.0], -1.0, "</script>", "run")]  # fmt: skip
AXES = [Axis("first", log=True), Axis("second")]
COLOURS = {"a": "#111111", "b": "#222222"}


def shown(spots=SPOTS):
    return plane(spots, AXES, "gain", COLOURS, ["theirs"], "a <plane>", "here").data


def test_all_points_are_in_the_page():
    page = shown()
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    data = json.loads(text)
    assert [p["x"] for p in data["points"]] == [[0.1235, 2.0], [0.5, 0.0]]
    assert [(p["panel"], p["group"], p["y"]) for p in data["points"]] == [(0, 0, 1.5), (1, 1, -1)]
    assert data["points"][0]["marks"] == ["theirs"] and data["points"][1]["text"] == "</script>"
    assert data["x"] == [dict(label="first", log=True), dict(label="second", log=False)]


def test_boxes_and_buttons_for_what_can_be_chosen():
    page = shown()
    assert re.findall(r'<option value="(\w*)">(\w+)<', page) == [
        ("0", "one"), ("1", "two"), ("0", "first"), ("1", "second"), ("", "nothing"),
        ("theirs", "theirs"),
    ]  # fmt: skip
    assert page.count("<button") == 2 and 'aria-label="a &lt;plane&gt;"' in page
    assert page.endswith('(document.getElementById("here"))</script>')
    assert page.count("</script>") == 2, "no text of a point ends the script"


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError):
        shown([SPOTS[0]._replace(y=float("nan"))])
