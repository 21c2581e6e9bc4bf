"""Figures behind a slider: drawn beforehand, turned by the reader, without a server."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

# The figures' own script; each output finds its parts by the element that it stands beside.
_TURN = (
    "const box=this.closest('.turned');"
    "box.querySelectorAll('img').forEach((img,k)=>img.hidden=k!=this.value);"
    "box.querySelector('output').value=this.dataset.labels.split('|')[this.value];"
)


def slider(
    values: Sequence, draw: Callable[..., Figure], label: str, alt: str, start: int = 0
) -> HTML:
    """`draw(value)` for each of the values, of which the reader sees one at a time, first that at
    `start`. `label` says what is turned, `alt` what is seen."""
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    images = [
        f'<img alt="{escape(f"{alt}, {label} {text}")}" src="data:image/png;base64,{_png(draw(v))}"'
        f"{'' if place == start else ' hidden'}>"
        for place, (v, text) in enumerate(zip(values, texts, strict=True))
    ]
    return HTML(
        "<style>.turned img[hidden] {display: none !important}</style>"
        f'<div class="turned"><label>{escape(label)} '
        f'<input type="range" min="0" max="{len(texts) - 1}" value="{start}" '
        f'data-labels="{escape("|".join(texts))}" oninput="{_TURN}"> '
        f"<output>{escape(texts[start])}</output></label>{''.join(images)}</div>"
    )


def _png(figure: Figure) -> str:
    """In 256 colours, which a plot does with: a quarter of the bytes."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).quantize(256, Image.Quantize.FASTOCTREE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()
