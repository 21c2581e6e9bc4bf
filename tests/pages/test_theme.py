"""What the book changes in its theme's pages."""

from types import SimpleNamespace

import pytest

from tangents.pages import theme

A = '<em class="sig-param">a: int</em>,'


@pytest.mark.parametrize(
    ("page", "shown"),
    [('a\n <script src="../_static/scripts/fontawesome.js?digest=8"></script>b', "ab"),
     ("a\n<script>const THEBE_JS_URL = 1; const x = 2</script>\n<p>", "a\n<p>"),
     ('a<link rel="s" href="_static/sphinx-thebe.css?v=4" />b', "ab"),
     ('<th class="head"><p></p></th><th class="head"><p>x</p></th>',
      '<td></td><th class="head"><p>x</p></th>'),
     (f"(<dl>\n<dd>{A}</dd>\n<dd>{A}</dd>\n</dl>)",
      f'(<span class="sig-lines"><span>{A}</span><span>{A}</span></span>)'),
     ("<dl>\n<dd>x</dd>\n</dl>", "<dl>\n<dd>x</dd>\n</dl>")],
)  # fmt: skip
def test_pages_are_changed_where_they_must(page, shown):
    assert theme.changed(page) == shown


@pytest.mark.parametrize("address", ["", "https://github.com/a/b"])
def test_buttons_need_an_address(address):
    options = {"repository_url": address, "launch_buttons": {"colab_url": "there"}}
    theme.buttons(None, SimpleNamespace(html_theme_options=options))
    assert all(options[name] == bool(address) for name in theme.BUTTONS)
    assert bool(options["launch_buttons"]) == bool(address)
