"""How rarely may features be updated? Goldwaser and Ge (2023)."""

from tangents.lab.study import Imported, Study
from tangents.studies.iterative.claims import CLAIMS
from tangents.studies.iterative.config import PRESETS, Iterative

STUDY = Study(
    name="iterative",
    version=1,
    config=Iterative,
    presets=PRESETS,
    stack=("alpha",),
    run=Imported("tangents.studies.iterative.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.05, 1e-3), "error": (0.0, 0.01), "error_linear": (0.0, 0.01)},
)
