"""Bad input to the numerical functions: each is refused, on one line. `CASES` are pairs of a name
and a function that must raise ValueError, TypeError or OSError.

Every argument of a call that is right is spoiled in every way that its type admits; `fine` names
what is no fault there, as NaN in a kernel that is only measured.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from tangents import descent, factored, flow, infinite, kernels, linearised, losses, models, svm
from tangents.curvature import (
    gauss_newton,
    gauss_newton_product,
    output_hessian,
    output_hessian_norm,
)
from tangents.empirical import jacobian, ntk, ntk_on_disk
from tangents.features import Moments, NTKFeatures
from tangents.measure import measure
from tests.cases import normal

N, M, C, D = 6, 4, 3, 2
NET = models.MLP(D, 5, 2, c=C)
PARAMS = models.initialise(NET, 0)
STACK = models.initialise_stack(NET, [0, 1])
X, X_TEST = normal(N, D), normal(M, D, seed=1)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
ONE_HOT = torch.eye(C, dtype=torch.float64)[CLASSES]
SIGNS = torch.tensor([1.0, -1, 1, 1, -1, -1], dtype=torch.float64)
ROWS = normal(N + M, N + M + 3, seed=2)
GRAM = ROWS @ ROWS.mT
K, K_TEST, K_THERE = GRAM[:N, :N], GRAM[N:, :N], GRAM[N:, N:]
ONES = torch.ones(2, dtype=torch.float64)
J = jacobian(NET, PARAMS, X)
FULL = J.gram()
SINGLE = models.MLP(D, 5, 2)
SINGLES = models.initialise_stack(SINGLE, [0, 1])


class Call(NamedTuple):
    """A call that is right, and what may be done to it: pairs of an argument and a kind."""

    name: str
    function: Callable[..., Any]
    given: dict[str, Any]
    fine: frozenset[tuple[str, str]] = frozenset()


def call(name: str, function: Callable[..., Any], fine: str = "", **given: Any) -> Call:
    """`fine` in words: "k nan, y row"."""
    words = (tuple(each.split(" ", 1)) for each in fine.split(", ") if each)
    return Call(name, function, given, frozenset(words))


def spoiled(value: Any) -> Iterator[tuple[str, Any]]:
    """What may come by mistake in the place of an argument."""
    if isinstance(value, dict):
        name, first = next(iter(value.items()))
        yield "missing", {k: v for k, v in value.items() if k != name}
        yield "strange", {**value, "none of these": first}
        yield "transposed", {**value, name: first.mT}
        yield "row", {**value, name: first[:1]}
        yield "lists", {**value, name: first.tolist()}
        yield "single", {**value, name: first.float()}
        yield "none", {}
        yield "values", [*value.values()]
    elif isinstance(value, Tensor):
        real = value.is_floating_point()
        yield "list", value.tolist()
        yield "array", value.numpy()
        yield ("integers", value.long()) if real else ("reals", value.double())
        yield "complex", value.to(torch.complex128)
        if real:
            yield "single", value.float()
            yield "nan", torch.full_like(value, math.nan)
            yield "inf", torch.full_like(value, math.inf)
        yield "empty", value[:0]
        yield "number", value.flatten()[0]
        yield "row", value[:1]
        yield "longer", torch.cat([value, value])
        yield "column", value.unsqueeze(-1)
        yield "axes", value[None, None, None]
        if value.dim() > 1 and value.shape[-1] != value.shape[-2]:
            yield "transposed", value.mT
        if value.dim() > 1 and value.shape[-1] == value.shape[-2] > 1:
            yield "oblong", value[..., :-1]
            yield "oblique", value + 10 * value.triu(1) + value.abs().max() * torch.ones(
                value.shape, dtype=value.dtype).triu(1)  # fmt: skip
    elif isinstance(value, np.ndarray):
        yield "list", value.tolist()
        yield "empty", value[:0]
        yield "row", value[:1]
        yield "column", value[..., None]
        if value.dtype.kind == "f":
            yield "nan", np.full_like(value, math.nan)
            if value.shape[0] == value.shape[1]:
                yield "oblique", value + value.max() * np.triu(np.ones_like(value), 1)
    elif isinstance(value, (int, float)):
        yield "word", "abc"
        yield "nan", math.nan
        yield "negative", -1 if isinstance(value, int) else -1.0
        yield "inf", math.inf
        yield "none", None
        if isinstance(value, int):
            yield "fraction", 2.5


def exhausted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of what gives an iterator: its first values."""

    def of(**given: Any) -> Any:
        states = iter(function(**given))
        return [next(states) for _ in range(2)]

    return of


def of_loss(name: str, loss: losses.OutputLoss) -> list[Call]:
    f, root = normal(N, C, seed=4), "f nan, f inf, f axes, y nan, y inf"
    return [
        call(f"{name}.{part}", lambda f, y, function=function: function(f, y), root, f=f, y=ONE_HOT)
        for part, function in (
            ("value", loss.value), ("gradient", loss.gradient), ("whitened", loss.whitened))
    ] + [call(f"newton {name}", lambda f, y: losses.newton(loss, f, y), "f nan, f inf, f axes",
              f=f, y=ONE_HOT)]  # fmt: skip


def through(rate: Any, rule: Callable[..., Any]) -> Any:
    given = NET, STACK, X, ONE_HOT, ONES, losses.SQUARED, rule(rate)
    return list(descent.descend(*given, steps=1))


def on_disk(**given: Any) -> Any:
    """At a path that cannot be written: what is refused is refused before."""
    return ntk_on_disk("/nonexistent/theta.npy", NET, PARAMS, progress=False, **given)


MEASURED = "k nan, k inf, k0 nan, k0 inf, k oblique, k0 oblique, k axes, k0 axes"
TEST = "k_test_train row, k_test_train longer"
RESIDUAL = normal(N, C, seed=5)
ROOT = losses.CROSS_ENTROPY.root(J.value)
RATE = 0.1 / linearised.spectrum(FULL).values.max().item()
SPECTRUM = linearised.spectrum(FULL)
VECTORS = normal(N, sum(v.numel() for v in PARAMS.values()))
NP_K, NP_K_TEST, NP_Y = K.numpy(), K_TEST.numpy(), CLASSES.numpy()
CALLS = [
    call("distance", kernels.distance, MEASURED, k=K, k0=K + 1),
    call("cosine", kernels.cosine, MEASURED, k=K, k0=K + 1),
    call("centred_alignment", kernels.centred_alignment, MEASURED, k=K, k0=K + 1),
    call("velocity", kernels.velocity, MEASURED, k=K, k0=K + 1, time=0.5),
    call("alignment", kernels.alignment, "k nan, k inf, k oblique, k axes, y nan, y inf",
         k=K, y=SIGNS),
    call("regression", kernels.regression, f"{TEST}, y column", k=K, k_test_train=K_TEST,
         y=SIGNS, ridge=0.1),
    call("regression, several outputs", kernels.regression, TEST, k=K, k_test_train=K_TEST,
         y=ONE_HOT),
    call("regression, full", kernels.regression, f"{TEST}, k_test_train oblique", k=FULL,
         k_test_train=FULL[:M], y=ONE_HOT, ridge=0.1),
    call("ensemble", kernels.ensemble, "time inf", ntk=K, ntk_test_train=K_TEST, nngp=K,
         nngp_test_train=K_TEST, nngp_test=K_THERE, y=ONE_HOT, time=1.0),
    call("ridge", lambda k, y, shift: kernels.ridge(k, y, [shift]), k=K, y=ONE_HOT, shift=0.1),
    call("features", kernels.features, TEST, k=K,
         k_test_train=K_TEST, jitter=1e-10),
    *of_loss("squared", losses.SQUARED),
    *of_loss("cross-entropy", losses.CROSS_ENTROPY),
    *of_loss("binary cross-entropy", losses.BINARY_CROSS_ENTROPY),
    call("soft_hinge", losses.soft_hinge, beta=20.0),
    call("jvp", J.jvp, v=PARAMS),
    call("vjp", J.vjp, "u nan, u inf", u=RESIDUAL),
    call("ntk_vp", J.ntk_vp, "u nan, u inf", u=RESIDUAL),
    call("left_multiply", J.left_multiply, "root nan, root inf", root=ROOT),
    call("gram", lambda out: J.gram(out=out), "out nan, out inf, out oblique", out=FULL.clone()),
    call("spectrum", linearised.spectrum, "kernel single, kernel axes", kernel=FULL),
    call("krylov_spectrum", linearised.krylov_spectrum, kernel=FULL, residual=RESIDUAL, rank=5),
    call("leap", lambda **given: linearised.leap(J, SPECTRUM, **given), "steps inf",
         residual=RESIDUAL, rate=RATE, steps=3, memory=0.0, tolerance=1e-4),
    call("leap from a velocity", lambda v: linearised.leap(J, SPECTRUM, RESIDUAL, RATE, 3, 0.5, v),
         v=PARAMS),
    call("respond", lambda u: linearised.respond(SPECTRUM, u, linearised.flow(ONES[0])),
         "u nan, u inf, u single, u axes", u=RESIDUAL),
    call("gain of flow", linearised.flow, "time inf, time number, time row, time longer, "
         "time column, time axes, time single", time=ONES),
    call("gain of damping", linearised.damped, "damping inf, damping number, damping row, "
         "damping longer, damping column, damping axes, damping single", damping=ONES),
    call("descend_outputs", exhausted(
        lambda **given: linearised.descend_outputs(**given, loss=losses.CROSS_ENTROPY)),
        kernel=FULL, f=RESIDUAL, y=ONE_HOT, rate=0.01),
    call("gauss_newton", lambda **given: gauss_newton(J, loss=losses.CROSS_ENTROPY, **given),
         "max_products inf", y=ONE_HOT, damping=0.1, tolerance=1e-6, max_products=500),
    call("gauss_newton_product", lambda v, root: gauss_newton_product(J, v, root),
         "root nan, root inf", v=PARAMS, root=ROOT),
    call("output_hessian", lambda output, v: output_hessian(NET, PARAMS, X, output)(v),
         "v nan, v inf", output=1, v=VECTORS),
    call("output_hessian_norm", lambda **given: output_hessian_norm(NET, PARAMS, X, **given),
         output=1, tolerance=1e-3, max_steps=200),
    call("gradient_descent", lambda rate: through(rate, descent.gradient_descent), rate=0.1),
    call("momentum", lambda rate: through(rate, descent.momentum), rate=0.1),
    call("momentum's memory", lambda memory: descent.momentum(0.1, memory), memory=0.5),
    call("adam", lambda rate: through(rate, descent.adam), rate=0.1),
    call("rates of a stack", lambda rate: through(rate, descent.gradient_descent),
         "rate number, rate single", rate=ONES),
    call("draws", exhausted(lambda size: descent.draws(N, size, Generator())), size=2),
    call("epochs", exhausted(lambda size: descent.epochs(N, size, Generator())), size=2),
    call("descend", lambda **given: list(descent.descend(
        NET, STACK, loss=losses.SQUARED, rule=descent.gradient_descent(0.1), **given)),
        x=X, y=ONE_HOT, alpha=ONES, steps=1),
    call("flow", exhausted(lambda **given: flow.flow(SINGLE, SINGLES, **given)), "max_steps inf",
         x=X, y=SIGNS, alpha=ONES, dt=1e-3 * ONES, max_steps=10),
    call("GradientFlow", flow.GradientFlow, "tolerance inf", tolerance=1e-4, change=0.1),
    call("svm.classify", svm.classify, "k_test row", k=NP_K, y=NP_Y, k_test=NP_K_TEST, cost=1.0),
    call("svm.choose", lambda k, y, cost: svm.choose([("one", k)], y, [cost]), k=NP_K, y=NP_Y,
         cost=1.0),
    call("NTKFeatures", lambda x: NTKFeatures.draw(D, 16)(x),
         "x row, x longer, x single", x=X),
    call("NTKFeatures.draw", NTKFeatures.draw, "units none", d=3, size=16, depth=2, units=4),
    call("Moments", lambda z, y: Moments.of([(z, y)]), "z nan, z inf, y nan, y inf",
         z=X, y=ONE_HOT),
    call("fully_connected", infinite.fully_connected,
         "x1 row, x1 longer, x2 row, x2 longer", x1=X, x2=X_TEST, depth=2),
    call("convolutional", lambda x: infinite.convolutional(x, strides=(1,), kernel=3),
         "x row, x longer, x single, x oblong, x oblique", x=normal(2, 1, 5, 5)),
    call("ntk", lambda **given: ntk(NET, PARAMS, **given), "x1 row, x1 longer, x2 row, x2 longer, "
         "x1 list, x2 list, x1 array, x2 array, budget none", x1=X, x2=X_TEST, budget=1e9),
    call("ntk, params", lambda params: ntk(NET, params, X), params=PARAMS),
    call("measure", lambda **given: measure(NET, PARAMS, STEPPED, **given),
         "y integers, y single, y column, budget none",
         x=torch.cat([X] * 4), y=normal(24, 1), budget=1e9),
]  # fmt: skip
STEPPED = {k: v + 0.1 for k, v in PARAMS.items()}


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for name, function, given, fine in CALLS:
        for argument, value in given.items():
            for kind, bad in spoiled(value):
                if (argument, kind) not in fine:
                    both = {**given, argument: bad}
                    yield f"{name}: {argument} {kind}", lambda f=function, g=both: f(**g)


CASES = [
    *cases(),
    ("no Jacobians", lambda: factored.stack_jacobians([])),
    ("ntk_on_disk: budget nan", lambda: on_disk(x1=X, budget=math.nan)),
    ("ntk_on_disk: a folder that is not there", lambda: on_disk(x1=X)),
    ("ntk: outputs", lambda: ntk(NET, PARAMS, X, outputs="all")),
    ("fully_connected: activation", lambda: infinite.fully_connected(X, activation="gelu")),
    ("labels of -1 and 1", lambda: losses.newton(losses.BINARY_CROSS_ENTROPY, SIGNS[:, None],
                                                 SIGNS[:, None])),
    ("descend: labels of -1 and 1", lambda: descent.descend(
        SINGLE, SINGLES, X, SIGNS[:, None], ONES, losses.BINARY_CROSS_ENTROPY,
        descent.gradient_descent(0.1))),
    ("descend: a loss that is none", lambda: descent.descend(
        SINGLE, SINGLES, X, SIGNS, ONES, "logistic", descent.gradient_descent(0.1))),
    ("a batch out of range", lambda: list(descent.descend(
        NET, STACK, X, ONE_HOT, ONES, losses.SQUARED, descent.gradient_descent(0.1),
        [torch.tensor([-1]), torch.tensor([0])], 1))),
    ("a batch with copies", lambda: exhausted(linearised.descend_outputs)(
        kernel=FULL, f=RESIDUAL, y=ONE_HOT, loss=losses.SQUARED, rate=0.01,
        batches=[torch.tensor([0, 0])])),
]  # fmt: skip
