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
    def of(cls, module: nn.Module, params: Params) -> "Chain | None":
        """An `MLP` of ReLUs, or a sequence of `models.Linear` and ReLUs, without hooks.

        None for all else, as for layers that share a parameter or have one that is not in `params`.
        """
        if type(module) is models.MLP and module.activation is models.relu:
            found = [(f"hidden.{i}", layer) for i, layer in enumerate(module.hidden)]
            layers, gain = (*found, ("readout", module.readout)), models.RELU_GAIN
        elif type(module) is nn.Sequential and all(type(v) is nn.ReLU for v in module[1::2]):
            layers, gain = tuple(module._modules.items())[::2], 1.0
            if len(module) % 2 == 0:
                return None
        else:
            return None
        names = set()
        for name, layer in layers:
            plain = isinstance(layer, models.Linear)
            if not plain or type(layer).forward is not models.Linear.forward:
                return None
            names |= {f"{name}.weight"} | ({f"{name}.bias"} if layer.bias is not None else set())
        hooks = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        alone = len(names) == len(list(module.parameters()))
        return cls(layers, gain) if names == params.keys() and alone and not hooks else None

    @torch.no_grad()
    def __call__(
        self, params: Params, x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "b n c"], Callable[[Float[Tensor, "b n c"]], Params]]:
        """The outputs of b networks, and what takes signals u to the gradient of <u, f>, once."""
        kept, f = [], x
        for k, (name, layer) in enumerate(self.layers):
            if k:
                f = f.relu_() if self.gain == 1 else f.relu_().mul_(self.gain)
            kept.append(f)
            f = models.affine(f, params[f"{name}.weight"], params.get(f"{name}.bias"), layer.scale)

        @torch.no_grad()
        def pull(u: Tensor) -> Params:
            found = {}
            for k, (name, layer) in reversed(list(enumerate(self.layers))):
                a, weight = kept.pop(), params[f"{name}.weight"]
                if layer.bias is not None:
                    found[f"{name}.bias"] = u.sum(-2)
                if k == 0:  # quicker so for few inputs
                    found[f"{name}.weight"] = (x.mT @ u).mT.mul_(layer.scale)
                    break
                found[f"{name}.weight"] = (u.mT @ a).mul_(layer.scale)
                weight = weight * (layer.scale * self.gain)
                u = u * weight if weight.shape[-2] == 1 else torch.bmm(u, weight)
                torch.ops.aten.threshold_backward.grad_input(u, a, 0.0, grad_input=u)
            return {k: found[k] for k in params}

        return f, pull
