"""What is measured on networks: errors, and speeds at a point of training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangents.functional import Params


def error_rate(output: Float[Tensor, "*b n"], y: Float[Tensor, " n"]) -> Float[Tensor, "*b"]:
    """Share of examples whose output has not the sign of the label; zero and NaN are wrong."""
    return (~(output * y > 0)).to(output.dtype).mean(-1)


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
        try:
            torch.func.functional_call(module, p, (x,))
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(seen)

    _, velocity = torch.func.jvp(preactivations, (params,), (direction,))
    return torch.stack([v.flatten(1).square().mean(-1) for v in velocity]).mean(0).sqrt()
