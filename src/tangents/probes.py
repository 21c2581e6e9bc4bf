"""What is measured on networks: errors, and speeds at a point of training."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tangents import checks
from tangents.functional import Params, axpy, call, difference, hooked, kinds, require, stacks
from tangents.inputs import taken


def error_rate(output: Float[Tensor, "*b n"], y: Float[Tensor, " n"]) -> Float[Tensor, "*b"]:
    """Share of examples whose output has not the sign of the label; zero and NaN are wrong.

    ValueError for labels that do not fit, or have no sign.
    """
    checks.reals(output=output)
    checks.kind("y", y)
    checks.shaped("y", y, *output.shape[-1:])
    checks.finite(y=y)
    require(bool((y != 0).all()), "labels must have a sign, as -1 and 1, and some are 0")
    return (~(output * y > 0)).to(output.dtype).mean(-1)


def misclassified(output: Float[Tensor, "*b n c"], y: Float[Tensor, "n c"]) -> Float[Tensor, "*b"]:
    """Share of examples whose class, that of the largest target, has not the largest output; NaN is
    wrong. ValueError for targets that do not fit."""
    checks.reals(output=output)
    checks.kind("y", y)
    checks.shaped("y", y, *output.shape[-2:])
    require(y.dim() == 2 and y.shape[1] > 1, f"y must be (n, c) of classes, got {tuple(y.shape)}")
    checks.finite(y=y)
    wrong = output.argmax(-1) != y.argmax(-1)
    return (wrong | output.isnan().any(-1)).double().mean(-1)


def rms(x: Tensor) -> Float[Tensor, " b"]:
    """Root mean square over all but the leading axis."""
    checks.reals(x=x)
    require(x.dim() > 1, f"rms takes a leading axis and others, got {tuple(x.shape)}")
    return x.flatten(1).square().mean(-1).sqrt()


def preactivations(module: nn.Module, params: Params, x: Tensor) -> list[Float[Tensor, "b n ..."]]:
    """What comes out of each layer of `module.hidden`, for a stack."""
    _require_states(module, x, params=params)
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, z: seen.append(z)) for layer in module.hidden
    ]
    with hooked(hooks), taken(x):
        call(module, params, x)
    return seen


def patterns(module: nn.Module, params: Params, x: Tensor) -> Bool[Tensor, "b n u"]:
    """Which of all u hidden units are above zero at each example, for a stack."""
    return torch.cat([(z > 0).flatten(2) for z in preactivations(module, params, x)], -1)


def pattern_distance(a: Bool[Tensor, "*b n u"], b: Bool[Tensor, "*b n u"]) -> Float[Tensor, "*b"]:
    """Share of units and examples at which two `patterns` differ (Hamming; Fort et al. 2020)."""
    for name, v in dict(a=a, b=b).items():
        checks.kind(name, v)
        require(v.dtype == torch.bool, f"{name} must hold booleans, got {v.dtype}")
    checks.shaped("b", b, *a.shape)
    require(a.dim() > 1, f"patterns are (n, u) or a stack of such, got {tuple(a.shape)}")
    return (a ^ b).double().mean((-2, -1))


def barrier(
    risk: Callable[[Params], Float[Tensor, " b"]], params: Params, other: Params, points: int = 5
) -> Float[Tensor, " b"]:
    """max over a of R(a w + (1 - a) w') - (R(w) + R(w')) / 2, pair by pair of two stacks.

    a runs over the ends and `points` places between, at equal distances, so that it is never below
    zero. Source: Frankle et al. (2020), section 2; Fort et al. (2020), on the error barrier.
    """
    checks.sizes(points=points)
    shapes = kinds("params", params)
    fits = shapes == kinds("other", other) and len({shape[:1] for shape, _ in shapes.values()}) == 1
    require(fits, "params and other must be stacks of the same names, shapes and types")
    way = difference(other, params)
    some = next(iter(way.values()))
    places = torch.linspace(0, 1, points + 2).tolist()
    risks = torch.stack([risk(axpy(some.new_full((len(some),), a), way, params)) for a in places])
    return risks.amax(0) - (risks[0] + risks[-1]) / 2


def preactivation_velocity(
    module: nn.Module, params: Params, x: Tensor, direction: Params
) -> Float[Tensor, " b"]:
    """Rms over hidden units and examples of dz/dt when dw/dt = `direction`, for a stack: (b,).

    The layers of `module.hidden` count, all alike. Source: Geiger et al. (2019), section 4.
    """
    _require_states(module, x, params=params, direction=direction)

    def seen(p: Params) -> tuple[Tensor, ...]:
        return tuple(preactivations(module, p, x))

    _, velocity = torch.func.jvp(seen, (params,), (direction,))
    return torch.stack([v.flatten(1).square().mean(-1) for v in velocity]).mean(0).sqrt()


def unit_gradients(module: nn.Module, params: Params, x: Tensor) -> list[Tensor]:
    """df/da_l, one tensor (b, n, units) for each layer l of `module.hidden`, for a stack.

    a_l is what layer l + 1, in the end the read-out, takes in; f has one output. These are the
    vectors whose largest entry bounds the Hessian (Liu, Zhu & Belkin 2020).
    """
    _require_states(module, x, params=params)
    seen: list[Tensor] = []

    def remember(_, inputs):
        seen.append(inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_())

    layers = [*module.hidden, module.readout][1:]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with hooked(hooks), torch.enable_grad(), taken(x):
        f = call(module, leaves, x)
    require(f.shape[2:].numel() == 1, f"the network must have one output, got {tuple(f.shape[2:])}")
    return list(torch.autograd.grad(f.sum(), seen))


def state_singular_values(module: nn.Module, params: Params, x: Tensor) -> Float[Tensor, "b n w"]:
    """Singular values of da_L/da_1, the last hidden state by the first, for a stack, descending.

    `module.hidden` has layers of one width w, x is (n, d). All are one at dynamical isometry.
    Source: Saxe et al. (2014), section 3; Pennington et al. (2017), section 2.
    """
    _require_states(module, x, params=params)
    seen: dict[str, Tensor] = {}
    layers = dict(first=[*module.hidden, module.readout][1], last=module.readout)
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, k=k: seen.__setitem__(k, inputs[0]))
        for k, layer in layers.items()
    ]
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with hooked(hooks), torch.enable_grad(), taken(x):
        call(module, leaves, x)
    last, first = seen["last"], seen["first"]
    got = f"{tuple(first.shape)} and {tuple(last.shape)}"
    require(last.shape == first.shape and last.dim() == 3, f"the first and the last hidden state "
            f"must be (b, n, w) both, got {got}")  # fmt: skip
    units = torch.eye(last.shape[-1], dtype=last.dtype, device=last.device)
    ones = units[:, None, None].expand(-1, *last.shape)
    (slopes,) = torch.autograd.grad(last, first, ones, is_grads_batched=True)
    return torch.linalg.svdvals(slopes.permute(1, 2, 0, 3))


def _require_states(module: nn.Module, x: Tensor, **given: Params) -> None:
    """ValueError for what has no hidden layers, no stack, and inputs that are not finite."""
    stacks(module, **given)
    hidden = hasattr(module, "hidden") and hasattr(module, "readout")
    require(hidden, f"a {type(module).__name__} has no layers `hidden` and `readout`: accepted are "
            "MLP, ResNet and ConvNet of `models`")  # fmt: skip
    checks.examples(x=x)
