"""When does the kernel learn? Fort and co-authors (2020)."""

from tangents.lab.study import Imported, Study
from tangents.studies.over_time.claims import CLAIMS
from tangents.studies.over_time.config import PRESETS, OverTime

STUDY = Study(
    name="over_time",
    version=1,
    config=OverTime,
    presets=PRESETS,
    stack=("scaled_alpha",),
    run=Imported("tangents.studies.over_time.run:run"),
    claims=CLAIMS,
    tolerances={"*": (0.05, 0.02)},
)
