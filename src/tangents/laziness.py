"""What was measured of a training: numbers with intervals, as tables and as JSON."""

import math
from collections.abc import Mapping
from typing import NamedTuple

SHOWN = 12  # layers in a table, those with the largest shares
WORDS = {
    "nonlinear": "nonlinear share R of the change of the outputs",
    "turn": "turn of the tangent kernel, 1 - cosine",
    "turn_centred": "turn of the centred kernel, 1 - CKA",
    "kernel_change": "relative change of the kernel",
    "distance": "distance of the weights over their norm",
    "turn_hidden": "turn of the hidden layers' outputs, 1 - CKA",
    "alignment_before": "alignment of the kernel with the labels, before",
    "alignment_after": "the same, after",
    "error_before": "error of regression with the kernel before, by folds",
    "error_after": "error of regression with the kernel after, by folds",
}
OF_LAYERS = {
    "share_before": "share before",
    "share_after": "after",
    "turn": "turn of part",
    "turn_outputs": "of outputs",
}
SPACE = 14  # of a column


class Measured(NamedTuple):
    """A value, and its 95 % interval over examples, nan where it does not depend on these."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = "" if math.isnan(self.low) else f"  [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{ends}"


class Laziness(dict[str, Measured]):
    """What was measured, by the names in `WORDS`, and in `layers` of each layer, by those in
    `OF_LAYERS`; as text tables."""

    def __init__(
        self,
        whole: Mapping[str, Measured],
        layers: Mapping[str, Mapping[str, Measured]] | None = None,
    ):
        super().__init__(whole)
        self.layers = {name: dict(row) for name, row in (layers or {}).items()}

    def __str__(self) -> str:
        width = max(len(WORDS[name]) for name in self)
        lines = [f"{WORDS[name]:{width}}  {measured}" for name, measured in self.items()]
        if self.layers:
            heads = "".join(f"{words:>{SPACE}}" for words in OF_LAYERS.values())
            lines += ["", f"{'by layer: of the trace; 1 - CKA':{width}}{heads}"]
        for name, row in self.largest(SHOWN).items():
            cells = (f"{row[k].value:.3g}" if k in row else "-" for k in OF_LAYERS)
            cells = "".join(f"{cell:>{SPACE}}" for cell in cells)
            lines.append(f"{'  ' + (name or 'the module itself'):{width}}{cells}")
        more = len(self.layers) - SHOWN
        return "\n".join([*lines, f"  and {more} layers more"] if more > 0 else lines)

    def largest(self, most: int) -> dict[str, dict[str, Measured]]:
        """The layers with the largest shares before or after, in the network's order."""
        size = {k: max(row["share_before"].value, row["share_after"].value)
                for k, row in self.layers.items()}  # fmt: skip
        kept = sorted(size, key=size.get, reverse=True)[:most]
        return {k: row for k, row in self.layers.items() if k in kept}

    def json(self) -> dict:
        """All of it as numbers, None for nan, in dicts: `value`, `low`, `high` under each name."""

        def plain(rows: Mapping[str, Measured]) -> dict:
            return {name: {k: v if math.isfinite(v) else None for k, v in m._asdict().items()}
                    for name, m in rows.items()}  # fmt: skip

        return plain(self) | {"layers": {name: plain(row) for name, row in self.layers.items()}}
