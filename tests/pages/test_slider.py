"""Figures behind a slider."""

import base64
import re

from matplotlib.figure import Figure

from tangents.pages.slider import slider


def drawn(value):
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, str(value))
    return figure


def test_one_figure_is_seen_and_all_are_there():
    page = slider([1.0, 1.25, 2.0], drawn, "scale <s>", "a curve", start=1).data
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"( hidden)?>', page)
    assert [hidden for *_, hidden in images] == [" hidden", "", " hidden"]
    texts = [f"a curve, scale &lt;s&gt; {text}" for text in ("1", "1.25", "2")]
    assert [alt for alt, *_ in images] == texts
    assert len({content for _, content, _ in images}) == 3
    assert base64.b64decode(images[0][1]).startswith(b"\x89PNG")
    assert 'max="2" value="1" data-labels="1|1.25|2"' in page and "<output>1.25</output>" in page
