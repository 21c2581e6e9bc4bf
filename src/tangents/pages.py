"""What the book's pages show of the ledger: claims as HTML tables."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape

import numpy as np
import pandas as pd

from tangents.experiments import study
from tangents.ledger import judge
from tangents.results import published

COLUMNS = ("Claim", "Paper", "Here", "Runs", "Preset", "Verdict")


def chapter(
    name: str, preset: str
) -> tuple[pd.DataFrame, dict[str, np.ndarray], Callable[..., None]]:
    """A study's published rows and arrays, and what displays its verdicts on the claims named.

    Raises ResultsError where the preset is not published.
    """
    from IPython.display import HTML, display

    frame, arrays = published(name, preset)
    entries = {entry["id"]: entry for entry in judge(study(name), [preset])}

    def verdicts(*ids: str) -> None:
        display(HTML(claims_table(entries[claim] for claim in ids)))

    return frame, arrays, verdicts


def claims_table(entries: Iterable[Mapping]) -> str:
    """A table of claims as judged by `ledger.judge`, one row each, as HTML."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(map(_row, entries))
    return (
        f'<table class="dataframe ledger"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _text(words: str) -> str:
    """Words as HTML, with what stands between dollars as a formula."""
    return re.sub(r"\$(.+?)\$", r'<span class="math">\\(\1\\)</span>', escape(words))


def _measured(claim: Mapping) -> str:
    """The estimate with its interval, as far as either exists."""
    names = ("estimate", "low", "high")
    estimate, low, high = (_number(claim[name]) for name in names)
    interval = "" if low == "nan" else f"<small>[{low}, {high}]</small>"
    return "none" if estimate == "nan" else estimate + interval


def _accepted(claim: Mapping) -> str:
    """The range that the interval has to lie in, as small print."""
    low, high = claim["accepted"]
    if math.isnan(low):
        return ""
    if high == math.inf:
        return f"<small>accepted: ≥ {_number(low)}</small>"
    if low == high:
        return f"<small>accepted: {_number(low)}</small>"
    below = f"{_number(low)} to " if low > -math.inf else "≤ "
    return f"<small>accepted: {below}{_number(high)}</small>"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _row(claim: Mapping) -> str:
    """One row; on a narrow screen data-label stands in for the column's name."""
    source = f"<small>{_text(claim['source'])}; {escape(claim['id'])}</small>"
    verdict = f'<span class="verdict {claim["verdict"]}">{claim["verdict"]}</span>'
    paper = _text(claim["expected"]) + _accepted(claim)
    values = {"Paper": paper, "Here": _measured(claim), "Runs": claim["n_runs"]}
    values |= {"Preset": claim["preset"]}
    values |= {"Verdict": f"{verdict}<small>{_text(claim['note'])}</small>"}
    cells = "".join(f'<td data-label="{name}">{value}</td>' for name, value in values.items())
    return f'<tr><td class="claim">{_text(claim["statement"])}{source}</td>{cells}</tr>'
