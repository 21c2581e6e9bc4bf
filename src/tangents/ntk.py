"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of a network, J = df/dparameters.

A linear layer z = s W a + b contributes to the row of example i the outer product of a *signal*
df/dz_i and its input s a_i (the bias: the signal alone). Row times row is then a product of two
small Gram matrices, and neither the Jacobian nor a per-example gradient is formed:
Theta = sum over layers of (B B'^T) * (A A'^T + 1), the identity of Novak et al. (2022), section 3.
A convolution contributes its per-example gradients. Everything takes a stack of networks too.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tangents.functional import Params


@dataclass(frozen=True)
class Factor:
    """One layer's columns of J: row i is the outer product s b_i a_i^T, and b_i for a bias."""

    weight: str
    bias: str | None
    shape: tuple[int, ...]  # of the weight, which the (o, i) outer product is reshaped to
    scale: float  # s in z = s W a + b
    a: Float[Tensor, "*b n i"]
    b: Float[Tensor, "*b n o"]


@dataclass(frozen=True)
class Tangent:
    """The Jacobian J (n, p) of one output at one set of parameters, in factored form.

    `value` (n,) is the output itself. For a stack of b networks: (b, n, p) and (b, n).
    """

    value: Float[Tensor, "*b n"]
    factors: tuple[Factor, ...]

    def gram(self, other: "Tangent | None" = None) -> Float[Tensor, "*b n m"]:
        """J J'^T (n, m), with the Jacobian at other inputs or of another output; J J^T without."""
        other = other or self
        return sum(
            (f.b @ g.b.mT) * (f.scale * g.scale * (f.a @ g.a.mT) + (f.bias is not None))
            for f, g in zip(self.factors, other.factors, strict=True)
        )

    def diagonal(self) -> Float[Tensor, "*b n"]:
        """|J_i|^2 for each row: the diagonal of the gram."""
        return sum(
            torch.linalg.vecdot(f.b, f.b)
            * (f.scale**2 * torch.linalg.vecdot(f.a, f.a) + (f.bias is not None))
            for f in self.factors
        )

    def forward(self, v: Params) -> Float[Tensor, "*b n"]:
        """J v, the change of the output per unit step along v."""
        total = 0
        for f in self.factors:
            matrix = v[f.weight].reshape(*f.b.shape[:-2], f.b.shape[-1], f.a.shape[-1])
            z = f.a @ (f.scale * matrix.mT)
            if f.bias is not None:
                z = z + v[f.bias].unsqueeze(-2)
            total = total + torch.linalg.vecdot(z, f.b)
        return total

    def backward(self, u: Float[Tensor, "*b n"]) -> Params:
        """J^T u, the gradient of <u, f>."""
        out = {}
        for f in self.factors:
            weighted = f.b * u.unsqueeze(-1)
            out[f.weight] = (weighted.mT @ f.a).mul_(f.scale).reshape(*f.b.shape[:-2], *f.shape)
            if f.bias is not None:
                out[f.bias] = weighted.sum(-2)
        return out

    def map(self, function, *others: "Tangent") -> "Tangent":
        """`function` of the value and of each factor's tensors (and of those of the others)."""
        factors = (
            Factor(
                f[0].weight,
                f[0].bias,
                f[0].shape,
                f[0].scale,
                function(*(g.a for g in f)),
                function(*(g.b for g in f)),
            )
            for f in zip(self.factors, *(o.factors for o in others), strict=True)
        )
        return Tangent(function(self.value, *(o.value for o in others)), tuple(factors))


def tangents(module: nn.Module, params: Params, x: Tensor) -> list[Tangent]:
    """The factored Jacobian of each of the c outputs at x (n, ...): one pass forward, c back.

    Raises ValueError, naming the layer, where the factors would not be the Jacobian: parameters
    outside Linear and Conv2d layers or shared by two, a subclass that does not state its `scale`, a
    layer not called exactly once with one vector or image an example, an output changed in place.
    """
    layers = _layers(module)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name):
        def hook(layer, inputs, output):
            _require(name not in seen, f"layer {name!r} is called more than once")
            one = output.dim() == layer.weight.dim()
            _require(one, f"layer {name!r} has several positions an example")
            seen[name] = (inputs[0].detach(), output)

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            f = torch.func.functional_call(module, leaves, (x,))
            for name in layers:
                _require(name in seen, f"layer {name!r} is never called")
                changed = seen[name][1]._version > 0
                _require(not changed, f"the output of layer {name!r} is changed in place")
            outputs = [seen[name][1] for name in seen]
            ones = torch.ones_like(f[..., 0])
            c = f.shape[-1]
            signals = [
                torch.autograd.grad(f[..., k], outputs, ones, retain_graph=k + 1 < c)
                for k in range(c)
            ]
    finally:
        for handle in handles:
            handle.remove()
    f = f.detach()
    return [
        Tangent(
            f[..., k],
            tuple(
                factor
                for name, b in zip(seen, signals[k], strict=True)
                for factor in _factors(name, layers[name], params, seen[name][0], b)
            ),
        )
        for k in range(c)
    ]


def ntk(
    module: nn.Module, params: Params, x1: Tensor, x2: Tensor | None = None
) -> Float[Tensor, "*b n m c c"]:
    """The empirical tangent kernel Theta (n, m, c, c) between inputs x1 (n, ...) and x2 (m, ...).

    Without `x2`, between x1 and itself. For a stack of b networks (b, n, m, c, c). Raises
    ValueError for layers without a structured form, as `tangents`. Source: Jacot et al. (2018).
    """
    t1 = tangents(module, params, x1)
    t2 = t1 if x2 is None else tangents(module, params, x2)
    return torch.stack([torch.stack([a.gram(b) for b in t2], -1) for a in t1], -2)


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    layers, owner = {}, {}
    for name, layer in module.named_modules():
        own, kind = list(layer.parameters(recurse=False)), type(layer)
        scaled = isinstance(layer, nn.Linear | nn.Conv2d) and hasattr(layer, "scale")
        known = kind in (nn.Linear, nn.Conv2d) or scaled
        _require(known or not own, f"layer {name or 'root'!r} ({kind.__name__}) is not supported")
        for p in own:
            first = owner.setdefault(p, name)
            _require(first == name, f"layers {first!r} and {name!r} share a parameter")
        if known:
            layers[name] = layer
    return layers


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"ntk: {message}; accepted are Linear and Conv2d layers, each called once")


def _factors(name, layer, params, x, b):
    weight = f"{name}.weight" if name else "weight"
    bias = weight.removesuffix("weight") + "bias" if layer.bias is not None else None
    scale = getattr(layer, "scale", 1.0)
    shape = tuple(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        return [Factor(weight, bias, shape, scale, x.expand(*b.shape[:-1], -1), b)]
    per_example = _conv_gradients(layer, x, b).flatten(-4)
    ones = torch.ones_like(per_example[..., :1])
    found = [Factor(weight, None, shape, scale, ones, per_example)]
    return found + ([Factor(bias, None, shape[:1], 1.0, ones, b.sum((-2, -1)))] if bias else [])


def _conv_gradients(layer: nn.Conv2d, x: Tensor, b: Tensor) -> Tensor:
    """Per-example gradients (..., n, o, i, k, k) of an ungrouped convolution."""
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    _require(plain, "convolutions grouped, or padded by a mode or a word, are not supported")
    k = layer.kernel_size
    patches = F.unfold(x.flatten(0, -4), k, layer.dilation, layer.padding, layer.stride)
    patches = patches.unflatten(0, x.shape[:-3])  # (..., n, i k k, positions)
    g = b.flatten(-2) @ patches.mT
    return g.unflatten(-1, (math.prod(x.shape[-3:-2]), *k))
