"""Do orthogonal weights train faster? Huang, Du and Xu (2021)."""

from tangents.lab.study import Imported, Study
from tangents.studies.orthogonal.claims import CLAIMS
from tangents.studies.orthogonal.config import PRESETS, Orthogonal

STUDY = Study(
    name="orthogonal",
    version=1,
    config=Orthogonal,
    presets=PRESETS,
    stack=("weights", "rate"),
    run=Imported("tangents.studies.orthogonal.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.02, 1e-6), "steps": (0.05, 1.0)},
)
