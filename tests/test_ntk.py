"""The factored Jacobian against dense automatic differentiation, for every network of the table."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, jvp, vjp

from tangents import models
from tangents.functional import select
from tangents.ntk import ntk, tangents
from tests.cases import CASES, STACKS, all_close, close, flat, like, name, normal

every_case = pytest.mark.parametrize("case", CASES, ids=name)


def jacobian(module, params, x):
    """(n, c, p), by reverse mode, one output at a time."""
    return flat(jacrev(lambda p: functional_call(module, p, (x,)))(params), 2)


@every_case
def test_kernel_is_jacobian_times_jacobian(case):
    params, x1, x2 = case.params(), case.x(3), case.x(2, seed=1)
    J1, J2 = (jacobian(case.module, params, x) for x in (x1, x2))
    close(ntk(case.module, params, x1, x2), torch.einsum("icp,jdp->ijcd", J1, J2))
    close(ntk(case.module, params, x1), torch.einsum("icp,jdp->ijcd", J1, J1))


@every_case
def test_tangent_is_the_jacobian(case):
    params, x = case.params(), case.x(4)
    J = jacobian(case.module, params, x)
    f, v, u = (lambda p: functional_call(case.module, p, (x,))), like(params), normal(4, seed=5)
    for k, tangent in enumerate(tangents(case.module, params, x)):
        close(tangent.value, f(params)[:, k])
        close(tangent.forward(v), jvp(f, (params,), (v,))[1][:, k])
        back = vjp(lambda p, k=k: f(p)[:, k], params)[1](u)[0]
        all_close(tangent.backward(u), {name: back[name] for name in tangent.backward(u)})
        assert tangent.backward(u).keys() == params.keys()
        close(tangent.diagonal(), J[:, k].square().sum(-1))
        close(tangent.gram(), J[:, k] @ J[:, k].T)
        close(tangent.map(lambda t: t[:2]).gram(tangent), J[:2, k] @ J[:, k].T)


@pytest.mark.parametrize("case", STACKS, ids=name)
def test_stack_is_its_networks(case):
    params, x, x2 = case.stack(0, 1, 2), case.x(3), case.x(2, seed=1)
    kernel, (tangent, *_) = ntk(case.module, params, x, x2), tangents(case.module, params, x)
    v, u = like(params), normal(3, 3, seed=4)
    for i in range(3):
        one = select(params, i)
        alone = tangents(case.module, one, x)[0]
        close(kernel[i], ntk(case.module, one, x, x2))
        close(tangent.value[i], alone.value)
        close(tangent.gram()[i], alone.gram())
        close(tangent.diagonal()[i], alone.diagonal())
        close(tangent.forward(v)[i], alone.forward(select(v, i)))
        all_close(select(tangent.backward(u), i), alone.backward(u[i]))


@pytest.mark.parametrize("case", STACKS, ids=name)
def test_forward_and_backward_are_adjoint(case):
    params = case.stack(0, 1)
    v, u = like(params), normal(2, 4, seed=5)
    for t in tangents(case.module, params, case.x(4)):
        close((t.forward(v) * u).sum(-1), (flat(v, 1) * flat(t.backward(u), 1)).sum(-1), 1e4)


def test_nothing_is_left_behind():
    module, params = models.MLP(3, 4, 1), models.initialise(models.MLP(3, 4, 1), 0)
    with torch.no_grad():
        (tangent,) = tangents(module, params, normal(2, 3))
    held = [tangent.value, *(f.a for f in tangent.factors), *(f.b for f in tangent.factors)]
    assert not any(t.requires_grad for t in held)
    assert not any(layer._forward_hooks for layer in module.modules())


# ---- what is refused, because its factors would not be the Jacobian


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = models.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = models.Linear(3, 1), models.Linear(3, 1)

    def forward(self, x):
        return self.used(x)


class Louder(nn.Linear):
    """Scales its output and does not say so."""

    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    net = nn.Sequential(models.Linear(3, 3), nn.Tanh(), models.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


REFUSED = {
    "normalisation": (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "'1' .LayerNorm"),
    "bare parameter": (lambda: nn.PReLU(), "'root' .PReLU"),
    "called twice": (Twice, "'layer' is called more than once"),
    "never called": (Idle, "'idle' is never called"),
    "hidden scale": (lambda: Louder(3, 1), "'root' .Louder. is not supported"),
    "tied weights": (tied, "'0' and '2' share a parameter"),
    "changed in place": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1)),
        "'0' is changed in place",
    ),
    "several positions": (
        lambda: nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 2), nn.Flatten()),
        "'1' has several positions an example",
    ),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 3, 1, groups=3)),
        "convolutions grouped",
    ),
}


@pytest.mark.parametrize("build, message", REFUSED.values(), ids=REFUSED)
def test_other_layers_are_refused_by_name(build, message):
    module = build()
    params = {k: p.detach() for k, p in module.named_parameters()}
    with pytest.raises(ValueError, match=f"^ntk: .*{message}") as error:
        ntk(module, params, torch.ones(2, 3))
    assert "\n" not in str(error.value)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_hooks_go_when_the_network_fails():
    module = models.MLP(3, 4, 1)
    with pytest.raises(RuntimeError):
        ntk(module, models.initialise(module, 0), normal(2, 5))
    assert not any(layer._forward_hooks for layer in module.modules())


def test_a_scale_that_is_stated_counts():
    layer = models.Linear(3, 1, bias=False)
    x = normal(4, 3)
    close(ntk(layer, {"weight": normal(1, 3)}, x)[..., 0, 0], x @ x.T / 3)
