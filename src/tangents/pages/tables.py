"""The ledger as HTML: a claim in several settings is one claim with a row of each."""

import math
import re
from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby

WORDS = {"outside": "open outside its range"}
COLUMNS = ("Claim", "Paper", "Here", "Seeds", "Verdict")


def claims_table(entries: Iterable[Mapping]) -> str:
    """A table of claims as judged by `lab.ledger`, those of one claim together, as HTML.

    Entries with a "study" are those of the ledger: their rows tell a filter what they are, and the
    book's builder puts the way to the evidence into each claim (`pages.proofs`).
    """
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(row for _, group in groupby(entries, _claim) for row in _rows(group))
    return (
        f'<table class="dataframe ledger"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _claim(entry: Mapping) -> tuple:
    """What tells one claim's entries from another's: studies may give claims the same name."""
    return entry.get("study"), entry["claim"], entry["preset"]


def anchor(study: str, name: str, preset: str = "book") -> str:
    """The id of a setting's row in the ledger, which holds all studies and presets."""
    return plain_id("-".join([study, name, *([preset] if preset != "book" else [])]))


def plain_id(name: str) -> str:
    """A name as an id that scripts take for a selector: without dots."""
    return name.replace(".", "-")


def _rows(entries: Iterable[Mapping]) -> Iterable[str]:
    """The rows of one claim: the statement stands above those of its settings."""
    entries = list(entries)
    first = entries[0]
    statement = _text(first["statement"])
    if not first["setting"]:
        yield _row(first, statement + _small(first["source"], first["id"]) + _proof(first))
        return
    claim = statement + _small(first["source"], first["claim"]) + _proof(first)
    yield f'<tr><td class="claim statement" colspan="{len(COLUMNS)}">{claim}</td></tr>'
    for entry in entries:
        yield _row(entry, f"{_text(entry['setting'])}{_small(entry['id'])}", "setting")


def _row(entry: Mapping, claim: str, look: str = "") -> str:
    """One row; on a narrow screen data-label stands in for the column's name."""
    kind = entry["verdict"]
    verdict = f'<span class="verdict {kind}">{WORDS.get(kind, kind)}</span>' + _marks(entry)
    values = {
        "Paper": _text(entry["expected"]) + _accepted(entry),
        "Here": _measured(entry),
        "Seeds": entry["seeds"],
        "Verdict": f"{verdict}<small>{_text(entry['note'])}</small>",
    }
    cells = "".join(f'<td data-label="{name}">{value}</td>' for name, value in values.items())
    names = " ".join(filter(None, ["claim", look]))
    known, place = "", entry["id"]
    if "study" in entry:
        known = _data(entry, "study", "paper", "verdict", "kind")
        place = anchor(entry["study"], entry["id"], entry["preset"])
    return f'<tr id="{escape(place)}"{known}><td class="{names}">{claim}</td>{cells}</tr>'


def _proof(entry: Mapping) -> str:
    """Where the way to the evidence will stand."""
    if "study" not in entry:
        return ""
    return f'<div class="proof"{_data(entry, "study", "preset", "claim", "id")}></div>'


def _data(entry: Mapping, *names: str) -> str:
    return "".join(f' data-{name}="{escape(entry[name])}"' for name in names)


def _text(words: str) -> str:
    """Words as HTML: what stands between dollars is a formula, between asterisks emphasis."""
    parts = re.split(r"\$(.+?)\$", escape(words))
    parts[::2] = (re.sub(r"\*(\w.*?)\*", r"<em>\1</em>", part) for part in parts[::2])
    parts[1::2] = (rf'<span class="math">\({part}\)</span>' for part in parts[1::2])
    return "".join(parts)


def _marks(entry: Mapping) -> str:
    """What else is to be known of a verdict: its kind, its place among many, when it was stated."""
    decided = entry["verdict"] in ("supported", "contradicted")
    marks = [
        entry["kind"] if entry["kind"] != "finding" else "",
        f"preset {entry['preset']}" if "study" in entry and entry["preset"] != "book" else "",
        "registered" if entry["registered"] else "",
        "not after Holm" if decided and entry["holm"] > 0.05 else "",
    ]
    return "".join(f'<span class="mark">{mark}</span>' for mark in marks if mark)


def _small(*words: str) -> str:
    return f"<small>{_text('; '.join(words))}</small>"


def _measured(entry: Mapping) -> str:
    """The estimate with its interval, as far as either exists; and that of the published runs,
    where those at hand are others."""
    names = ("estimate", "low", "high")
    estimate, low, high = (_number(entry[name]) for name in names)
    interval = "" if low == "nan" else f"<small>[{low}, {high}]</small>"
    found = "none" if estimate == "nan" else estimate + interval
    if not (published := entry.get("published")):
        return found
    verdict = WORDS.get(published["verdict"], published["verdict"])
    return f"{found}<small>published: {_measured(published)} {verdict}</small>"


def _accepted(entry: Mapping) -> str:
    """The range that the interval has to lie in, as small print."""
    low, high = entry["accepted"]
    if high == math.inf:
        return f"<small>accepted: ≥ {_number(low)}</small>"
    if low == high:
        return f"<small>accepted: {_number(low)}</small>"
    below = f"{_number(low)} to " if low > -math.inf else "≤ "
    return f"<small>accepted: {below}{_number(high)}</small>"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
