"""Verdicts: what the claims are worth on the published tables.

*Supported*: the whole interval lies in the accepted range. *Contradicted*: none of it does.
*Outside*: none of it does, but the runs lie outside of the range in which the paper says so.
*Inconclusive*: all else, a power law that is none among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tangents.lab.claims import Claim, registered
from tangents.lab.evidence import Estimate, Table
from tangents.lab.statistics import holm
from tangents.lab.store import is_published, published
from tangents.lab.study import Study, expand, fingerprint

VERDICTS = ("supported", "contradicted", "inconclusive", "outside")


def judge(study: Study, presets: Iterable[str]) -> list[dict[str, Any]]:
    """One entry for each claim, setting and published preset, see `entry`; of a preset that is
    published in part for those that its runs can judge. Smoke judges nothing."""
    entries = []
    for preset in presets:
        if preset != "smoke" and is_published(study.name, preset):
            table = Table(*published(study.name, preset))
            declared = {fingerprint(study, config) for config in expand(study, preset)}
            whole = declared <= set(table.frame["run_id"].unique())
            each = (entry | {"preset": preset} for entry in judged(study, table))
            entries += [e for e in each if whole or math.isfinite(e["low"])]
    return entries


def judged(study: Study, table: Table) -> list[dict[str, Any]]:
    """One entry for each claim and setting; "failed" tells whether its code raised an error.

    "p" is that of the verdict, see `Accept.p_value`; "holm" the same among all findings of a study.
    """
    entries = [entry(claim, setting, table) for claim in study.claims for setting in claim.settings]
    findings = [e["p"] if e["kind"] == "finding" else math.nan for e in entries]
    return [e | {"holm": p} for e, p in zip(entries, holm(findings), strict=True)]


def entry(claim: Claim, setting: str, table: Table) -> dict[str, Any]:
    accept, failed, table = claim.accepted(setting), False, table.afresh()
    try:
        found = claim.estimate(setting, table)
        if not isinstance(found, Estimate):
            raise TypeError(f"the claim returned {type(found).__name__}, not an Estimate")
        if not found.runs:
            raise LookupError("no run decides it")
        verdict, p = accept.verdict(found), accept.p_value(found)
    except Exception as error:  # a claim is judged even where its code breaks
        kind = "" if type(error) is LookupError else f"{type(error).__name__}: "
        note = " ".join(f"{kind}{error}".split())
        found, failed = Estimate(math.nan, math.nan, math.nan, note=note), True
        verdict, p = "inconclusive", math.nan
    if verdict == "contradicted" and not claim.covers(found):
        verdict = "outside"
    return {
        "id": setting, "claim": claim.name, "kind": claim.kind, "paper": claim.paper,
        "source": claim.source, "statement": claim.statement,
        "setting": claim.settings[setting].words,
        "estimate": float(found.value), "low": float(found.low), "high": float(found.high),
        "expected": accept.words, "accepted": (float(accept.low), float(accept.high)),
        "verdict": verdict, "p": p, "seeds": int(found.seeds), "n_runs": int(found.runs),
        "registered": registered(claim, setting, table), "note": found.note, "failed": failed,
    }  # fmt: skip


def plain(value: Any) -> Any:
    """The value as JSON can hold it: None for nan and the infinities."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
