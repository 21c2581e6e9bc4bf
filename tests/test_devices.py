"""What depends on the device and the precision: the engine on one, against the CPU in double.

On $TANGENTS_DEVICE, or the CPU: there single precision is compared alone. Needs torch, numpy, scipy
and pytest, and no network.
"""

import os

import pytest
import torch

from tangents import infinite, models
from tangents.curvature import gauss_newton, output_hessian_norm
from tangents.descent import adam, descend, gradient_descent
from tangents.empirical import jacobian, ntk
from tangents.flow import GradientFlow, flow
from tangents.functional import flatten
from tangents.linearised import leap, spectrum
from tangents.losses import CROSS_ENTROPY, SQUARED
from tangents.relinearised import relinearise
from tangents.reversible import RevMLP, damped, right_inverse, truncated
from tests.cases import normal

DEVICE = os.environ.get("TANGENTS_DEVICE", "cpu")
SHARE = {torch.float64: 1e-9, torch.float32: 3e-3}  # of the largest entry
MLP, CONV = models.MLP(6, 16, 2, 3, "tanh"), models.ConvNet(1, 4, 2, "tanh")
ONE = models.MLP(6, 16, 2, 1, "tanh")
REVERSIBLE = RevMLP(6, 40, 2, 3, 0, "tanh")


class Setting:
    """Where and in which precision a case is computed; what it draws is the same everywhere."""

    def __init__(self, device, dtype):
        self.to = dict(device=device, dtype=dtype)

    def draw(self, *shape, seed=0):
        return normal(*shape, seed=seed).to(**self.to)

    def stack(self, module):
        return models.initialise_stack(module, [0, 1], self.to["dtype"], self.to["device"])

    @property
    def x(self):
        return self.draw(8, 6, seed=1)

    @property
    def y(self):
        return self.draw(8, 3, seed=2)

    @property
    def labels(self):
        return self.draw(8, seed=3).sign()

    def numbers(self, *values):
        return torch.tensor(values, **self.to)


def kernel(s, module, x, outputs):
    return ntk(module, s.stack(module), x, outputs=outputs)


def products(s):
    J = jacobian(CONV, s.stack(CONV), s.draw(3, 1, 28, 28, seed=4))
    u = s.draw(2, 3, 2, seed=5)
    return torch.cat([flatten(J.vjp(u)).flatten(), J.ntk_vp(u).flatten()])


def step(s, dense, loss):
    J = jacobian(MLP, s.stack(MLP), s.x)
    y = s.y.softmax(-1).expand_as(J.value)
    tolerance = 1e-10 if s.to["dtype"] == torch.float64 else 1e-4
    found = gauss_newton(J, y, loss, damping=0.1, dense=dense, tolerance=tolerance)
    return flatten(found.params)


def leapt(s):
    J = jacobian(MLP, s.stack(MLP), s.x)
    rate = s.numbers(1e-3, 2e-3)
    change, _ = leap(J, spectrum(J.gram()), J.value - s.y, rate, 100, memory=0.5)
    return flatten(change)


def rounds(s, loss):
    alpha, time = s.numbers(0.5, 2.0), s.numbers(0.2, 0.2)
    given = s.x, s.y.softmax(-1), alpha, [time] * 3
    *_, found = relinearise(MLP, s.stack(MLP), *given, rate=time / 20, loss=loss)
    return flatten(found.params)


def descent(s, rule):
    given = s.x, s.y, s.numbers(1.0, 2.0), SQUARED
    *_, found = descend(MLP, s.stack(MLP), *given, rule, steps=20)
    return flatten(found.params)


def flowed(s, implicit):
    given = s.x, s.labels, s.numbers(1.0, 3.0), s.numbers(0.01, 0.01), "square"
    states = flow(ONE, s.stack(ONE), *given, GradientFlow(implicit=implicit), max_steps=5)
    return torch.cat([state.loss for state in states])


def inverse(s, solver):
    net = REVERSIBLE.to(**s.to)
    params = {
        k: v.unsqueeze(0) for k, v in net.initial(1, 0.2, s.to["dtype"], s.to["device"]).items()
    }
    return flatten(right_inverse(net, params, s.x, s.y.unsqueeze(0), solver))


CASES = {
    "kernel of an MLP": lambda s: kernel(s, MLP, s.x, "full"),
    "trace of an MLP": lambda s: kernel(s, MLP, s.x, "trace"),
    "kernel of a ConvNet": lambda s: kernel(s, CONV, s.draw(3, 1, 28, 28, seed=4), "full"),
    "trace of a ConvNet": lambda s: kernel(s, CONV, s.draw(3, 1, 28, 28, seed=4), "trace"),
    "products": products,
    "dense step": lambda s: step(s, True, CROSS_ENTROPY),
    "step by products": lambda s: step(s, False, SQUARED),
    "leap": leapt,
    "rounds": lambda s: rounds(s, SQUARED),
    "rounds, cross-entropy": lambda s: rounds(s, CROSS_ENTROPY),
    "gradient descent": lambda s: descent(s, gradient_descent(0.05)),
    "Adam": lambda s: descent(s, adam(0.01)),
    "flow": lambda s: flowed(s, False),
    "implicit flow": lambda s: flowed(s, True),
    "reversible step": lambda s: inverse(s, damped(0.1)),
    "truncated step": lambda s: inverse(s, truncated(0.1)),
    "infinite width": lambda s: torch.stack(infinite.fully_connected(s.x)),
    "Hessian": lambda s: output_hessian_norm(ONE, s.stack(ONE), s.x, tolerance=1e-5),
}


@pytest.fixture(autouse=True)
def exact_products():
    """Products in true single precision."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("dtype", SHARE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_device_and_precision_change_rounding_alone(name, dtype):
    want = CASES[name](Setting("cpu", torch.float64))
    found = CASES[name](Setting(DEVICE, dtype))
    assert found.device.type == torch.device(DEVICE).type and found.dtype == dtype
    error = (found.cpu().double() - want).abs().max() / want.abs().max()
    assert error <= SHARE[dtype], f"{error:.2g} of the largest entry"


def test_a_kernel_stays_on_its_device_in_a_budget():
    s = Setting(DEVICE, torch.float32)
    whole = ntk(MLP, s.stack(MLP), s.x)
    parts = ntk(MLP, s.stack(MLP), s.x, budget=1e4)
    assert parts.device == whole.device
    assert (whole - parts).abs().max() <= 1e-4 * whole.abs().max()
