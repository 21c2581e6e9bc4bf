"""Does exact Gauss-Newton generalise poorly? Buffelli et al. (2024)."""

from tangents.lab.study import Imported, Study
from tangents.studies.gauss_newton.claims import CLAIMS
from tangents.studies.gauss_newton.config import PRESETS, GaussNewton

STUDY = Study(
    name="gauss_newton",
    version=1,
    config=GaussNewton,
    presets=PRESETS,
    stack=("rate",),
    run=Imported("tangents.studies.gauss_newton.run:run"),
    claims=CLAIMS,
    tolerances={
        "*": (0.05, 1e-3),
        "error": (0.0, 0.02),
        "change_next": (0.0, 1.0),  # per cent, about zero
        "cost": (2.0, 1.0),  # of seconds
    },
)
