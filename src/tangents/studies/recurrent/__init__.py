"""What does a wide recurrent network see in a series? Alemohammad and co-authors (2021)."""

from tangents.lab.study import Imported, Study
from tangents.studies.recurrent.claims import CLAIMS
from tangents.studies.recurrent.config import PRESETS, Sequences

STUDY = Study(
    name="recurrent",
    version=1,
    config=Sequences,
    presets=PRESETS,
    stack=(),
    run=Imported("tangents.studies.recurrent.run:run"),
    claims=CLAIMS,
    tolerances={"*": (1e-3, 1e-6), "error": (0.0, 0.02), "cost": (100.0, 0.0)},
)
