"""Bad input to the numerical functions: each is refused, on one line. `CASES` are pairs of a name
and a function that must raise ValueError, TypeError or OSError.

Every argument of a call that is right is spoiled in every way that its type admits; `fine` names
what is no fault there, as NaN in a kernel that is only measured.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tangents import (
    descent,
    factored,
    flow,
    functional,
    infinite,
    kernels,
    limit,
    linearised,
    losses,
    models,
    probes,
    recurrent,
    relinearised,
    reversible,
    svm,
)
from tangents.curvature import (
    gauss_newton,
    gauss_newton_product,
    output_hessian,
    output_hessian_norm,
)
from tangents.empirical import jacobian, ntk, ntk_on_disk
from tangents.features import Moments, NTKFeatures, TensorSketch, TensorSRHT
from tangents.lanczos import density, eigenpairs, lanczos
from tangents.measure import measure
from tests.breaking.spoiled import Call, call, exhausted, spoiled
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


def rounds(duration: Any, **given: Any) -> Any:
    return next(relinearised.relinearise(durations=[duration], **given))


def product(v: Tensor) -> Tensor:
    return (K @ v.unsqueeze(-1)).squeeze(-1)


class Both(nn.Module):
    """The sum of a network at two inputs, by name or in order."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Any) -> Tensor:
        first, second = (x["a"], x["b"]) if isinstance(x, dict) else x
        return self.net(first) + self.net(second)


STEPPED = {k: v + 0.1 for k, v in PARAMS.items()}
OTHERS = models.initialise_stack(NET, [2, 3])
OUTPUTS = normal(2, N, C, seed=6)
TANGENT = relinearised.TangentModel.at(NET, STACK, X, ONES, STACK)
RECURRENT, SERIES, LATER = recurrent.Recurrent(sh=0.5), normal(3, 4, 2), normal(2, 5, 2)
LENGTH = torch.tensor([4, 3, 1])
REVERSIBLE = reversible.RevMLP(4, 8, 2, 2)
SKETCHES = TensorSketch, TensorSRHT
IMAGES, SEQUENCES, NONE = models.ConvNet(1, 2), models.RNN(1, 3), ONES[:0]
ALONE = SINGLE, functional.select(SINGLES, slice(1)), X, SIGNS
BOTH, BOTHS = Both(), [{f"net.{k}": v for k, v in p.items()} for p in (PARAMS, STEPPED)]
MANY = torch.cat([X] * 4)
UNFIT = {  # inputs of `Both`
    "unequal": {"a": MANY, "b": MANY[:20]}, "an empty dict": {}, "an empty tuple": (),
    "nothing inside": {"a": {}, "b": ()}, "no tensor": {"a": 1, "b": "x"}, "None": None,
    "an array": (MANY, MANY.numpy()), "a name missing": {"a": MANY}, "numbers": (X[0, 0], X[0, 0]),
    "another name": {"a": MANY, "c": MANY}, "another width": {"a": MANY, "b": MANY[:, :1]},
    "three": (MANY, MANY, MANY), "a tensor": MANY,
}  # fmt: skip
OF_INPUTS = {
    "ntk": lambda x: ntk(BOTH, BOTHS[0], x),
    "jacobian": lambda x: jacobian(BOTH, BOTHS[0], x),
    "ntk_on_disk": lambda x: ntk_on_disk("/nonexistent/theta.npy", BOTH, BOTHS[0], x),
    "measure": lambda x: measure(BOTH, *BOTHS, x),
    "linearise": lambda x: functional.linearise(BOTH, BOTHS[0])(BOTHS[1], x),
    "descend": lambda x: descent.descend(BOTH, functional.stack(BOTHS), x, ONE_HOT, ONES,
                                         losses.SQUARED, descent.gradient_descent(0.1)),
}  # fmt: skip
ROWS_OF_X = "x row, x longer"
SEEN = "x nan, x inf, x empty"  # in what comes out
LEADING = ("output single, output nan, output inf, output empty, output row, output longer, "
           "output axes, y integers, y single")  # fmt: skip
LENGTHS = "duration single, rate single, rate inf"
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
    call("jvp", J.jvp, "v single", v=PARAMS),
    call("vjp", J.vjp, "u nan, u inf", u=RESIDUAL),
    call("ntk_vp", J.ntk_vp, "u nan, u inf", u=RESIDUAL),
    call("left_multiply", J.left_multiply, "root nan, root inf", root=ROOT),
    call("gram", lambda out: J.gram(out=out), "out nan, out inf, out oblique", out=FULL.clone()),
    call("spectrum", linearised.spectrum, "kernel single, kernel axes", kernel=FULL),
    call("krylov_spectrum", linearised.krylov_spectrum, kernel=FULL, residual=RESIDUAL, rank=5),
    call("leap", lambda **given: linearised.leap(J, SPECTRUM, **given), "steps inf",
         residual=RESIDUAL, rate=RATE, steps=3, memory=0.0, tolerance=1e-4),
    call("leap from a velocity", lambda v: linearised.leap(J, SPECTRUM, RESIDUAL, RATE, 3, 0.5, v),
         "v single", v=PARAMS),
    call("respond", lambda u: linearised.respond(SPECTRUM, u, linearised.flow(ONES[0])),
         "u nan, u inf, u single, u axes", u=RESIDUAL),
    call("gain of flow", linearised.flow, "time inf, time number, time row, time longer, "
         "time column, time axes, time single, time zero", time=ONES),
    call("gain of damping", linearised.damped, "damping inf, damping number, damping row, "
         "damping longer, damping column, damping axes, damping single, damping zero",
         damping=ONES),
    call("descend_outputs", exhausted(
        lambda **given: linearised.descend_outputs(**given, loss=losses.CROSS_ENTROPY)),
        kernel=FULL, f=RESIDUAL, y=ONE_HOT, rate=0.01),
    call("gauss_newton", lambda **given: gauss_newton(J, loss=losses.CROSS_ENTROPY, **given),
         y=ONE_HOT, damping=0.1, tolerance=1e-6, max_products=500),
    call("gauss_newton_product", lambda v, root: gauss_newton_product(J, v, root),
         "root nan, root inf, v single", v=PARAMS, root=ROOT),
    call("output_hessian", lambda output, v, **given: output_hessian(**given, output=output)(v),
         "v nan, v inf", module=NET, params=PARAMS, x=X, output=1, v=VECTORS),
    call("output_hessian_norm", output_hessian_norm, f"{ROWS_OF_X}, x axes", module=NET,
         params=PARAMS, x=X, output=1, tolerance=1e-3, max_steps=200),
    call("gradient_descent", lambda rate: through(rate, descent.gradient_descent), rate=0.1),
    call("momentum", lambda rate: through(rate, descent.momentum), rate=0.1),
    call("momentum's memory", lambda memory: descent.momentum(0.1, memory), memory=0.5),
    call("adam", lambda rate: through(rate, descent.adam), rate=0.1),
    call("rates of a stack", lambda rate: through(rate, descent.gradient_descent),
         "rate number, rate single, rate zero", rate=ONES),
    call("draws", exhausted(lambda size: descent.draws(N, size, Generator())), size=2),
    call("epochs", exhausted(lambda size: descent.epochs(N, size, Generator())), size=2),
    call("descend", lambda **given: list(descent.descend(
        **given, loss=losses.SQUARED, rule=descent.gradient_descent(0.1))),
        module=NET, params=STACK, x=X, y=ONE_HOT, alpha=ONES, steps=1),
    call("flow", exhausted(flow.flow), module=SINGLE, params=SINGLES, x=X, y=SIGNS,
         alpha=ONES, dt=1e-3 * ONES, max_steps=10),
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
         "budget none", x1=X, x2=X_TEST, budget=1e9),
    call("ntk, params", ntk, module=NET, params=PARAMS, x1=X_TEST,
         fine="x1 axes, x1 row, x1 longer"),
    call("ntk of a stack", lambda params: ntk(NET, params, X), "params first", params=STACK),
    call("jacobian", jacobian, f"{ROWS_OF_X}, x axes", module=NET, params=PARAMS, x=X),
    call("jacobian of a stack", lambda **given: jacobian(NET, **given),
         f"{ROWS_OF_X}, x axes, params first", params=STACK, x=X),
    call("measure", measure, "y single, y column, budget none", module=NET, before=PARAMS,
         after=STEPPED, x=MANY, y=normal(24, 1), budget=1e9),
    call("linearise", lambda module, params0, **given: functional.linearise(module, params0)(
        **given), f"{ROWS_OF_X}, {SEEN}", module=NET, params0=STACK, params=OTHERS, x=X),
    call("centre_and_scale", lambda params, **given: functional.centre_and_scale(
        models.apply(NET), **given)(params, X), "alpha single, alpha number", params0=STACK,
        params=OTHERS, alpha=ONES.view(2, 1, 1)),
    call("stack", lambda **given: functional.stack([*given.values()]), one=PARAMS, other=PARAMS),
    call("error_rate", probes.error_rate, LEADING, output=OUTPUTS[..., 0], y=SIGNS),
    call("misclassified", probes.misclassified, LEADING, output=OUTPUTS, y=ONE_HOT),
    call("rms", probes.rms, f"{ROWS_OF_X}, {SEEN}, x single, x column, x axes, x transposed",
         x=OUTPUTS),
    call("patterns", probes.patterns, ROWS_OF_X, module=NET, params=STACK, x=X),
    call("pattern_distance", probes.pattern_distance, a=OUTPUTS > 0, b=OUTPUTS < 0),
    call("barrier", lambda **given: probes.barrier(functional.norm, **given), params=STACK,
         other=OTHERS, points=3),
    call("preactivation_velocity", probes.preactivation_velocity, ROWS_OF_X, module=NET,
         params=STACK, x=X, direction=OTHERS),
    call("unit_gradients", probes.unit_gradients, ROWS_OF_X, module=SINGLE, params=SINGLES, x=X),
    call("state_singular_values", probes.state_singular_values, ROWS_OF_X, module=SINGLE,
         params=SINGLES, x=X),
    call("lanczos", lambda start, steps: lanczos(product, start, steps), "start axes",
         start=ROWS[0, :N], steps=3),
    call("eigenpairs", lambda start, **given: eigenpairs(product, start, **given),
         "start axes, tolerance none", start=ROWS[0, :N], count=2, tolerance=1e-3, max_steps=9),
    call("density", lambda starts, steps: density(product, starts, steps),
         "starts row, starts longer, starts axes", starts=ROWS[:, :N], steps=3),
    call("predictor", lambda module, params0, alpha, **given: relinearised.predictor(
        module, params0, alpha)(**given), f"{ROWS_OF_X}, {SEEN}, alpha single", module=NET,
        params0=STACK, alpha=ONES, params=OTHERS, x=X),
    call("slopes", relinearised.slopes, f"{ROWS_OF_X}, {SEEN}, x axes", module=NET, anchor=STACK,
         step=OTHERS, x=X, block=4),
    call("relinearise", rounds, f"{LENGTHS}, duration inf, alpha single, y single", module=NET,
         params0=STACK, x=X, y=ONE_HOT, alpha=ONES, rate=0.01 * ONES, margin=0.5, duration=ONES),
    call("relinearise step by step", lambda **given: rounds(**given, loss=losses.CROSS_ENTROPY),
         f"{LENGTHS}, alpha single, y single", module=NET, params0=STACK, x=X, y=ONE_HOT,
         alpha=ONES, rate=0.01 * ONES, margin=0.5, duration=ONES),
    call("stable_descent", lambda **given: relinearised.stable_descent(TANGENT, **given),
         f"{LENGTHS}, duration inf", duration=ONES, rate=0.01 * ONES, margin=0.5),
    call("TangentModel.at", relinearised.TangentModel.at, f"{ROWS_OF_X}, alpha single",
         module=NET, params0=STACK, x=X, alpha=ONES, anchor=OTHERS),
    call("TangentModel.train", lambda y: TANGENT.train(y, linearised.flow(ONES)), "y single",
         y=ONE_HOT),
    call("TangentModel.step", TANGENT.step, "coefficients nan, coefficients inf",
         coefficients=OUTPUTS),
    call("TangentModel.outputs", TANGENT.outputs, "coefficients nan, coefficients inf",
         coefficients=OUTPUTS),
    call("recurrent kernels", RECURRENT.kernels, x1=SERIES, x2=LATER, lengths1=LENGTH,
         lengths2=LENGTH[1:]),
    call("bidirectional", RECURRENT.bidirectional, x1=SERIES, x2=LATER, lengths1=LENGTH,
         lengths2=LENGTH[1:]),
    call("backwards", recurrent.backwards, "x nan, x inf, x integers, x complex, x single",
         x=SERIES, lengths=LENGTH),
    call("Recurrent", recurrent.Recurrent, layers=2, frozen=1, sw=1.0, su=1.0, sb=0.1, sh=0.1,
         sv=1.0),
    call("learn", limit.learn, k=GRAM[:2, :2], y=SIGNS[:2], max_steps=5),
    call("moved_kernel", limit.moved_kernel, f"{ROWS_OF_X}, x axes, step negative", module=NET,
         params=PARAMS, direction=STEPPED, x=X, step=0.1),
    call("kernel_derivative", limit.kernel_derivative, f"{ROWS_OF_X}, x axes", module=NET,
         params=PARAMS, direction=STEPPED, x=X, length=1e-3),
    call("batch_flow", exhausted(lambda **given: flow.batch_flow(
        **given, generator=Generator().manual_seed(0))), "params row", module=SINGLE,
        params=functional.select(SINGLES, slice(1)), x=X, y=SIGNS, alpha=1.0, batch=3,
        max_steps=10),
    call("ContinuousMomentum", lambda mu, low, high: flow.ContinuousMomentum(mu, (low, high)),
         mu=10.0, low=0.1, high=0.3),
    call("RevMLP", reversible.RevMLP, d=4, width=8, blocks=2, c=2, seed=0),
    call("RevMLP.initial", REVERSIBLE.initial, seed=0, std=1e-3),
    call("RevMLP.inverse", reversible.RevMLP(4, 8, 2, 2).double().inverse,
         "x1 nan, x1 inf, x2 nan, x2 inf", x1=X, x2=X),
    call("cholesky", reversible.cholesky, features=ROWS, target=ROWS[:, :2]),
    call("damped", lambda damping, **given: reversible.damped(damping)(**given), damping=0.1,
         features=ROWS, target=ROWS[:, :2]),
    call("truncated", lambda rtol, atol, **given: reversible.truncated(rtol, atol)(**given),
         rtol=0.01, atol=1e-5, features=ROWS, target=ROWS[:, :2]),
    call("right_inverse", reversible.right_inverse, net=REVERSIBLE, params=REVERSIBLE.initial(0),
         x=ROWS[:N, :4], eps=ROWS[:N, 4:6]),
    *(call(f"{sketch.__name__}.draw", lambda sketch=sketch, **given: sketch.draw(
        **given, generator=Generator()), p=2, q=3, size=4) for sketch in SKETCHES),
    *(call(sketch.__name__, sketch.draw(D, C, 4, Generator()), "a nan, a inf, b nan, b inf", a=X,
           b=ONE_HOT) for sketch in SKETCHES),
    call("MLP", models.MLP, d=2, width=3, depth=2, c=1, bottleneck=2),
    call("ConvNet", models.ConvNet, c_in=1, width=3, c=1, side=5),
    call("ResNet", models.ResNet, d=2, width=3, depth=2, c=1),
    call("RNN", models.RNN, m=2, width=3, layers=2, c=1, sw=1.0, su=1.0, sb=0.0, sv=1.0),
    call("initialise", lambda module, seed: models.initialise(module, seed),
         "module wide, module plain", module=NET, seed=0),
    call("initialise_stack", lambda seed: models.initialise_stack(NET, [0, seed]), seed=0),
]  # fmt: skip


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for name, function, given, fine in CALLS:
        for argument, value in given.items():
            for kind, bad in spoiled(value):
                if (argument, kind) not in fine:
                    both = {**given, argument: bad}
                    yield f"{name}: {argument} {kind}", lambda f=function, g=both: f(**g)


CASES = [
    *cases(),
    *((f"{name}: {kind}", lambda f=f, x=x: f(x)) for name, f in OF_INPUTS.items()
      for kind, x in UNFIT.items()),
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
    *((f"{name} of 0 networks", f) for name, f in {
        "flow": lambda: flow.flow(SINGLE, functional.select(SINGLES, slice(0)), X, SIGNS, NONE,
                                  NONE),
        "regression": lambda: kernels.regression(K[None][:0], K_TEST[None][:0], SIGNS),
        "distance": lambda: kernels.distance(K[None][:0], K),
        "spectrum": lambda: linearised.spectrum(FULL[None][:0]),
        "initialise_stack": lambda: models.initialise_stack(NET, []),
        "stack": lambda: functional.stack([]),
    }.items()),
    ("labels of 0 and 1", lambda: probes.error_rate(OUTPUTS[..., 0], (SIGNS + 1) / 2)),
    ("targets that are numbers of classes", lambda: probes.misclassified(OUTPUTS, CLASSES)),
    ("a single output", lambda: probes.misclassified(OUTPUTS[..., :1], ONE_HOT[:, :1])),
    ("unit_gradients of several outputs", lambda: probes.unit_gradients(NET, STACK, X)),
    ("state_singular_values of images", lambda: probes.state_singular_values(
        IMAGES, models.initialise_stack(IMAGES, [0]), normal(2, 1, 28, 28))),
    ("preactivations of a recurrent network", lambda: probes.preactivations(
        SEQUENCES, models.initialise_stack(SEQUENCES, [0]), SERIES)),
    ("a barrier between networks of two kinds", lambda: probes.barrier(
        functional.norm, STACK, SINGLES)),
    ("a barrier between single networks", lambda: probes.barrier(
        functional.norm, PARAMS, PARAMS)),
    ("lanczos: no symmetry", lambda: lanczos(lambda v: v @ K.triu(), ROWS[0, :N], 3)),
    ("lanczos: fewer numbers", lambda: lanczos(lambda v: v[..., :3], ROWS[0, :N], 3)),
    ("lanczos: axes that change places", lambda: lanczos(lambda v: v.mT, ROWS[:2, :N], 3)),
    ("lanczos: begun with more steps", lambda: lanczos(
        product, ROWS[0, :N], 2, lanczos(product, ROWS[0, :N], 3))),
    *((f"relinearise: {kind}", lambda batches=batches: rounds(
        ONES, module=NET, params0=STACK, x=X, y=ONE_HOT, alpha=ONES, batches=iter(batches)))
      for kind, batches in {
        "no batches": [], "batches that end": [CLASSES[:2]], "rows": [torch.tensor([0, 9])] * 99,
        "rows below zero": [torch.tensor([0, -1])] * 99,
        "batches of two sizes": [torch.tensor([0, 1]), torch.tensor([2])] * 99,
      }.items()),
    ("relinearise: a loss by its name", lambda: rounds(
        ONES, module=NET, params0=STACK, x=X, y=ONE_HOT, alpha=ONES, loss="squared")),
    ("relinearise: a number", lambda: rounds(1.0, module=NET, params0=STACK, x=X, y=ONE_HOT,
                                             alpha=ONES)),
    ("lengths without sequences", lambda: RECURRENT.kernels(SERIES, lengths2=LENGTH)),
    ("learn: a loss that is none", lambda: limit.learn(K, SIGNS, "logistic")),
    ("kernel_derivative: nowhere", lambda: limit.kernel_derivative(
        NET, PARAMS, {k: 0 * v for k, v in PARAMS.items()}, X)),
    ("kernel_derivative of a stack", lambda: limit.kernel_derivative(NET, STACK, OTHERS, X)),
    ("batch_flow: a rule with a gradient", lambda: flow.batch_flow(
        *ALONE, 1.0, Generator(), rule=flow.GradientFlow())),
    ("batch_flow: no generator", lambda: flow.batch_flow(*ALONE, 1.0, None)),
    ("batch_flow of two networks", lambda: flow.batch_flow(
        SINGLE, SINGLES, X, SIGNS, 1.0, Generator())),
    ("flow: a rule of descent", lambda: flow.flow(
        SINGLE, SINGLES, X, SIGNS, ONES, ONES, rule=descent.gradient_descent(0.1))),
    ("flow: a loss of outputs", lambda: flow.flow(
        SINGLE, SINGLES, X, SIGNS[:, None], ONES, ONES, losses.SQUARED)),
    ("descend: a rule of flow", lambda: descent.descend(
        SINGLE, SINGLES, X, SIGNS, ONES, "hinge", flow.GradientFlow())),
    ("draws without a generator", lambda: descent.draws(N, 2, None)),
    ("seeds in a word", lambda: models.initialise_stack(NET, "012")),
    ("weights that are integers", lambda: models.initialise(NET, 0, torch.int64)),
    ("MLP: activation", lambda: models.MLP(2, 3, 1, activation="gelu")),
    ("RevMLP: the first activation", lambda: reversible.RevMLP(4, 8, 2, 2, first="gelu")),
    ("a head that takes two outputs", lambda: models.Headed(NET, "softmax")(X.float())),
    ("a sketch of odd size", lambda: TensorSRHT.draw(2, 3, 5, Generator())),
    ("moments of other features", lambda: Moments.of([(X, ONE_HOT)])
     + Moments.of([(RESIDUAL, ONE_HOT)])),
    ("a Jacobian without factors", lambda: factored.Jacobian(J.value, ()).gram()),
    ("a Jacobian of fewer examples", lambda: factored.Jacobian(J.value[:3], J.factors).gram()),
    ("a Jacobian of one output", lambda: factored.Jacobian(J.value[:, 0], J.factors).vjp(RESIDUAL)),
    ("a Jacobian of a list", lambda: factored.Jacobian(J.value.tolist(), J.factors).jvp(PARAMS)),
    ("a Jacobian with a tensor", lambda: J.gram(X)),
    ("a Jacobian with that of a stack", lambda: J.gram(jacobian(NET, STACK, X))),
    ("Jacobians at unlike examples", lambda: factored.stack_jacobians(
        [J, jacobian(NET, PARAMS, X[:3])])),
    *((f"measure: {kind}", lambda options=options: measure(NET, PARAMS, STEPPED, MANY, **options))
      for kind, options in {
        "a pattern": {"params": ["*lora*"]}, "no patterns": {"params": None}, "sums": {"sums": 0},
        "half a sum": {"sums": 2.5}, "one class": {"y": 0 * CLASSES.repeat(4)},
        "classes of each output": {"y": ONE_HOT.repeat(4, 1).long()},
      }.items()),
    ("a batch with copies", lambda: exhausted(linearised.descend_outputs)(
        kernel=FULL, f=RESIDUAL, y=ONE_HOT, loss=losses.SQUARED, rate=0.01,
        batches=[torch.tensor([0, 0])])),
]  # fmt: skip
