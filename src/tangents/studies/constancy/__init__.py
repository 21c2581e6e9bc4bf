"""When the tangent kernel is constant, and why: Liu, Zhu and Belkin (2020)."""

from tangents.lab.study import Imported, Study
from tangents.studies.constancy.claims import CLAIMS
from tangents.studies.constancy.config import PRESETS, Constancy

# Eigenvectors are found to 1e-2, and a stack searches until its slowest network is done: computed
# alone, a network may stop earlier, with a vector as good or at an eigenvalue close to the top one.
SEARCHED_FOR = (
    *("hessian", "hessian_random", "hessian_steepest", "hessian_trained"),
    *(f"linear_error_top_{r}" for r in ("0.25", "0.5", 1, 2, 4, 8)),
)

STUDY = Study(
    name="constancy",
    version=3,
    config=Constancy,
    presets=PRESETS,
    stack=("alpha", "rate", "positive"),
    run=Imported("tangents.studies.constancy.run:run"),
    claims=CLAIMS,
    tolerances={"*": (1e-3, 1e-9)} | dict.fromkeys(SEARCHED_FOR, (0.05, 1e-9)),
)
