"""Sphinx extension: what this book asks of its theme, and the theme has no setting for.

Buttons that lead to the repository appear once its address is set in `_config.yml`. Icons come from
a font that the theme loads anyway, so the script of 1.5 MB that draws them again is left out; so is
what runs cells in the page, which needs servers of others. Tables, signatures and buttons get what
those need who listen to a page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BUTTONS = ("use_repository_button", "use_issues_button", "use_edit_page_button")
CHANGES = {
    # scripts that nobody needs: see above
    r"\s*<script[^>]*/fontawesome\.js[^>]*></script>": "",
    r"\s*<script>const THEBE_JS_URL[^\n]*</script>": "",
    r"\s*<(?:script|link)[^>]*/sphinx-thebe\.(?:js|css)[^>]*>(?:</script>)?": "",
    r'\s*<script type="text/x-thebe-config">.*?</script>': "",
    # a corner of a table is no header
    r'<th class="head">(?:<p></p>)?\s*</th>': "<td></td>",
    r"<th></th>": "<td></td>",
    # lines of a signature are no list of definitions
    r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>': r'<span class="sig-lines">\1</span>',
    r'<dd>(<em class="sig-param">.*?)</dd>\n': r"<span>\1</span>",
    # a name that says what is shown, and what a place is
    r'(<button class="btn search-button-field[^>]*?) aria-label="Search"': r"\1",
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    r'(<div id="pst-primary-sidebar") ': r'\1 role="complementary" aria-label="Book" ',
    # roles that no longer exist, or lack what they demand
    r' role="doc-biblioentry"': "",
    r'<div role="list" class="citation-list">': '<div class="citation-list">',
}


def buttons(app: Any, config: Any) -> None:
    """Turns on what leads to the repository, if its address is known, else all of it off."""
    options = config.html_theme_options
    known = bool(options.get("repository_url"))
    options.update(dict.fromkeys(BUTTONS, known))
    if not known:
        options["launch_buttons"] = {}


def changed(page: str) -> str:
    """A page as this book has it."""
    for pattern, new in CHANGES.items():
        page = re.sub(pattern, new, page, flags=re.DOTALL)
    return page


def finish(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            page = path.read_text("utf-8")
            if (new := changed(page)) != page:
                path.write_text(new, "utf-8")
        for path in Path(app.outdir, "_static", "scripts").glob("fontawesome.js*"):
            path.unlink()  # 3 MB with its map, which no page asks for


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", buttons)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
