"""The code that README and prose pages show runs as it stands."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tangents.lab import claims, evidence

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{place}")
    for page in PAGES for place, code in enumerate(BLOCK.findall(page.read_text("utf-8")))
]  # fmt: skip


def given():
    """What the text around the examples speaks of."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    params = {name: value.detach() for name, value in net.named_parameters()}
    x, y = torch.randn(5, 4).double(), torch.randn(5, 2).double()
    names = {name: getattr(evidence, name) for name in ("Accept", "Estimate", "Table")}
    return dict(net=net, params=params, x=x, y=y, claim=claims.claim, V1="geiger2019", **names)


def test_there_are_examples():
    assert len(EXAMPLES) > 2


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, monkeypatch, tmp_path):
    if "dask_jobqueue" in code and not find_spec("dask_jobqueue"):
        compile(code, "example", "exec")
        pytest.skip("needs a cluster")
    monkeypatch.setenv("TANGENTS_RUNS", str(tmp_path))
    exec(code, given())
