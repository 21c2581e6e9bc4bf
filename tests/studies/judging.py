"""What the ledger says of invented tables, for the tests of the chapters' claims."""

from types import SimpleNamespace

import pandas as pd

from tangents.lab import ledger
from tangents.lab.claims import Claim
from tangents.lab.evidence import Table
from tangents.studies.constancy.claims import CLAIMS as CONSTANCY
from tangents.studies.lazy.claims import CLAIMS as LAZY

CLAIMS = (*LAZY, *CONSTANCY)
SETTINGS = [setting for claim in CLAIMS for setting in claim.settings]


def claim_of(setting: str) -> Claim:
    return next(claim for claim in CLAIMS if setting in claim.settings)


def judged(setting: str, frame: pd.DataFrame) -> SimpleNamespace:
    """The ledger's entry on these rows. A claim whose code raises fails the test."""
    found = SimpleNamespace(**ledger.entry(claim_of(setting), setting, Table(frame)))
    assert not found.failed, found.note
    return found


def entry_of(claims: tuple[Claim, ...], setting: str, *frames: pd.DataFrame) -> dict:
    """The ledger's entry on the rows of these frames, each row once."""
    claim = next(claim for claim in claims if setting in claim.settings)
    table = pd.concat(frames).drop_duplicates(["run_id", "metric", "time"], ignore_index=True)
    found = ledger.entry(claim, setting, Table(table))
    assert not found["failed"], found["note"]
    return found


def jitter(seed: int) -> float:
    """A factor near 1 for each of five seeds, so that they have an interval."""
    return 1 + 0.01 * (seed - 2)
