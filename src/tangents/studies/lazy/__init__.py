"""Lazy or feature learning by output scale and width: Geiger et al. (2019; 2020)."""

from tangents.lab.study import Imported, Study
from tangents.studies.lazy.claims import CLAIMS
from tangents.studies.lazy.config import PRESETS, Lazy

STUDY = Study(
    name="lazy",
    version=3,
    config=Lazy,
    presets=PRESETS,
    stack=("seed", "scaled_alpha"),
    run=Imported("tangents.studies.lazy.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.05, 1e-6), "error": (0.0, 0.005), "frozen_error": (0.0, 0.005)},
)
