"""Recurrent kernels beyond time series: Alemohammad et al. (2020)."""

from tangents.lab.study import Imported, Study
from tangents.studies.enhanced.claims import CLAIMS
from tangents.studies.enhanced.config import PRESETS, Enhanced

STUDY = Study(
    name="enhanced",
    version=1,
    config=Enhanced,
    presets=PRESETS,
    stack=("method",),
    run=Imported("tangents.studies.enhanced.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.0, 0.005)},
)
