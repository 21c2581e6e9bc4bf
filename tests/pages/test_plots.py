"""A study's figures as files."""

import pytest

from tangents.lab.evidence import Table
from tangents.lab.store import published
from tangents.lab.study import ConfigError, LabError
from tangents.pages import plots
from tests.pages.test_chapter import published as publish_toy
from tests.toy import STUDY


@pytest.fixture
def table(toys):
    publish_toy(toys)
    return Table(*published("toy", "book"))


def test_figures_are_drawn_by_name_and_saved_on_white(table, tmp_path):
    assert plots.names(STUDY) == ["losses", "missing", "forest"]
    from PIL import Image

    path = plots.save(plots.draw(STUDY, "losses", table), tmp_path / "new" / "a.png")
    assert Image.open(path).convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    assert plots.save(plots.draw(STUDY, "losses", table), tmp_path / "a.svg").exists()


def test_what_cannot_be_drawn_says_why(table, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'losses'"):
        plots.draw(STUDY, "loses", table)
    with pytest.raises(LabError, match=r"lack what it shows .*'nowhere'"):
        plots.draw(STUDY, "missing", table)
    with pytest.raises(LabError, match="no estimate with an interval"):
        plots.draw(STUDY, "forest", table)
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        plots.save(plots.draw(STUDY, "losses", table), tmp_path / "a.txt")
