"""A plane of points that a reader explores: which axis, which groups, each point with its words.

All is in the page, script and data, so that it works from a file, without a server or a network. By
keyboard: the arrows go from point to point.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from IPython.display import HTML

STYLE = """
.plane svg.chart {display: block; width: 100%; touch-action: manipulation}
.plane svg text {fill: currentColor; font-size: 12px}
.plane .grid {stroke: currentColor; opacity: .12} .plane .zero {stroke: currentColor; opacity: .6}
.plane path {stroke: currentColor; stroke-width: .4} .plane .faded {opacity: .12}
.plane .band {fill: currentColor; opacity: .08}
.plane .ring {fill: none; stroke: currentColor; stroke-width: 2}
.plane svg:focus-visible {outline: 2px solid currentColor}
.plane .choices {display: flex; flex-wrap: wrap; gap: .4rem .9rem; margin: .4rem 0}
.plane select {max-width: 100%; font: inherit}
.plane button {font: inherit; font-size: .85em; background: none; color: inherit; cursor: pointer;
  border: 1px solid currentColor; border-radius: .4rem; padding: .05rem .45rem}
.plane button[aria-pressed=false] {opacity: .4; text-decoration: line-through}
.plane button svg {width: 12px; height: 12px; vertical-align: -1px}
.plane output {display: block; min-height: 5.4em; font-size: .9em}
.plane code {overflow-wrap: anywhere}
@media print {.plane {display: none}}
"""


class Axis(NamedTuple):
    """A quantity that may stand on the horizontal axis, where it is positive if logarithmic."""

    label: str
    log: bool = False


class Spot(NamedTuple):
    """A point: its panel and group by name, a value for each axis, and what is told of it."""

    panel: str
    group: str
    x: Sequence[float]
    y: float
    text: str
    command: str
    marks: Sequence[str] = ()  # the sets, to be shown or not, that it is in


def plane(
    spots: Iterable[Spot],
    axes: Sequence[Axis],
    y: str,
    colours: Mapping[str, Any],
    marks: Sequence[str] = (),
    alt: str = "",
    name: str = "plane",
    words: Sequence[str] = ("data", "horizontal axis", "range of"),
) -> HTML:
    """The points of one panel at a time, which the reader picks, the groups in these colours.

    `name` is the element's id, one of its own in the page; `words` are the labels of the boxes.
    """
    spots = list(spots)
    panels, groups = list(dict.fromkeys(spot.panel for spot in spots)), list(colours)
    points = [
        dict(panel=panels.index(s.panel), group=groups.index(s.group), y=_short(s.y),
             x=[_short(v) for v in s.x], text=s.text, command=s.command, marks=[*s.marks])
        for s in spots
    ]  # fmt: skip
    data = dict(
        x=[axis._asdict() for axis in axes], y=y, points=points,
        groups=[dict(name=g, colour=colours[g]) for g in groups],
    )  # fmt: skip
    boxes = (panels, [axis.label for axis in axes], ["nothing", *marks])
    chosen = "".join(
        _box(word, entries, numbered=k < 2)
        for k, (word, entries) in enumerate(zip(words, boxes, strict=True))
    )
    buttons = "".join(
        f'<button type="button" aria-pressed="true"><svg viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path fill="{colours[g]}"/></svg> {escape(g)}</button>'
        for g in groups
    )
    script = files(__package__).joinpath("plane.js").read_text()
    return HTML(
        f'<style>{STYLE}</style><div class="plane" id="{name}"><div class="choices">{chosen}</div>'
        f'<svg class="chart" tabindex="0" role="application" aria-label="{escape(alt)}"></svg>'
        f'<div class="choices" role="group" aria-label="shown">{buttons}</div>'
        '<output aria-live="polite">Point at a network, or go from one to the next by the arrow '
        "keys.</output>"
        f'<script type="application/json">{_json(data)}</script></div>'
        f"<script>({script.strip()})(document.getElementById({json.dumps(name)}))</script>"
    )


def _box(word: str, entries: Sequence[str], numbered: bool) -> str:
    """A box whose values are numbers of entries, or the entries themselves, none for the first."""
    options = "".join(
        f'<option value="{k if numbered else escape(entry) * bool(k)}">{escape(entry)}</option>'
        for k, entry in enumerate(entries)
    )
    return f"<label>{escape(word)} <select>{options}</select></label>"


def _json(data: Any) -> str:
    """JSON that cannot end the element it stands in. Raises ValueError for a value not finite."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _short(value: float) -> float:
    return float(f"{value:.4g}")
