"""Arithmetic on stacks against the same sums written out; linearisation against its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangents import functional, models
from tests.cases import CASES, STACKS, all_close, close, flat, like, name, normal

SEEDS = st.integers(0, 10**6)
SIZES = st.integers(1, 4)


def tensors(b, seed):
    return {"w": normal(b, 2, 3, seed=seed), "b": normal(b, 3, seed=seed + 1)}


@given(b=SIZES, seed=SEEDS)
def test_reductions_stay_within_each_network(b, seed):
    x, y = tensors(b, seed), tensors(b, seed + 5)
    close(functional.inner(x, y), (flat(x, 1) * flat(y, 1)).sum(-1))
    close(functional.norm(x), torch.linalg.vector_norm(flat(x, 1), dim=-1))


@given(b=SIZES, seed=SEEDS)
def test_rows_of_parameters_and_back(b, seed):
    x = tensors(b, seed)
    rows = functional.flatten(x)
    assert torch.equal(rows, flat(x, 1))
    back = functional.unflatten(rows, x)
    assert all(torch.equal(back[k], x[k]) for k in x)


@given(b=SIZES, seed=SEEDS)
def test_axpy_scales_each_network_by_its_own(b, seed):
    x, y, scale = tensors(b, seed), tensors(b, seed + 5), normal(b, seed=seed)
    got = functional.axpy(scale, x, y)
    close(flat(got, 1), flat(y, 1) + scale[:, None] * flat(x, 1))
    all_close(functional.difference(got, y), functional.axpy(scale - 1, x, x))


@given(mask=st.lists(st.booleans(), min_size=1, max_size=4), seed=SEEDS)
def test_where_and_select_pick_whole_networks(mask, seed):
    yes, no = tensors(len(mask), seed), tensors(len(mask), seed + 5)
    got = functional.where(torch.tensor(mask), yes, no)
    for i, chosen in enumerate(mask):
        want = functional.select(yes if chosen else no, i)
        assert all(torch.equal(functional.select(got, i)[k], want[k]) for k in want)


def test_stack_and_select_are_inverse():
    networks = [tensors(1, seed) for seed in range(3)]
    stacked = functional.stack(networks)
    assert stacked["w"].shape == (3, 1, 2, 3)
    for i, network in enumerate(networks):
        assert all(torch.equal(functional.select(stacked, i)[k], network[k]) for k in network)
    last = functional.select(stacked, torch.tensor([2, 0]))
    assert torch.equal(last["b"], stacked["b"][[2, 0]])


def test_an_empty_stack_is_refused():
    with pytest.raises(ValueError, match=r"^stack: got no network"):
        functional.stack([])


@pytest.mark.parametrize("case", STACKS, ids=name)
def test_the_centred_predictor_is_zero_at_the_start(case):
    f, x = models.apply(case.module), case.x(3)
    params0, params, alpha = case.stack(0, 1), case.stack(2, 3), torch.tensor([2.0, 50.0])
    scale = alpha.double().view(2, 1, 1)
    F = functional.centre_and_scale(f, params0, scale)
    assert F(params0, x).abs().max() == 0
    close(F(params, x)[1], 50 * (f(params, x)[1] - f(params0, x)[1]))
    close(F(params, x)[0], 2 * (f(params, x)[0] - f(params0, x)[0]))


def test_linearisation_is_exact_for_a_function_affine_in_its_parameters():
    module, x = models.Linear(3, 2), normal(4, 3)
    params0, params = ({"weight": normal(2, 3, seed=s), "bias": normal(2, seed=s)} for s in (1, 2))
    close(functional.linearise(module, params0)(params, x), models.apply(module)(params, x))


SMOOTH = [case for case in CASES if "relu" not in case.name and case.name != "convnet"]


@pytest.mark.parametrize("case", STACKS, ids=name)
def test_the_linearised_module_is_a_network_whose_gradient_is_that_at_the_anchor(case):
    """J^T u at every point, of one network and of a stack."""
    for params0 in (case.params(0), case.stack(0, 1)):
        module, x = functional.Linearised(case.module, params0), case.x(2)
        params = {
            k: v + d for (k, v), d in zip(params0.items(), like(params0, 3).values(), strict=True)
        }
        leaves = {k: v.requires_grad_() for k, v in module.named(params).items()}
        found = torch.func.functional_call(module, leaves, (x,))
        close(found, functional.linearise(case.module, params0)(params, x))
        u = normal(*found.shape, seed=5)
        got = torch.autograd.grad((u * found).sum(), list(leaves.values()))
        _, pull = torch.func.vjp(lambda p, x=x: models.apply(case.module)(p, x), params0)
        all_close(dict(zip(params, got, strict=True)), pull(u)[0])


@pytest.mark.parametrize("case", SMOOTH, ids=name)
def test_linearisation_errs_at_second_order(case):
    f, x, params0 = models.apply(case.module), case.x(3), case.params()
    v = like(params0, seed=3)
    f_lin = functional.linearise(case.module, params0)
    if case.name == "one linear layer":
        pytest.skip("affine")

    def error(step):
        params = {k: params0[k] + step * v[k] for k in v}
        return (f(params, x) - f_lin(params, x)).norm().item()

    assert f_lin(params0, x).equal(f(params0, x))
    assert error(1e-4) / error(5e-5) == pytest.approx(4, rel=0.02)
