"""What the engine owes its caller: arguments and a module left as they were, and one clear line."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from tangents.functional import Params, differentiable, require, stacked
from tangents.inputs import Inputs, count, tensors


class Misled(ValueError):
    """Layers whose structured gradient proved wrong for a batch."""

    def __init__(self, layers):
        super().__init__(frozenset(layers))

    @property
    def layers(self) -> frozenset[str]:
        return self.args[0]


def guarded(mistrust: Callable[[nn.Module, frozenset[str]], bool]) -> Callable:
    """Calls a function of a module anew, without the layers that misled it, until none does;
    the module stays as it is. `mistrust` notes such layers, False if they were known."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **options):
            given = (v for v in (*args, *options.values()) if isinstance(v, nn.Module))
            module = next(given, None)
            if module is None:
                return function(*args, **options)
            while True:
                try:
                    with torch.inference_mode(False), differentiable(module), untouched(module):
                        return function(*args, **options)
                except Misled as error:
                    if not mistrust(module, error.layers):
                        raise

        return call

    return decorate


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Gives layers the plain tensors back that they held, as an old weight norm's `weight`, which
    its hook computes. ValueError where a buffer was written into."""
    layers = [(name, m) for name, m in module.named_modules()]
    plain = [(m, {k: v for k, v in vars(m).items() if isinstance(v, Tensor)}) for _, m in layers]
    buffers = [(name, k, v, v._version) for name, m in layers for k, v in m._buffers.items()
               if v is not None and not v.is_inference()]  # fmt: skip
    try:
        yield
    finally:
        for layer, held in plain:
            vars(layer).update(held)
    for name, k, v, version in buffers:
        require(v._version == version, rewritten(name, k))


def rewritten(layer: str, buffer: str) -> str:
    return f"layer {layer!r} rewrites its buffer {buffer!r} when it is called: call module.eval()"


@contextmanager
def buffers_aside(module: nn.Module) -> Iterator[None]:
    """Copies in place of the module's buffers. ValueError where one is written into."""
    held = [(name, m, dict(m._buffers)) for name, m in module.named_modules() if m._buffers]
    try:
        for _, m, own in held:
            m._buffers.update({k: v if v is None else v.clone() for k, v in own.items()})
        copies = [(name, k, v, v._version) for name, m, _ in held for k, v in m._buffers.items()
                  if v is not None]  # fmt: skip
        yield
    finally:
        for _, m, own in held:
            m._buffers.clear()
            m._buffers.update(own)
    for name, k, v, version in copies:
        require(v._version == version, rewritten(name, k))


@contextmanager
def without_chance(device: torch.device) -> Iterator[None]:
    """ValueError where random numbers of torch or NumPy are drawn; these and Python's are given
    back. Python's may be drawn: what checks types of a module does so."""
    host, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        _, keys, *rest = np.random.get_state()
        same = torch.equal(host, torch.get_rng_state())
        same &= tuple(rest) == numpy[2:] and bool((keys == numpy[1]).all())
        same &= on_device is None or torch.equal(on_device, torch.cuda.get_rng_state(device))
        if not same:
            torch.set_rng_state(host)
            np.random.set_state(numpy)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)
            message = "the module draws random numbers: it is no function of its inputs"
            raise ValueError(message) from None


def admitted(module: nn.Module, params: Params, **inputs: Inputs | None) -> tuple[Params, int]:
    """The parameters as plain tensors, and the length of their stack. ValueError for what has no
    derivative, and for what a graph of derivatives hangs on: results carry none."""
    b = stacked(module, params, partial=True)
    for name, v in params.items():
        real = f"{name!r} is of type {v.dtype}: a parameter must be real; params may leave it out"
        require(v.is_floating_point(), real)
        require(isinstance(v, nn.Parameter) or not v.requires_grad, _graph(repr(name)))
    given = {name: x for name, x in inputs.items() if x is not None or name != "x2"}
    for name, x in given.items():
        count(x)
        require(not any(v.requires_grad for v in tensors(x)), _graph(name))
    every = [(repr(k), v) for k, v in params.items()]
    every += [(name, v) for name, x in given.items() for v in tensors(x)]
    for name, v in every:
        require(not is_functorch_wrapped_tensor(v), _graph(name))
    return {k: v.clone() if v.is_inference() else v.detach() for k, v in params.items()}, b


def _graph(name: str) -> str:
    return f"{name} asks for a derivative, and kernels and Jacobians carry none: detach it"
