"""Do random features stand for the tangent kernel? Zandieh, Han and co-authors (2021)."""

from tangents.lab.study import Imported, Study
from tangents.studies.random_features.claims import CLAIMS
from tangents.studies.random_features.config import PRESETS, RandomFeatures

STUDY = Study(
    name="random_features",
    version=1,
    config=RandomFeatures,
    presets=PRESETS,
    stack=("method", "size"),
    run=Imported("tangents.studies.random_features.run:run"),
    claims=CLAIMS,
    tolerances={
        "*": (1e-3, 1e-6),
        "error": (0.0, 0.005),
        "cost": (3.0, 1.0),  # seconds
    },
)
