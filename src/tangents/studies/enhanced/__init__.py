"""Recurrent kernels beyond time series: Alemohammad et al. (2020)."""

from tangents.lab.study import Imported, Study
from tangents.studies.enhanced.claims import CLAIMS
from tangents.studies.enhanced.config import PRESETS, Enhanced

# Where settings tie, or nearly, rounding decides
CHOSEN = [
    f"chosen_{name}"
    for name in ("layers", "su", "sb", "frozen", "cost", "gamma", "degree", "stretch", "nearest")
]

STUDY = Study(
    name="enhanced",
    version=1,
    config=Enhanced,
    presets=PRESETS,
    stack=("method",),
    run=Imported("tangents.studies.enhanced.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.0, 0.02), "tied": (0.0, 320.0)} | dict.fromkeys(CHOSEN, (0.0, 1e7)),
)
