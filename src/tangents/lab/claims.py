"""A claim: a paper's statement, and the estimate from published rows that judges it.

    @claim("geiger-1a", "geiger2019", "section 3", Accept("exponent -1/2", -0.6, -0.4))
    def border(t: Table) -> Estimate:
        '''The border between the regimes falls as $h^{-1/2}$.'''
        return borders(t).exponent("width")

The docstring is the statement. A claim that is made in several settings is one claim, whose
function takes what is set, and each setting has its own row in the ledger.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from tangents.lab.evidence import Accept, Estimate, Table

Kind = Literal["finding", "identity", "control"]


class Setting(NamedTuple):
    """One way to ask: what is set in words, the function's arguments, another range if need be."""

    words: str
    options: Mapping[str, Any]
    accept: Accept | None = None


@dataclass(frozen=True, eq=False)
class Claim:
    """A statement in one or several settings, each under an id of its own.

    A *finding* could have come out otherwise; an *identity* (calculus, an exact limit) is a test; a
    *control* must fail, or show nothing. `range` has the fields, and their ends, within which the
    paper makes its statement.
    """

    name: str
    paper: str
    source: str
    accept: Accept
    statement: str
    check: Callable[..., Estimate]
    settings: Mapping[str, Setting]  # by id
    kind: Kind = "finding"
    range: Mapping[str, tuple[float, float]] | None = None

    def estimate(self, setting: str, table: Table) -> Estimate:
        """What the rows say. Raises whatever the claim's function does, LookupError for no runs."""
        return self.check(table, **self.settings[setting].options)

    def accepted(self, setting: str) -> Accept:
        return self.settings[setting].accept or self.accept

    def covers(self, found: Estimate) -> bool:
        """Whether the runs lie within the range in which the paper makes its statement."""
        spans = {name: found.span.get(name, ends) for name, ends in (self.range or {}).items()}
        return all(
            low <= spans[name][0] and spans[name][1] <= high
            for name, (low, high) in (self.range or {}).items()
        )

    def digest(self, setting: str) -> str:
        """Eight hex digits of what is claimed and how it is judged, but for helpers of its code."""
        source = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(self.check))))
        said = [self.statement, self.kind, self.range, self.accepted(setting)]
        said += [self.settings[setting].words]
        text = json.dumps([*said, sorted(self.settings[setting].options.items()), source])
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def digests(claims: tuple[Claim, ...]) -> str:
    """What a run keeps of its study's claims: the digest of each setting, as one line."""
    return " ".join(f"{setting}:{c.digest(setting)}" for c in claims for setting in c.settings)


def registered(claim: Claim, setting: str, table: Table) -> bool:
    """Whether every run was made by a commit that held the claim as it stands now: every one of the
    parts that the table was asked for, if it was.

    A run keeps `digests` and its commit; one of a working tree with changes counts not.
    """
    if "claims" not in table.frame:
        return False
    word = f"{setting}:{claim.digest(setting)}"
    return all(
        re.fullmatch("[0-9a-f]{40}", commit) and word in stated.split()
        for commit, stated in table.origins
    )


def claim(
    name: str,
    paper: str,
    source: str,
    accept: Accept,
    over: Mapping[str, Setting] | None = None,
    kind: Kind = "finding",
    range: Mapping[str, tuple[float, float]] | None = None,
) -> Callable[[Callable[..., Estimate]], Claim]:
    """Makes a claim of a function (table, **options) -> Estimate. `over`: its settings by id."""

    def made(check: Callable[..., Estimate]) -> Claim:
        settings = over or {name: Setting("", {})}
        statement = " ".join((check.__doc__ or "").split())
        return Claim(name, paper, source, accept, statement, check, settings, kind, range)

    return made


def claims_in(namespace: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The claims of a module, given its `globals()`, in order."""
    return tuple(value for value in namespace.values() if isinstance(value, Claim))
