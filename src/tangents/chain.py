"""Passes forward and back through stacks of fully connected ReLU networks, written out.

Automatic differentiation puts each result into memory of its own. Where networks are small, filling
that takes as long as the products of matrices do; here each layer's output and each gradient is
written once and then changed in place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangents import models
from tangents.functional import Params


@dataclass(frozen=True)
class Chain:
    """Linear layers, and between them a ReLU times `gain`."""

    layers: tuple[tuple[str, models.Linear], ...]
    gain: float

    @classmethod
    def of(cls, module: nn.Module) -> "Chain | None":
        """An `MLP` of ReLUs, or a sequence of linear layers and ReLUs; None for all else."""
        if type(module) is models.MLP and module.activation is models.relu:
            found = [(f"hidden.{i}", layer) for i, layer in enumerate(module.hidden)]
            return cls((*found, ("readout", module.readout)), models.RELU_GAIN)
        if type(module) is not nn.Sequential or len(module) % 2 == 0:
            return None
        layers = tuple(module._modules.items())[::2]
        linear = all(
            isinstance(layer, models.Linear) and type(layer).forward is models.Linear.forward
            for _, layer in layers
        )
        relu = all(type(layer) is nn.ReLU for layer in module[1::2])
        once = len({p for _, layer in layers for p in (layer, *layer.parameters())})
        alone = once == sum(1 + len(list(layer.parameters())) for _, layer in layers)
        return cls(layers, 1.0) if linear and relu and alone else None

    @torch.no_grad()
    def __call__(
        self, params: Params, x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "b n c"], Callable[[Float[Tensor, "b n c"]], Params]]:
        """The outputs of b networks, and what takes signals u to the gradient of <u, f>, once."""
        kept, f = [], x.expand(len(next(iter(params.values()))), *x.shape)
        for k, (name, layer) in enumerate(self.layers):
            kept.append(f.relu_() if k else f)
            f = torch.bmm(f, params[f"{name}.weight"].mT * self._scale(k))
            if layer.bias is not None:
                f.add_(params[f"{name}.bias"].unsqueeze(-2))

        @torch.no_grad()
        def pull(u: Tensor) -> Params:
            found = {}
            for k, (name, layer) in reversed(list(enumerate(self.layers))):
                if layer.bias is not None:
                    found[f"{name}.bias"] = u.sum(-2)
                a, weight = kept.pop(), params[f"{name}.weight"] * self._scale(k)
                if k:
                    found[f"{name}.weight"] = (u.mT @ a).mul_(self._scale(k))
                    u = u * weight if weight.shape[-2] == 1 else torch.bmm(u, weight)
                    torch.ops.aten.threshold_backward.grad_input(u, a, 0.0, grad_input=u)
                else:  # quicker so for few inputs
                    found[f"{name}.weight"] = (x.mT @ u).mT.mul_(self._scale(k))
            return {k: found[k] for k in params}

        return f, pull

    def _scale(self, k: int) -> float:
        return self.layers[k][1].scale * (self.gain if k else 1.0)
