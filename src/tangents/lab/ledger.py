"""Verdicts: what the claims are worth on the published tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tangents.lab.claims import Claim, registered
from tangents.lab.evidence import Estimate, Table
from tangents.lab.store import is_published, published
from tangents.lab.study import Study

VERDICTS = ("supported", "contradicted", "inconclusive")


def judge(study: Study, presets: Iterable[str]) -> list[dict[str, Any]]:
    """One entry for each claim, setting and published preset, see `entry`."""
    entries = []
    for preset in presets:
        if is_published(study.name, preset):
            table = Table(*published(study.name, preset))
            entries += [entry | {"preset": preset} for entry in judged(study, table)]
    return entries


def judged(study: Study, table: Table) -> list[dict[str, Any]]:
    """One entry for each claim and setting; "failed" tells whether its code raised an error."""
    return [entry(claim, setting, table) for claim in study.claims for setting in claim.settings]


def entry(claim: Claim, setting: str, table: Table) -> dict[str, Any]:
    found, failed = _estimated(claim, setting, table)
    accept = claim.accepted(setting)
    verdict = accept.verdict(found)
    if verdict == "contradicted" and not claim.covers(found):
        verdict = "inconclusive"  # what lies outside of a paper's range contradicts it not
    return {
        "id": setting, "claim": claim.name, "kind": claim.kind, "paper": claim.paper,
        "source": claim.source, "statement": claim.statement,
        "setting": claim.settings[setting].words,
        "estimate": float(found.value), "low": float(found.low), "high": float(found.high),
        "expected": accept.words, "accepted": (float(accept.low), float(accept.high)),
        "verdict": verdict, "seeds": int(found.seeds), "n_runs": int(found.runs),
        "registered": registered(claim, setting, table), "note": found.note, "failed": failed,
    }  # fmt: skip


def _estimated(claim: Claim, setting: str, table: Table) -> tuple[Estimate, bool]:
    try:
        found = claim.estimate(setting, table)
        if not isinstance(found, Estimate):
            raise TypeError(f"the claim returned {type(found).__name__}, not an Estimate")
        return found, False
    except Exception as error:  # a claim is judged even where its code breaks
        kind = "" if type(error) is LookupError else f"{type(error).__name__}: "
        note = " ".join(f"{kind}{error}".split())
        return Estimate(math.nan, math.nan, math.nan, note=note), True


def plain(value: Any) -> Any:
    """The value as JSON can hold it: None for nan and the infinities."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
