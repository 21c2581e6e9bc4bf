"""Networks in the NTK parametrisation: entries N(0, 1), forward pass scaled by 1/sqrt(fan-in).

Each module takes ordinary parameters or a stack of b networks on a leading axis (through
``torch.func.functional_call``); a stack maps inputs (n, ...) to outputs (b, n, c).
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tangents import checks
from tangents.functional import Function, Params, call, require, stack

# a in sigma(z) = (a / beta) log(1 + exp(beta z)) at beta = 5, so that E[sigma(z)^2] = 1 for a
# standard normal z; a test recomputes it by quadrature. Geiger et al. (2020), section 2.1.
SOFTPLUS_BETA, SOFTPLUS_GAIN = 5.0, 1.40438
RELU_GAIN = math.sqrt(2.0)


def softplus(z: Tensor) -> Tensor:
    """Softplus with unit second moment under N(0, 1) (Geiger et al. 2020, section 2.1)."""
    # torch returns z itself beyond the threshold: at 40 that is exact in float64
    return SOFTPLUS_GAIN * F.softplus(z, beta=SOFTPLUS_BETA, threshold=40.0)


def relu(z: Tensor) -> Tensor:
    """sqrt(2) max(0, z), with unit second moment under N(0, 1)."""
    return RELU_GAIN * F.relu(z)


def linear(z: Tensor) -> Tensor:
    """z, of a network that is linear in its input."""
    return z


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": softplus,
    "relu": relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "linear": linear,
}

# What a read-out may pass through; "softmax" takes two outputs to p_2 - p_1, the others any number.
HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "softmax": lambda z: _two(z).softmax(-1).diff(dim=-1),
}


def _two(z: Tensor) -> Tensor:
    require(z.shape[-1] == 2, f"the softmax head takes two outputs, got {z.shape[-1]}")
    return z


def affine(
    x: Float[Tensor, "... n d"],
    weight: Float[Tensor, "b c d"],
    bias: Float[Tensor, "b c"] | None,
    scale: float,
) -> Float[Tensor, "b n c"]:
    """scale W x + bias for b networks, x shared by them or (b, n, d)."""
    x = x.expand(len(weight), *x.shape[-2:])
    if bias is None:
        return torch.bmm(x, weight.mT * scale)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT, alpha=scale)


class Linear(nn.Linear):
    """z = W x / sqrt(fan-in) + b. Weights (c, d) or, stacked, (b, c, d)."""

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.dim() == 2:
            return F.linear(x * self.scale, weight, self.bias)
        return affine(x, weight, self.bias, self.scale)


class Unscaled(Linear):
    """z = W a + b, the standard parametrisation, for a stack too."""

    scale = 1.0


CACHED = 2**21  # bytes of patches that a processor's cache holds


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride, *steps) -> Tensor:
    """F.conv2d; on a CPU in double precision, where it writes all patches of its input down, by
    blocks of examples whose patches stay in the cache."""
    if x.dtype is not torch.float64 or x.device.type != "cpu" or x.dim() != 4:
        return F.conv2d(x, weight, bias, stride, *steps)
    patches = 8 * math.prod(x.shape[1:]) * math.prod(weight.shape[-2:]) / math.prod(stride)
    block = max(1, int(CACHED / patches))
    return torch.cat([F.conv2d(part, weight, bias, stride, *steps) for part in x.split(block)])


class Conv2d(nn.Conv2d):
    """A convolution scaled by 1/sqrt(fan-in); a stack of b networks runs as b channel groups.

    Inputs (n, c_in, H, W), shared by the stack, or (b, n, c_in, H, W).
    """

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.in_channels * math.prod(self.kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if weight.dim() == 4:
            if self.padding_mode != "zeros":
                return self._conv_forward(x, weight, self.bias)
            steps = self.stride, self.padding, self.dilation, self.groups
            return _convolve(x, weight, self.bias, *steps)
        plain = self.groups == 1 and self.padding_mode == "zeros"
        require(plain, "Conv2d: a stack needs groups=1 and padding_mode='zeros'")
        b, c_out = weight.shape[:2]
        groups = 1 if x.dim() == 4 else b
        if groups > 1 or x.dim() == 5:
            x = x.transpose(0, 1).flatten(1, 2)
        bias = None if self.bias is None else self.bias.flatten()
        steps = self.stride, self.padding, self.dilation
        z = _convolve(x, weight.flatten(0, 1), bias, *steps, groups)
        return z.unflatten(1, (b, c_out)).transpose(0, 1)


class UnscaledConv2d(Conv2d):
    """The convolution of the standard parametrisation, for a stack too."""

    scale = 1.0


class MLP(nn.Module):
    """Fully connected network with `depth` hidden layers of one width.

    z_1 = W_0 x / sqrt(d) + b_0, a_l = sigma(z_l), z_{l+1} = W_l a_l / sqrt(h) + b_l, and the output
    f = W_L a_L / sqrt(h) + b_L (Geiger et al. 2020, eq. 1). Input (n, d), output (n, c). With a
    `bottleneck` the middle hidden layer, number (depth + 1) // 2, has that width instead (Liu, Zhu
    & Belkin 2020, on bottlenecks). Layers of the type `layer`: `Unscaled` for the standard
    parametrisation.
    """

    def __init__(
        self,
        d: int,
        width: int,
        depth: int,
        c: int = 1,
        activation: str = "softplus",
        bias: bool = True,
        bottleneck: int = 0,
        layer: type[Linear] = Linear,
    ):
        super().__init__()
        checks.sizes(d=d, width=width, depth=depth, c=c)
        checks.whole("bottleneck", bottleneck)
        self.activation = activation_named(activation)
        sizes = [d] + [width] * depth
        sizes[(depth + 1) // 2] = bottleneck or width
        self.hidden = nn.ModuleList(layer(i, o, bias=bias) for i, o in pairwise(sizes))
        self.readout = layer(sizes[-1], c, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.readout(x)

    def extra_repr(self) -> str:
        return f"activation={self.activation.__name__}"


class ConvNet(nn.Module):
    """Four 5x5 convolutions (padding 1, strides 2, 1, 2, 1), spatial mean, linear read-out.

    On 28 x 28 images the maps are 13, 11, 5 and 3 pixels wide; with kernels of a `side` of 3 they
    are 14, 14, 7 and 7. Input (n, c_in, H, W), output (n, c). `layers` are the types of convolution
    and read-out: `UnscaledConv2d` and `Unscaled` for the standard parametrisation. Source: Geiger
    et al. (2020), appendix on the convolutional architecture.
    """

    def __init__(
        self,
        c_in: int,
        width: int,
        c: int = 1,
        activation: str = "relu",
        bias: bool = True,
        side: int = 5,
        layers: tuple[type[Conv2d], type[Linear]] = (Conv2d, Linear),
    ):
        super().__init__()
        checks.sizes(c_in=c_in, width=width, c=c, side=side)
        convolution, linear = layers
        self.activation = activation_named(activation)
        channels = [c_in] + [width] * 4
        self.hidden = nn.ModuleList(
            convolution(i, o, side, stride=s, padding=1, bias=bias)
            for i, o, s in zip(channels, channels[1:], (2, 1, 2, 1), strict=False)
        )
        self.readout = linear(width, c, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.readout(x.mean((-2, -1)))

    def extra_repr(self) -> str:
        return f"activation={self.activation.__name__}"


class ResNet(MLP):
    """Residual network: a_1 = sigma(W_0 x / sqrt(d)), a_{l+1} = a_l + sigma(W_l a_l / sqrt(h)).

    `depth` hidden layers, biases as in `MLP`. Input (n, d), output W_L a_L / sqrt(h), (n, c).
    Source: Liu, Zhu & Belkin (2020), appendix on residual networks.
    """

    def __init__(
        self, d: int, width: int, depth: int, c: int = 1, activation="softplus", bias=True
    ):
        super().__init__(d, width, depth, c, activation, bias)  # of one width throughout

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.hidden
        x = self.activation(first(x))
        for layer in others:
            x = x + self.activation(layer(x))
        return self.readout(x)


class RNN(nn.Module):
    """Recurrent network: h_t = s(sw W h_{t-1} / sqrt(h) + su U x_t / sqrt(fan-in) + sb b), h_0 = 0.

    `layers` of one width, each fed with the states of the one below; f = sv V h_T / sqrt(h). Input
    (n, t, m + 1), whose last feature says by 1 or 0 whether a step is there: at others states stay
    as they are. Output (n, c). ReLU is plainly max(0, .) here. Source: Alemohammad et al. (2021),
    section 2.
    """

    def __init__(
        self,
        m: int,
        width: int,
        layers: int = 1,
        c: int = 1,
        activation: str = "relu",
        sw: float = RELU_GAIN,
        su: float = 1.0,
        sb: float = 0.0,
        sv: float = 1.0,
    ):
        super().__init__()
        checks.sizes(m=m, width=width, layers=layers, c=c)
        for name, scale in dict(sw=sw, su=su, sb=sb, sv=sv).items():
            checks.number(name, scale)
        self.width, self.scales = width, (sw, su, sb, sv)
        self.activation = F.relu if activation == "relu" else activation_named(activation)
        fans = [m] + [width] * (layers - 1)
        self.inputs = nn.ModuleList(Linear(i, width, bias=False) for i in fans)
        self.states = nn.ModuleList(Linear(width, width, bias=False) for _ in fans)
        self.shifts = nn.ModuleList(Linear(1, width, bias=False) for _ in fans)
        self.readout = Linear(width, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        sw, su, sb, sv = self.scales
        states = [x.new_zeros(len(x), self.width) for _ in self.states]
        for step in x.unbind(1):
            below, there = step[:, :-1], step[:, -1:]
            for k, layers in enumerate(zip(self.states, self.inputs, self.shifts, strict=True)):
                again, enter, shift = layers
                z = sw * again(states[k]) + su * enter(below) + sb * shift(torch.ones_like(there))
                below = states[k] = torch.where(there > 0, self.activation(z), states[k])
        return sv * self.readout(states[-1])

    def extra_repr(self) -> str:
        return f"activation={self.activation.__name__}, scales={self.scales}"


class Headed(nn.Module):
    """phi(f), a network `net` whose output passes through one of `HEADS` (Liu et al. 2020)."""

    def __init__(self, net: nn.Module, head: str):
        super().__init__()
        require(head in HEADS, f"head {head!r} is unknown; accepted: {', '.join(HEADS)}")
        self.net, self.head, self.name = net, HEADS[head], head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))

    def extra_repr(self) -> str:
        return f"head={self.name}"


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name; ValueError lists the accepted names."""
    accepted = ", ".join(ACTIVATIONS)
    require(name in ACTIVATIONS, f"activation {name!r} is unknown; accepted: {accepted}")
    return ACTIVATIONS[name]


Draw = Callable[[torch.Size, Generator], Tensor]  # a weight of that shape


def normal(shape: torch.Size, generator: Generator) -> Tensor:
    """Entries N(0, 1)."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthogonal(shape: torch.Size, generator: Generator) -> Tensor:
    """A weight (o, i) with orthogonal rows or columns, whichever are fewer, each direction equally
    likely, and entries of variance 1: sqrt(max(o, i)) Q. Of a convolution (o, i, k, k): over its
    inputs at all positions, as a matrix (o, i k k).

    The factor keeps the variance of the signal where a layer widens (Huang et al. 2020, section 3;
    Mezzadri 2007 on the signs of QR).
    """
    rows, columns = shape[0], math.prod(shape[1:])
    tall = normal(torch.Size((max(rows, columns), min(rows, columns))), generator)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()
    q = q if rows >= columns else q.mT
    return (math.sqrt(max(rows, columns)) * q).reshape(shape)


def delta(draw: Draw) -> Draw:
    """Of convolutions (o, i, k, k), k odd: drawn at the kernel's centre, zero elsewhere, with the
    variance of all k k positions there; other weights as they are (Xiao et al. 2018, section 3)."""

    def drawn(shape: torch.Size, generator: Generator) -> Tensor:
        if len(shape) == 2:
            return draw(shape, generator)
        require(len(shape) == 4 and shape[2] == shape[3] and shape[2] % 2 == 1,
                f"a delta kernel is one of odd sides, got {tuple(shape)}")  # fmt: skip
        weight, middle = torch.zeros(shape, dtype=torch.float64), shape[2] // 2
        weight[:, :, middle, middle] = shape[2] * draw(shape[:2], generator)
        return weight

    return drawn


def initialise(
    module: nn.Module,
    seed: int,
    dtype=torch.float64,
    device="cpu",
    draw: Draw = normal,
) -> Params:
    """Weights N(0, 1), or as `draw` says; biases 0. Drawn on the CPU in float64, so equal on every
    device."""
    checks.kind("module", module, nn.Module)
    checks.kind("dtype", dtype, torch.dtype)
    require(dtype.is_floating_point, f"weights are floating-point numbers, got {dtype}")
    generator = checks.seeded(seed)
    return {
        name: torch.zeros(p.shape, dtype=dtype, device=device)
        if name.endswith("bias")
        else draw(p.shape, generator).to(device, dtype)
        for name, p in module.named_parameters()
    }


def initialise_stack(
    module: nn.Module,
    seeds: list[int],
    dtype=torch.float64,
    device="cpu",
    draw: Draw = normal,
) -> Params:
    """One network a seed on a leading axis: tensors (b, ...) for b seeds, one at least."""
    return stack([initialise(module, seed, dtype, device, draw) for seed in seeds])


def apply(module: nn.Module) -> Function:
    """f(params, x), a pure function of the parameters: (n, c), or (b, n, c) for a stack."""
    return lambda params, x: call(module, params, x)
