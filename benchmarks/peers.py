"""How each package solves a problem: `BUILD[task][peer](case)` gives a call returning its answer.

What can be prepared once is prepared before the call: tracing, compilation, loaders. Answers are
NumPy arrays, alike for all peers: kernels, changes of the parameters, outputs.
"""

from collections import deque
from functools import partial
from itertools import pairwise

import numpy as np
from problems import (
    BUDGETS,
    CNNS,
    MLPS,
    PHASE,
    PHASE_RATE,
    RATE,
    STACK,
    STEPS,
    Case,
    budgets,
    inputs,
    targets,
    weights,
)

RANK = 24  # of the Krylov space for PHASE steps at once; `leap` checks that it is enough
TOLERANCE = 1e-4  # relative residual at which conjugate gradients stop, of every peer

# ---- torch


def module_of(model: str, seed: int = 0):
    import torch
    from torch import nn

    if model in MLPS:
        pairs = list(pairwise(MLPS[model]))
        layers = [m for i, o in pairs for m in (nn.Linear(i, o), nn.ReLU())][:-1]
    else:
        channels, size = CNNS[model]
        layers = []
        for k, (i, o) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(i, o, 3, stride=2 if k else 1, padding=1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * (size // 4) ** 2, 10)]
    module = nn.Sequential(*layers)
    given = [v for pair in weights(model, seed) for v in pair]
    for p, value in zip(module.parameters(), given, strict=True):
        p.data = torch.from_numpy(value)
    return module.eval()


def torch_problem(case: Case):
    import torch

    module = module_of(case.model)
    params = {k: p.detach() for k, p in module.named_parameters()}
    return module, params, torch.from_numpy(inputs(case)), torch.from_numpy(targets(case))


def flat(params) -> np.ndarray:
    return np.concatenate([np.asarray(v).ravel() for v in params.values()])


def tangents_kernel(megabytes: int | None = None):
    """Within a budget if given."""
    budget = megabytes and megabytes * 2.0**20

    def build(case):
        from tangents.empirical import ntk

        module, params, x, _ = torch_problem(case)
        return lambda: ntk(module, params, x, outputs=case.outputs, budget=budget).numpy()

    return build


def tangents_step(case):
    from tangents.curvature import gauss_newton
    from tangents.empirical import jacobian
    from tangents.losses import SQUARED

    module, params, x, y = torch_problem(case)
    how = dict(dense=False, tolerance=TOLERANCE)
    return lambda: flat(gauss_newton(jacobian(module, params, x), y, SQUARED, **how).params)


def tangents_linearised(case):
    from tangents.empirical import jacobian

    module, params, x, y = torch_problem(case)
    anchor = jacobian(module, params, x)
    shift = {k: 0.01 * v for k, v in params.items()}

    def step():
        f = anchor.value + anchor.jvp(shift)
        gradient = anchor.vjp(f - y)
        return flat({k: v - RATE * gradient[k] for k, v in shift.items()})

    return step


def tangents_phase(case):
    from tangents.empirical import jacobian
    from tangents.linearised import krylov_spectrum, leap

    module, params, x, y = torch_problem(case)

    def phase():
        t = jacobian(module, params, x)
        residual = t.value - y
        return flat(
            leap(t, krylov_spectrum(t.gram(), residual, RANK), residual, PHASE_RATE, PHASE)[0]
        )

    return phase


def small_stack(case):
    """Parameters of all networks on a leading axis; targets such that each begins at F = 0."""
    import torch
    from torch.func import functional_call, vmap

    each = [[v for pair in weights(case.model, seed) for v in pair] for seed in range(STACK)]
    module = module_of(case.model)
    names = [name for name, _ in module.named_parameters()]
    params = {k: torch.from_numpy(np.stack(v)) for k, *v in zip(names, *each, strict=True)}
    x, y = torch.from_numpy(inputs(case)), torch.from_numpy(targets(case))
    f0 = vmap(lambda p: functional_call(module, p, (x,)))(params).detach()
    return params, x, y, f0


def tangents_stack(case):
    import torch
    from torch import nn

    from tangents import models
    from tangents.descent import descend, gradient_descent

    class Plain(models.Linear):
        """A layer that takes a stack, in the usual parametrisation."""

        scale = 1.0

    pairs = list(pairwise(MLPS[case.model]))
    module = nn.Sequential(*[m for i, o in pairs for m in (Plain(i, o), nn.ReLU())][:-1])
    params, x, y, f0 = small_stack(case)
    alpha, rule = torch.ones(STACK), gradient_descent(RATE)

    def train():
        states = descend(module, params, x, y[:, 0], alpha, "square", rule, steps=STEPS)
        (last,) = deque(states, maxlen=1)
        return (last.output.unsqueeze(-1) + f0).numpy()

    return train


def func_kernel(case):
    import torch
    from torch.func import functional_call, jacrev, vmap

    module, params, x, _ = torch_problem(case)
    shape = "nap,map->nm" if case.outputs == "trace" else "nap,mbp->nmab"

    def one(params, xi):
        return functional_call(module, params, (xi.unsqueeze(0),)).squeeze(0)

    def kernel():
        rows = vmap(jacrev(one), (None, 0))(params, x)
        return sum(torch.einsum(shape, v, v) for v in (r.flatten(2) for r in rows.values())).numpy()

    return kernel


def func_linearised(case):
    import torch
    from torch.func import functional_call, jvp, vjp

    module, params, x, y = torch_problem(case)
    shift = {k: 0.01 * v for k, v in params.items()}

    def step():
        def f(p):
            return functional_call(module, p, (x,))

        value, moved = jvp(f, (params,), (shift,))
        gradient = vjp(f, params)[1](value + moved - y)[0]
        return flat({k: v - RATE * gradient[k] for k, v in shift.items()})

    return torch.no_grad()(step)


def sgd_step(case):
    """For comparison: a step of gradient descent on the network itself."""
    import torch
    from torch.func import functional_call

    module, params, x, y = torch_problem(case)

    def step():
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        loss = (functional_call(module, leaves, (x,)) - y).square().sum() / 2
        found = torch.autograd.grad(loss, [*leaves.values()])
        return flat({k: v - RATE * g for (k, v), g in zip(params.items(), found, strict=True)})

    return step


def func_phase(case):
    """The same phase by explicit steps."""
    import torch
    from torch.func import functional_call, jvp, vjp

    module, params, x, y = torch_problem(case)

    def f(p):
        return functional_call(module, p, (x,))

    @torch.no_grad()
    def phase():
        value, pull = vjp(f, params)
        shift = {k: torch.zeros_like(v) for k, v in params.items()}
        for _ in range(PHASE):
            moved = jvp(f, (params,), (shift,))[1]
            gradient = pull(value + moved - y, retain_graph=True)[0]
            shift = {k: v - PHASE_RATE * gradient[k] for k, v in shift.items()}
        return flat(shift)

    return phase


def loop_stack(case):
    import torch
    from torch.func import functional_call

    params, x, y, f0 = small_stack(case)
    module = module_of(case.model)

    def train():
        outputs = []
        for i in range(STACK):
            w = {k: v[i].clone().requires_grad_() for k, v in params.items()}
            for _ in range(STEPS):
                loss = (functional_call(module, w, (x,)) - f0[i] - y).square().mean() / 2
                found = torch.autograd.grad(loss, [*w.values()])
                with torch.no_grad():
                    for v, g in zip(w.values(), found, strict=True):
                        v -= RATE * g
            with torch.no_grad():
                outputs.append(functional_call(module, w, (x,)))
        return torch.stack(outputs).numpy()

    return train


def vmap_stack(case, compiled=False):
    import torch
    from torch.func import functional_call, grad, vmap

    params, x, y, f0 = small_stack(case)
    module = module_of(case.model)

    def loss(w, f0):
        return (functional_call(module, w, (x,)) - f0 - y).square().mean() / 2

    def step(w):
        found = vmap(grad(loss))(w, f0)
        return {k: v - RATE * found[k] for k, v in w.items()}

    step = torch.compile(step) if compiled else step

    @torch.no_grad()
    def train():
        w = params
        for _ in range(STEPS):
            w = step(w)
        return vmap(lambda v: functional_call(module, v, (x,)))(w).numpy()

    return train


def torch_closed(case):
    """The recursion over layers as one would write it down."""
    import math

    import torch

    x, depth = torch.from_numpy(inputs(case)), int(case.model.split()[1])

    def kernel():
        k = x @ x.mT / x.shape[1]
        root = k.diagonal().sqrt()
        scale, theta = torch.outer(root, root), k
        for _ in range(depth):
            cosine = (k / scale).clamp(-1, 1)
            angle = math.pi - torch.acos(cosine)
            k = scale * ((1 - cosine * cosine).sqrt() + cosine * angle) / math.pi
            theta = k + theta * angle / math.pi
        return theta.numpy()

    return kernel


# ---- other packages on torch


def nngeometry_kernel(case):
    import torch
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object.fspace import FMatDense

    module, _, x, _ = torch_problem(case)
    data = torch.utils.data.TensorDataset(x)
    loader = torch.utils.data.DataLoader(data, batch_size=min(len(x), 256))
    layers = LayerCollection.from_model(module)

    def kernel():
        generator = TorchHooksJacobianBackend(
            model=module, layer_collection=layers, function=lambda *d: module(d[0])
        )
        full = FMatDense(generator, examples=loader).data.detach()  # (c, n, c, m)
        return full.permute(1, 3, 0, 2)

    return kernel


def nngeometry_array(case):
    kernel = nngeometry_kernel(case)
    if case.outputs == "trace":
        return lambda: kernel().diagonal(dim1=2, dim2=3).sum(-1).numpy()
    return lambda: kernel().numpy()


def solve_and_pull(torch, module, params, x, y, kernel):
    """J^T (J J^T)^-1 (y - f) from a full kernel (n, n, c, c)."""
    from torch.func import functional_call, vjp

    f, pull = vjp(lambda p: functional_call(module, p, (x,)), params)
    n, c = f.shape
    matrix = kernel.permute(0, 2, 1, 3).reshape(n * c, n * c)
    u = torch.cholesky_solve((y - f).reshape(-1, 1), torch.linalg.cholesky(matrix))
    return flat(pull(u.reshape(n, c))[0])


def nngeometry_step(case):
    import torch

    kernel = nngeometry_kernel(case)
    module, params, x, y = torch_problem(case)
    return lambda: solve_and_pull(torch, module, params, x, y, kernel())


def asdl_kernel(case):
    """One output alone, or the sum over outputs of the kernels of each."""
    from asdl.kernel import empirical_class_wise_hadamard_ntk

    module, _, x, _ = torch_problem(case)
    if case.outputs == "full":
        return lambda: empirical_class_wise_hadamard_ntk(module, x).unsqueeze(-1).numpy()
    return lambda: empirical_class_wise_hadamard_ntk(module, x).sum(-1).numpy()


def backpack_kernel(case):
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    module, _, x, _ = torch_problem(case)
    module = extend(module)

    def kernel():
        with backpack(BatchGrad()):
            module(x).sum().backward()
        rows = [p.grad_batch.flatten(1) for p in module.parameters()]
        return sum(r @ r.T for r in rows)[..., None, None].numpy()

    return kernel


def curvlinops_step(case):
    """Conjugate gradients on J J^T."""
    import scipy.sparse.linalg
    import torch
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    module, _, x, y = torch_problem(case)
    params = list(module.parameters())
    J = JacobianLinearOperator(module, params, [(x, y)], check_deterministic=False)
    JT = TransposedJacobianLinearOperator(module, params, [(x, y)], check_deterministic=False)

    def step():
        with torch.no_grad():
            r = (y - module(x)).flatten()

        def product(u):
            return (J @ (JT @ torch.from_numpy(np.asarray(u, "f4").ravel()))).detach().numpy()

        A = scipy.sparse.linalg.LinearOperator((len(r), len(r)), product, dtype="f4")
        u, info = scipy.sparse.linalg.cg(A, r.numpy(), rtol=TOLERANCE)
        assert info == 0, "conjugate gradients did not converge"
        return (JT @ torch.from_numpy(u.astype("f4"))).detach().numpy()

    return step


# ---- JAX


def jax_network(params, x):
    """Weights (in, out), convolutions (3, 3, in, out): the layouts that XLA likes."""
    import jax

    convolutions = 0
    for k, (w, b) in enumerate(params):
        if w.ndim == 4:
            strides = (2, 2) if convolutions else (1, 1)
            x = jax.lax.conv_general_dilated(
                x, w, strides, ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x, convolutions = x + b, convolutions + 1
        else:
            x = x.reshape(len(x), -1) @ w + b
        x = jax.nn.relu(x) if k + 1 < len(params) else x
    return x


def jax_problem(case, seed=0):
    """Images with channels last; the readout's inputs reordered likewise."""
    import jax.numpy as jnp

    params = []
    for w, b in weights(case.model, seed):
        if w.ndim == 4:
            channels, w = w.shape[0], w.transpose(2, 3, 1, 0)
        elif case.model in CNNS:
            size = CNNS[case.model][1] // 4
            w = w.reshape(10, channels, size, size).transpose(2, 3, 1, 0).reshape(-1, 10)
        else:
            w = w.T
        params.append((jnp.asarray(w), jnp.asarray(b)))
    x = inputs(case)
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    return params, jnp.asarray(x), jnp.asarray(targets(case))


def jax_flat(params) -> np.ndarray:
    """In the order and layout of torch; for fully connected networks."""
    return np.concatenate([np.asarray(v).T.ravel() for pair in params for v in pair])


def neural_tangents_kernel(implementation):
    def build(case):
        import jax
        import neural_tangents as nt

        params, x, _ = jax_problem(case)
        axes = (-1,) if case.outputs == "trace" else ()
        kernel = nt.empirical_ntk_fn(
            lambda p, x: jax_network(p, x), trace_axes=axes, vmap_axes=0,
            implementation=implementation,
        )  # fmt: skip
        jitted = jax.jit(lambda x, p: kernel(x, None, p))
        scale = case.c if case.outputs == "trace" else 1  # it takes the mean over outputs
        return lambda: np.asarray(jitted(x, params).block_until_ready()) * scale

    return build


def neural_tangents_dual(solve):
    """J^T u, where `solve(jax, kernel, y - f)` gives u from the whole kernel."""

    def build(case):
        import jax
        import jax.numpy as jnp
        import neural_tangents as nt

        params, x, y = jax_problem(case)
        kernel = nt.empirical_ntk_fn(
            lambda p, x: jax_network(p, x), trace_axes=(), vmap_axes=0, implementation=3
        )

        @jax.jit
        def change(params, x, y):
            f, pull = jax.vjp(lambda p: jax_network(p, x), params)
            matrix = kernel(x, None, params).transpose(0, 2, 1, 3).reshape(f.size, f.size)
            return pull(jnp.reshape(solve(jax, matrix, (y - f).ravel()), f.shape))[0]

        return lambda: jax_flat(jax.block_until_ready(change(params, x, y)))

    return build


def cholesky(jax, kernel, residual):
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(kernel), residual)


def many_steps(jax, kernel, residual):
    """The closed form of PHASE steps, from the spectrum."""
    values, vectors = jax.numpy.linalg.eigh(kernel)
    gain = -jax.numpy.expm1(PHASE * jax.numpy.log1p(-PHASE_RATE * values)) / values
    return vectors @ (gain * (vectors.T @ residual))


def jax_step(case):
    """Conjugate gradients on J J^T, with the network linearised once."""
    import jax

    params, x, y = jax_problem(case)

    @jax.jit
    def step(params, x, y):
        f, push = jax.linearize(lambda p: jax_network(p, x), params)
        pull = jax.linear_transpose(push, params)

        def product(u):
            return push(pull(u)[0])

        u, _ = jax.scipy.sparse.linalg.cg(product, y - f, tol=TOLERANCE, maxiter=1000)
        return pull(u)[0]

    return lambda: jax_flat(jax.block_until_ready(step(params, x, y)))


def jax_linearised_step(params, x, y, rate):
    import jax

    def f(p):
        return jax_network(p, x)

    def step(shift):
        value, moved = jax.jvp(f, (params,), (shift,))
        gradient = jax.vjp(f, params)[1](value + moved - y)[0]
        return jax.tree.map(lambda v, g: v - rate * g, shift, gradient)

    return step


def jax_linearised(case):
    import jax

    params, x, y = jax_problem(case)
    shift = jax.tree.map(lambda v: 0.01 * v, params)
    step = jax.jit(lambda p, s: jax_linearised_step(p, x, y, RATE)(s))
    return lambda: jax_flat(jax.block_until_ready(step(params, shift)))


def jax_phase(case):
    import jax
    import jax.numpy as jnp

    params, x, y = jax_problem(case)

    @jax.jit
    def phase(params):
        step = jax_linearised_step(params, x, y, PHASE_RATE)
        zero = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, PHASE, lambda _, s: step(s), zero)

    return lambda: jax_flat(jax.block_until_ready(phase(params)))


def jax_stack(case):
    import jax
    import jax.numpy as jnp

    each = [jax_problem(case, seed)[0] for seed in range(STACK)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *each)
    _, x, y = jax_problem(case)
    gradient = jax.grad(lambda p, f0: jnp.mean((jax_network(p, x) - f0 - y) ** 2) / 2)

    def one(params):
        f0 = jax_network(params, x)

        def step(p, _):
            return jax.tree.map(lambda v, g: v - RATE * g, p, gradient(p, f0)), None

        return jax_network(jax.lax.scan(step, params, None, STEPS)[0], x)

    train = jax.jit(jax.vmap(one))
    return lambda: np.asarray(train(stacked).block_until_ready())


def tangents_closed(case):
    import torch

    from tangents.infinite import fully_connected

    x = torch.from_numpy(inputs(case))
    depth = int(case.model.split()[1])
    return lambda: fully_connected(x, depth=depth, bias=False)[1].numpy()


def neural_tangents_closed(case):
    import jax
    import jax.numpy as jnp
    from neural_tangents import stax

    depth = int(case.model.split()[1])
    layers = [stax.Dense(1, W_std=1.0)]
    for _ in range(depth):
        layers += [stax.Relu(), stax.Dense(1, W_std=2**0.5)]
    _, _, kernel = stax.serial(*layers)
    x = jnp.asarray(inputs(case))
    jitted = jax.jit(lambda x: kernel(x, None, "ntk"))
    return lambda: np.asarray(jitted(x).block_until_ready())


BUILD = {
    "kernel": {
        "tangents": tangents_kernel(),
        **{f"tangents, {mb} MB": tangents_kernel(mb) for mb in sorted(BUDGETS)},
        "neural-tangents 3": neural_tangents_kernel(3),
        "neural-tangents 1": neural_tangents_kernel(1),
        "nngeometry": nngeometry_array,
        "asdl": asdl_kernel,
        "backpack": backpack_kernel,
        "torch.func": func_kernel,
    },
    "step": {
        "tangents": tangents_step,
        "neural-tangents 3": neural_tangents_dual(cholesky),
        "nngeometry": nngeometry_step,
        "curvlinops": curvlinops_step,
        "jax": jax_step,
    },
    "linearised": {
        "tangents": tangents_linearised,
        "torch.func": func_linearised,
        "jax": jax_linearised,
        "one step of the network": sgd_step,
    },
    "phase": {
        "tangents": tangents_phase,
        "torch.func": func_phase,
        "jax": jax_phase,
        "neural-tangents 3": neural_tangents_dual(many_steps),
    },
    "stack": {
        "tangents": tangents_stack,
        "torch, a loop": loop_stack,
        "torch.func": vmap_stack,
        "torch.compile": partial(vmap_stack, compiled=True),
        "jax": jax_stack,
    },
    "closed": {
        "tangents": tangents_closed,
        "neural-tangents": neural_tangents_closed,
        "torch": torch_closed,
    },
}


def measured(case: Case, peer: str) -> bool:
    """Whether a peer computes this: asdl knows no cross terms, backpack a single output only."""
    if peer.startswith("tangents, "):
        return int(peer.split()[1]) in budgets(case)
    if case.task == "kernel" and case.c > 1:
        return peer != "backpack" and not (peer == "asdl" and case.outputs == "full")
    return True
