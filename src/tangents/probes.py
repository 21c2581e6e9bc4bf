"""What is measured on networks: errors, and speeds at a point of training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangents.functional import Params, call, hooked


def error_rate(output: Float[Tensor, "*b n"], y: Float[Tensor, " n"]) -> Float[Tensor, "*b"]:
    """Share of examples whose output has not the sign of the label; zero and NaN are wrong."""
    return (~(output * y > 0)).to(output.dtype).mean(-1)


def misclassified(output: Float[Tensor, "n c"], y: Float[Tensor, "n c"]) -> float:
    """Share of examples whose class, that of the largest target, has not the largest output."""
    return (output.argmax(-1) != y.argmax(-1)).double().mean().item()


def rms(x: Tensor) -> Float[Tensor, " b"]:
    """Root mean square over all but the leading axis."""
    return x.flatten(1).square().mean(-1).sqrt()


def preactivation_velocity(
    module: nn.Module, params: Params, x: Tensor, direction: Params
) -> Float[Tensor, " b"]:
    """Rms over hidden units and examples of dz/dt when dw/dt = `direction`, for a stack: (b,).

    The layers of `module.hidden` count, all alike. Source: Geiger et al. (2019), section 4.
    """

    def preactivations(p: Params) -> tuple[Tensor, ...]:
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _, __, z: seen.append(z)) for layer in module.hidden
        ]
        with hooked(hooks):
            call(module, p, x)
        return tuple(seen)

    _, velocity = torch.func.jvp(preactivations, (params,), (direction,))
    return torch.stack([v.flatten(1).square().mean(-1) for v in velocity]).mean(0).sqrt()


def unit_gradients(module: nn.Module, params: Params, x: Tensor) -> list[Tensor]:
    """df/da_l, one tensor (b, n, units) for each layer l of `module.hidden`, for a stack.

    a_l is what layer l + 1, in the end the read-out, takes in; f has one output. These are the
    vectors whose largest entry bounds the Hessian (Liu, Zhu & Belkin 2020).
    """
    seen: list[Tensor] = []

    def remember(_, inputs):
        seen.append(inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_())

    layers = [*module.hidden, module.readout][1:]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with hooked(hooks), torch.enable_grad():
        total = call(module, leaves, x).sum()
    return list(torch.autograd.grad(total, seen))


def state_singular_values(module: nn.Module, params: Params, x: Tensor) -> Float[Tensor, "b n w"]:
    """Singular values of da_L/da_1, the last hidden state by the first, for a stack, descending.

    `module.hidden` has layers of one width w, x is (n, d). All are one at dynamical isometry.
    Source: Saxe et al. (2014), section 3; Pennington et al. (2017), section 2.
    """
    seen: dict[str, Tensor] = {}
    layers = dict(first=[*module.hidden, module.readout][1], last=module.readout)
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, k=k: seen.__setitem__(k, inputs[0]))
        for k, layer in layers.items()
    ]
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with hooked(hooks), torch.enable_grad():
        call(module, leaves, x)
    last, first = seen["last"], seen["first"]
    units = torch.eye(last.shape[-1], dtype=last.dtype, device=last.device)
    ones = units[:, None, None].expand(-1, *last.shape)
    (slopes,) = torch.autograd.grad(last, first, ones, is_grads_batched=True)
    return torch.linalg.svdvals(slopes.permute(1, 2, 0, 3))
