"""How lazy a training was, against networks whose laziness is known."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tangents import kernels, models
from tangents._ntk.parts import by_layer, projected
from tangents.empirical import ntk
from tangents.functional import differentiable
from tangents.laziness import WORDS, Laziness
from tangents.measure import measure
from tests.cases import Applied, close, normal
from tests.families import FAMILIES


def moved(module, seed=0, by=0.3):
    before = models.initialise(module, seed)
    after = {k: v + by * normal(*v.shape, seed=seed + 1) for k, v in before.items()}
    return before, after


def test_a_model_that_is_linear_in_its_weights_is_lazy():
    module = nn.Linear(4, 3).double()
    before = {k: p.detach() for k, p in module.named_parameters()}
    after = {k: v + normal(*v.shape) for k, v in before.items()}
    found = measure(module, before, after, normal(30, 4))
    for name in ("nonlinear", "turn", "turn_centred", "kernel_change"):
        assert abs(found[name].value) < 1e-12
    length = sum((after[k] - v).square().sum() for k, v in before.items()).sqrt()
    size = sum(v.square().sum() for v in before.values()).sqrt()
    assert found["distance"].value == pytest.approx((length / size).item())


def test_the_larger_the_step_the_less_lazy():
    module, x = models.MLP(4, 32, 2, 2, "tanh"), normal(30, 4)
    shares = [measure(module, *moved(module, by=by), x)["nonlinear"].value
              for by in (1e-3, 1e-2, 0.1, 1.0)]  # fmt: skip
    assert shares == sorted(shares) and shares[0] < 1e-2
    # to first order the remainder is quadratic in the step
    assert shares[1] / shares[0] == pytest.approx(10, rel=0.05)


def test_kernel_measures_are_those_of_the_kernels():
    module, x = models.MLP(4, 16, 2, 3, "tanh"), normal(24, 4)
    before, after = moved(module)
    y = torch.arange(24) % 3
    found = measure(module, before, after, x, y)
    k0, k1 = (ntk(module, p, x, outputs="trace") for p in (before, after))
    assert found["turn"].value == pytest.approx(1 - kernels.cosine(k1, k0).item())
    assert found["kernel_change"].value == pytest.approx(kernels.distance(k1, k0).item())
    told = (y[:, None] == y).double()
    want = kernels.centred_alignment(k1, told).item()
    assert found["alignment_after"].value == pytest.approx(want)
    assert list(found) == list(WORDS) and found.json()["turn"]["value"] == found["turn"].value
    assert all(m.low <= m.value <= m.high for n, m in found.items() if n != "distance")


def test_a_kernel_that_knows_the_labels_errs_less():
    """The last layer's features become the labels."""
    module = models.MLP(2, 64, 1, 1, "tanh")
    before = models.initialise(module, 0)
    x, wide = normal(60, 2), {"hidden.0.weight": torch.zeros(64, 2).double()}
    wide["hidden.0.weight"][:, 0] = 30.0  # units that tell the sign of the first number
    found = measure(module, before, before | wide, x, (x[:, 0] > 0).long())
    assert found["error_after"].value <= found["error_before"].value
    assert found["alignment_after"].value > 0.9 > found["alignment_before"].value
    real = measure(module, before, before | wide, x, x[:, 0].sign())
    assert real["error_after"].value < 0.1 < real["error_before"].value


def test_the_interval_covers_what_more_examples_say():
    module = models.MLP(4, 16, 2, 1, "tanh")
    before, after = moved(module)
    truth = measure(module, before, after, normal(800, 4, seed=9))["nonlinear"].value
    hits = 0
    for seed in range(20):
        _, low, high = measure(module, before, after, normal(40, 4, seed=seed))["nonlinear"]
        hits += low <= truth <= high
    assert hits >= 15


def test_it_reads_as_a_table():
    module = models.MLP(4, 8, 1, 1, "tanh")
    text = str(measure(module, *moved(module), normal(20, 4)))
    whole, layers = text.split("\n\n")
    assert len(whole.splitlines()) == 6 and "nonlinear share R" in text
    assert len(layers.splitlines()) == 3 and "readout" in layers
    one = Laziness({"turn": measure(module, *moved(module), normal(20, 4))["turn"]})
    assert "\n" not in str(one)


@pytest.mark.parametrize("change, message", [
    (dict(x=normal(10, 4)), "at least 20 examples"),
    (dict(after=None), "are the same"),
    (dict(y=torch.zeros(20, dtype=torch.long)), "one class"),
    (dict(y=torch.arange(7)), "labels must be of the 20 examples, got 7"),
    (dict(y=torch.full((20,), math.nan)), "finite and vary"),
    (dict(y=torch.zeros(20, 3, dtype=torch.long)), r"classes must be \(n,\), got \(20, 3\)"),
    (dict(x=normal(20, 5)), r"does not take inputs \(20, 5\) of torch.float64"),
    (dict(x="words"), "inputs must be a tensor"),
    (dict(params=["*lora*"]), r"no parameter fits '\*lora\*': accepted .* such as hidden.0.weight"),
    (dict(before={}), "the weights before lack 'hidden.0.weight'"),
    (dict(sums=0), "sums must be at least 1"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_measured_is_refused(change, message):
    module = models.MLP(4, 8, 1, 1, "tanh")
    before, after = moved(module)
    given = dict(before=before, after=after, x=normal(20, 4)) | change
    given["after"] = given["after"] or before
    with pytest.raises(ValueError, match=message):
        measure(module, **given)


def slopes(module, params, x):
    """The outputs (n, c), and the Jacobian of each parameter (n, c, p), a pass back for each row;
    what `params` lack is the module's."""
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    with differentiable(module):
        f = functional_call(module, leaves, (x,)).flatten(1)
        rows = [torch.autograd.grad(v, [*leaves.values()], retain_graph=True, allow_unused=True)
                for v in f.flatten()]  # fmt: skip
    J = {k: torch.stack([torch.zeros(v.numel()).double() if r[i] is None else r[i].flatten()
                         for r in rows]).view(*f.shape, -1)
         for i, (k, v) in enumerate(leaves.items())}  # fmt: skip
    return f.detach(), J


def outputs_at(module, params, step, t, x):
    with torch.no_grad():
        moved = {k: v + t * step[k] for k, v in params.items()}
        return functional_call(module, moved, (x,)).flatten(1)


def traced(J):
    return sum(torch.einsum("icp,jcp->ij", v, v) for v in J)


@pytest.mark.parametrize("family", FAMILIES, ids=[f.name for f in FAMILIES])
@pytest.mark.usefixtures("unchecked")
def test_six_families_against_dense_jacobians(family):
    module, before, after, x = family.made()
    names = [k for k, _ in module.named_parameters() if not family.patterns or "lora" in k]
    start, end = ({k: p[k] for k in names} for p in (before, after))
    kept = {k: v.clone() for k, v in module.state_dict().items()}
    found = measure(module, before, after, x, params=family.patterns)
    (f0, J0), (f1, J1) = (slopes(module, p, x) for p in (start, end))
    step = {k: end[k] - start[k] for k in names}
    h = 1e-4  # central differences of the outputs, by Richardson's extrapolation
    ends = [outputs_at(module, start, step, t, x) for t in (h, -h, h / 2, -h / 2)]
    wide, narrow = (ends[0] - ends[1]) / (2 * h), (ends[2] - ends[3]) / h
    change = (4 * narrow - wide) / 3
    R = ((f1 - f0 - change).norm() / (f1 - f0).norm()).item()
    assert found["nonlinear"].value == pytest.approx(R, rel=1e-6)
    k0, k1 = traced(J0.values()), traced(J1.values())
    turn = 1 - ((k0 * k1).sum() / (k0.norm() * k1.norm())).item()
    assert found["turn"].value == pytest.approx(turn, rel=1e-8)
    centre = torch.eye(len(f0)).double() - 1 / len(f0)
    assert list(found.layers) == list(dict.fromkeys(k.rpartition(".")[0] for k in names))
    for layer, row in found.layers.items():
        mine = [k for k in names if k.rpartition(".")[0] == layer]
        a, b = (centre @ traced(J[k] for k in mine) @ centre for J in (J0, J1))
        share = traced(J0[k] for k in mine).trace() / k0.trace()
        assert row["share_before"].value == pytest.approx(share.item(), rel=1e-8)
        cka = ((a * b).sum() / (a.norm() * b.norm())).item()
        assert row["turn"].value == pytest.approx(1 - cka, rel=1e-7, abs=1e-12, nan_ok=True)
    assert all(v.equal(kept[k]) for k, v in module.state_dict().items())


def build(*layers):
    torch.manual_seed(0)
    return torch.nn.Sequential(*layers).double()


@pytest.mark.parametrize("module, message", [
    (build(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), "is in training mode"),
    (build(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)), "call module.eval"),
    (build(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1001)).eval(), "1001 outputs an example"),
])  # fmt: skip
def test_networks_that_cannot_be_measured_are_refused_and_left_alone(module, message):
    kept = {k: v.clone() for k, v in module.state_dict().items()}
    after = {k: v + 0.1 for k, v in kept.items() if v.is_floating_point()}
    with pytest.raises(ValueError, match=message) as error:
        measure(module, kept, after, normal(20, 4))
    assert "\n" not in str(error.value)
    assert all(v.equal(kept[k]) for k, v in module.state_dict().items())


def test_weights_that_change_no_output_are_refused():
    module = build(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    before = {k: v.clone() for k, v in module.state_dict().items()} | {
        "0.bias": torch.full((8,), -99.0).double()
    }
    with pytest.raises(ValueError, match="outputs before and after are the same"):
        measure(module, before, before | {"0.bias": before["0.bias"] - 1}, normal(20, 4))


def test_some_parameters_alone_while_the_others_are_as_before():
    module, x = models.MLP(4, 16, 2, 2, "tanh").double(), normal(24, 4)
    before, after = moved(module)
    own = {k: p.clone() for k, p in module.named_parameters()}
    found = measure(module, before, after, x, params=["hidden.1.*", "read*t.weight"])
    chosen = [k for k in before if k.startswith("hidden.1.") or k == "readout.weight"]
    whole = measure(module, before, before | {k: after[k] for k in chosen}, x)
    assert found["nonlinear"].value == pytest.approx(whole["nonlinear"].value)
    assert list(found.layers) == ["hidden.1", "readout"]
    assert all(p.equal(own[k]) for k, p in module.named_parameters())
    for k, p in module.named_parameters():
        p.data = before[k]
    alone = ({k: v[k] for k in chosen} for v in (before, after))
    again = measure(module, *alone, x, params=["hidden.1.*", "readout.weight"])
    assert all(again[k] == found[k] for k in ("nonlinear", "turn", "distance"))


def test_random_sums_of_outputs_stand_for_all():
    module, x = models.MLP(4, 16, 1, 12, "tanh"), normal(20, 4)
    before, after = moved(module)
    exact, some = (measure(module, before, after, x, sums=k) for k in (None, 8))
    assert some["nonlinear"] == exact["nonlinear"]
    assert some["turn"].value == pytest.approx(exact["turn"].value, rel=0.5)
    assert measure(module, before, after, x, sums=12)["turn"] == exact["turn"]
    (parts,), _ = by_layer(module, [before], x, sums=8)
    signs = projected(module, before, x, 8).signs
    J = slopes(module, before, x)[1]
    want = traced(torch.einsum("icp,cr->irp", v, signs) for v in J.values())
    close(parts.sum(0), want)
    close(signs.unique(), torch.tensor([-1.0, 1.0]).double() / 8**0.5)


def test_a_small_budget_changes_no_number():
    module, x = models.MLP(4, 16, 2, 3, "tanh"), normal(40, 4)
    before, _ = moved(module)
    (whole,), _ = by_layer(module, [before], x)
    for budget in (3e4, 1e5):
        (parts,), _ = by_layer(module, [before], x, budget)
        close(parts, whole)
    assert all(close(v, v.mT) is None for v in parts)


def test_what_layers_give_out():
    """Of a network whose hidden units are turned and scaled, which CKA does not see."""
    module, x = models.MLP(4, 6, 1, 1, "tanh"), normal(30, 4)
    before, _ = moved(module)
    turn = torch.linalg.qr(normal(6, 6, seed=3))[0]
    same = before | {
        f"hidden.0.{k}": 2 * turn @ before[f"hidden.0.{k}"] for k in ("weight", "bias")
    }
    found = measure(module, before, same, x)
    assert abs(found.layers["hidden.0"]["turn_outputs"].value) < 1e-10 < found["turn"].value
    other = before | {
        "hidden.0.weight": before["hidden.0.weight"] @ torch.diag(torch.arange(4.0)).double()
    }
    found = measure(module, before, other, x)
    h0, h1 = (x @ p["hidden.0.weight"].mT / 2 for p in (before, other))
    want = 1 - kernels.centred_alignment(h0 @ h0.mT, h1 @ h1.mT).item()
    assert found["turn_hidden"].value == pytest.approx(want, rel=1e-6) and want > 1e-3
    assert "turn_outputs" not in found.layers["readout"]


def test_layers_whose_rows_are_not_the_examples_have_no_outputs_to_compare():
    """Time first, with as many steps as examples."""
    flip = Applied(lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1)))[-1]), a=nn.Linear(3, 5),
                   b=nn.Linear(5, 2)).double()  # fmt: skip
    before = {k: v.detach() for k, v in flip.named_parameters()}
    after = {k: v + normal(*v.shape) for k, v in before.items()}
    found = measure(flip, before, after, normal(20, 20, 3))
    assert "turn_hidden" not in found and list(found.layers) == ["a", "b"]


def test_rounding_is_no_laziness():
    """In single precision a network that is linear in its weights has an R that is not zero."""
    module = nn.Linear(4, 3)
    before = {k: p.detach() for k, p in module.named_parameters()}
    after = {k: v * (1 + 1e-4) for k, v in before.items()}
    low, high = measure(module, before, after, normal(30, 4).float())["nonlinear"][1:]
    assert low <= 0 < high < 0.1
