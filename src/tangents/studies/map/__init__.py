"""One plane for all knobs: what makes a network lazy, whatever knob is turned?"""

from tangents.lab.study import Imported, Study
from tangents.studies.map.claims import CLAIMS
from tangents.studies.map.config import PRESETS, Map

STUDY = Study(
    name="map",
    version=1,
    config=Map,
    presets=PRESETS,
    stack=("part", "alpha", "train", "rate", "rounds", "damping"),
    run=Imported("tangents.studies.map.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.05, 1e-3)},
)
