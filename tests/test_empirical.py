"""The factored Jacobian and its kernel against dense automatic differentiation, on any module."""

import gc
import weakref
from weakref import WeakKeyDictionary

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev, vjp
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from tangents import models
from tangents._ntk import layers, route
from tangents._ntk.tiles import Tiles
from tangents.empirical import jacobian, ntk
from tangents.factored import OUTPUTS, TILE
from tangents.functional import select, stack
from tests.cases import CASES, MODULES, STACKS, Applied, all_close, close, flat, like, name, normal

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, in vmap
every_case = pytest.mark.parametrize("case", CASES + MODULES, ids=name)


def dense_jacobian(module, params, x):
    """(n, c, p), by reverse mode, one output at a time."""
    return flat(jacrev(lambda p: functional_call(module, p, (x,)))(params), 2)


def is_dense(module, params, x):
    """The kernel is that of the dense Jacobian."""
    J = dense_jacobian(module, params, x)
    close(ntk(module, params, x), torch.einsum("icp,jdp->ijcd", J, J))


def outputs_of(kernel):
    """The diagonal and the trace over outputs of a full kernel (n, m, c, c)."""
    return {
        "diagonal": kernel.diagonal(dim1=-2, dim2=-1),
        "trace": kernel.diagonal(0, 2, 3).sum(-1),
    }


@every_case
def test_kernel_is_jacobian_times_jacobian(case):
    params, x1, x2 = case.params(), case.x(3), case.x(2, seed=1)
    J1, J2 = (dense_jacobian(case.module, params, x) for x in (x1, x2))
    for x, J in ((x2, J2), (None, J1)):
        want = torch.einsum("icp,jdp->ijcd", J1, J)
        close(ntk(case.module, params, x1, x), want)
        for outputs, part in outputs_of(want).items():
            close(ntk(case.module, params, x1, x, outputs), part)


@every_case
def test_tangent_is_the_jacobian(case):
    params, x = case.params(), case.x(4)
    J = dense_jacobian(case.module, params, x)
    v, t = like(params), jacobian(case.module, params, x)
    u = normal(*t.value.shape, seed=5)

    def f(p):
        return functional_call(case.module, p, (x,))

    close(t.value, f(params))
    close(t.jvp(v), J @ flat(v))
    all_close(t.vjp(u), vjp(f, params)[1](u)[0])
    close(t.diagonal(), J.square().sum(-1))
    part = t.map(lambda each: each[:2])
    close(part.gram(t), torch.einsum("icp,jdp->ijcd", J[:2], J))
    close(part.jvp(v), t.jvp(v)[:2])


@pytest.mark.parametrize("case", MODULES, ids=name)
def test_which_layers_are_structured(case):
    params, x = case.params(), case.x(3)
    assert route.Route.of(case.module, params, x, 0).structured == set(case.structured)


@pytest.mark.parametrize("case", (*STACKS, *MODULES), ids=name)
def test_stack_is_its_networks(case):
    params, x, x2 = case.stack(0, 1, 2), case.x(3), case.x(2, seed=1)
    kernel, t = ntk(case.module, params, x, x2), jacobian(case.module, params, x)
    v, u = like(params), normal(*t.value.shape, seed=4)
    for i in range(3):
        one = select(params, i)
        alone = jacobian(case.module, one, x)
        close(kernel[i], ntk(case.module, one, x, x2))
        for outputs in OUTPUTS:
            close(t.gram(outputs=outputs)[i], alone.gram(outputs=outputs))
        close(t.value[i], alone.value)
        close(t.diagonal()[i], alone.diagonal())
        close(t.jvp(v)[i], alone.jvp(select(v, i)))
        all_close(select(t.vjp(u), i), alone.vjp(u[i]))


@every_case
def test_forward_and_backward_are_adjoint(case):
    params = case.params()
    t = jacobian(case.module, params, case.x(4))
    v, u = like(params), normal(*t.value.shape, seed=5)
    close((t.jvp(v) * u).sum(), sum((v[k] * g).sum() for k, g in t.vjp(u).items()), 1e4)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("images", [False, True])
def test_tiles_and_blocks_change_nothing(outputs, stacked, images, monkeypatch, unchecked):
    module = models.ConvNet(2, 2, c=3) if images else models.MLP(3, 5, 2, c=3)
    shape = (2, 19, 19) if images else (3,)
    x, x2 = normal(7, *shape), normal(5, *shape, seed=1)
    params = models.initialise_stack(module, [0, 1]) if stacked else models.initialise(module, 0)

    def kernels(**options):
        return [ntk(module, params, x, other, outputs, **options) for other in (None, x2)]

    want = kernels()
    got = [kernels(budget=budget) for budget in (1e4, 1e5)]
    for constant, value in (
        ("factored.TILE", 4),
        ("factored.PANEL", 2),
        ("_ntk.layers.NARROW", 0),
        ("_ntk.route.LONG", 1),
        ("_ntk.layers.TOGETHER", 2),
        ("_ntk.route.TRANSIENT", 2**12),
    ):
        monkeypatch.setattr(f"tangents.{constant}", value)
        got.append(kernels())
    for kernel in got:
        for one, other in zip(kernel, want, strict=True):
            close(one, other)
    assert TILE > 7 * 3


@every_case
def test_parts_change_nothing(case, monkeypatch):
    """Outputs and examples one by one, and traces output by output, for stacks too."""
    params, several, x = case.params(), case.stack(0, 1), case.x(3)
    want = [ntk(case.module, params, x, None, outputs) for outputs in OUTPUTS]
    monkeypatch.setattr("tangents._ntk.layers.TOGETHER", 1)
    monkeypatch.setattr("tangents._ntk.route.TRANSIENT", 1)
    monkeypatch.setattr("tangents._ntk.route.LONG", 0)
    monkeypatch.setattr(route, "_ROUTES", WeakKeyDictionary())
    for outputs, kernel in zip(OUTPUTS, want, strict=True):
        for budget in (None, 1e4, 1e2):
            close(ntk(case.module, params, x, None, outputs, budget), kernel)
            close(ntk(case.module, several, x, None, outputs, budget)[0], kernel)


def test_outputs_share_a_pass(monkeypatch):
    batched = []
    plain = layers._gradients
    monkeypatch.setattr(
        layers, "_gradients", lambda *a: [batched.append(a[2:] != ()), plain(*a)][1]
    )
    module = models.MLP(3, 4, 1, c=5)
    ntk(module, models.initialise(module, 0), normal(2, 3))
    assert batched
    assert all(batched)


def test_a_trace_of_long_rows_is_summed_output_by_output(monkeypatch):
    monkeypatch.setattr("tangents._ntk.route.LONG", 10)
    module = models.ConvNet(1, 2, c=3)
    params, x = models.initialise(module, 0), normal(2, 1, 19, 19)
    assert Tiles.of(module, params, x, None, "trace", None).thin().group == 1
    assert Tiles.of(module, params, x, None, "full", None).thin().group == 0


def test_a_budget_is_kept_by_outputs_at_a_time_and_by_blocks():
    module = models.MLP(3, 40, 2, c=8)
    params, x = models.initialise(module, 0), normal(20, 3)

    def parts(outputs, budget):
        tiles = Tiles.of(module, params, x, None, outputs, budget).thin()
        return tiles.group, len(tiles.places())

    row = 8 * (8 * 2 * 40 + 8 + 3 + 2 * 40)  # bytes of an example's factors
    assert parts("trace", 2 * 20 * row) == parts("full", 2 * 20 * row) == (0, 1)
    assert [parts("trace", budget * 20 * row)[0] for budget in (1.2, 0.6)] == [2, 1]
    assert parts("trace", 20 * row / 10)[0] == 0
    counts = [parts("full", 20 * row / part)[1] for part in (1, 2, 4, 8)]
    assert counts == sorted(set(counts))
    with pytest.raises(ValueError, match=r"a number of bytes above 0, got -1\.0"):
        ntk(module, params, x, budget=-1.0)


def test_no_examples_have_an_empty_kernel():
    module = models.MLP(3, 4, 1, c=2)
    t = jacobian(module, models.initialise(module, 0), normal(2, 3)).map(lambda v: v[:0])
    assert [t.gram(outputs=o).shape for o in OUTPUTS] == [(0, 0, 2, 2), (0, 0, 2), (0, 0)]


def test_a_gradient_that_takes_one_output_at_a_time():
    class Looks(torch.autograd.Function):
        """The identity, whose gradient asks for a number."""

        generate_vmap_rule = False

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (1.0 if gradient.sum().item() < 1e9 else 2.0)

    module = Applied(lambda m, x: m.b(Looks.apply(m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    params = {k: p.detach() for k, p in module.double().named_parameters()}
    x = normal(4, 3)
    plain = nn.Sequential(module.a, module.b)
    J = dense_jacobian(
        plain,
        dict(zip(("0.weight", "0.bias", "1.weight", "1.bias"), params.values(), strict=True)),
        x,
    )
    close(ntk(module, params, x), torch.einsum("icp,jdp->ijcd", J, J))


def test_images_that_must_lie_in_one_piece():
    """A view that channels last does not admit: the images stay as they are."""
    module = Applied(
        lambda m, x: m.read(m.conv(x).view(len(x), -1)),
        conv=nn.Conv2d(2, 3, 2),
        read=nn.Linear(12, 2),
    ).double()
    params, x = {k: p.detach() for k, p in module.named_parameters()}, normal(3, 2, 3, 3)
    is_dense(module, params, x)


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)
)
def test_any_shape(d, width, depth, c, n):
    module = models.MLP(d, width, depth, c=c)
    params, x = models.initialise(module, width), normal(n, d)
    is_dense(module, params, x)


@pytest.mark.parametrize("case", MODULES, ids=name)
def test_one_example_is_one_of_many(case):
    params, x = case.params(), case.x(3)
    close(ntk(case.module, params, x, x[:1]), ntk(case.module, params, x)[:, :1])


def test_a_network_is_probed_where_it_has_a_value():
    module = Applied(lambda m, x: m.read(x.sqrt()), read=nn.Linear(3, 1)).double()
    params = {k: p.detach() for k, p in module.named_parameters()}
    x = torch.zeros(2, 3).double()
    close(ntk(module, params, x).squeeze(), torch.ones(2, 2).double())


@pytest.mark.parametrize("case", MODULES, ids=name)
def test_single_precision(case):
    params, x = case.params(), case.x(3)
    want = ntk(case.module, params, x)
    half = {k: v.float() for k, v in params.items()}
    got = ntk(case.module.float(), half, x.float() if x.is_floating_point() else x)
    case.module.double()
    close(got, want.float())


@pytest.mark.parametrize("first", ["equal examples", "a zero read-out"])
def test_a_way_is_not_trusted_for_what_a_special_point_hides(first):
    """A linear layer that acts sequence first: its rows come right where examples do not differ."""
    module = Applied(
        lambda m, x: m.read(torch.tanh(m.mix(x.transpose(0, 1))).transpose(0, 1).mean(1)),
        mix=nn.Linear(2, 4), read=nn.Linear(4, 1),
    ).double()  # fmt: skip
    params = {k: p.detach() for k, p in module.named_parameters()}
    x, x0, special = normal(3, 3, 2), normal(3, 3, 2, seed=1), params
    if first == "equal examples":
        x0 = torch.ones_like(x0)
    else:
        special = params | {"read.weight": torch.zeros_like(params["read.weight"])}
    ntk(module, special, x0)
    is_dense(module, params, x)


def test_an_output_that_cancels_to_rounding_is_accepted():
    module = models.MLP(3, 8, 2)
    params, x = dict(models.initialise(module, 0)), normal(5, 3)
    first, then, read = (params[f"{k}.weight"] for k in ("hidden.0", "hidden.1", "readout"))
    first[4:], then[4:], then[:, 4:], read[:, 4:] = first[:4], then[:4], then[:, :4], -read[:, :4]
    assert functional_call(module, params, (x,)).abs().max() < 1e-14
    is_dense(module, params, x)


@pytest.mark.parametrize("way", ["keyword", "no gradient"])
def test_a_layer_that_is_called_in_another_way_takes_the_general_route(way):
    def forward(m, x):
        if way == "keyword":
            return m.b(torch.tanh(m.a(input=x)))
        with torch.no_grad():
            z = m.a(x)
        return m.b(torch.tanh(z))

    module = Applied(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2)).double()
    params = {k: p.detach() for k, p in module.named_parameters()}
    x = normal(4, 3)
    is_dense(module, params, x)


def test_a_stack_of_embeddings_multiplies():
    case = next(c for c in MODULES if c.vocabulary)
    params, x = case.stack(0, 1), case.x(3)
    t, v = jacobian(case.module, params, x), like(case.stack(0, 1))
    u = normal(*t.value.shape, seed=4)
    for i in range(2):
        one = jacobian(case.module, select(params, i), x)
        close(t.jvp(v)[i], one.jvp(select(v, i)))
        all_close(select(t.vjp(u), i), one.vjp(u[i]))


def test_nothing_is_left_behind():
    module, params = models.MLP(3, 4, 1), models.initialise(models.MLP(3, 4, 1), 0)
    with torch.no_grad():
        t = jacobian(module, params, normal(2, 3))
    held = [t.value, *(f.a for f in t.factors), *(f.b for f in t.factors)]
    assert not any(v.requires_grad for v in held)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_hooks_go_when_the_network_fails():
    module = models.MLP(3, 4, 1)
    with pytest.raises(ValueError, match="the module does not take inputs \\(2, 5\\)"):
        ntk(module, models.initialise(module, 0), normal(2, 5))
    assert not any(layer._forward_hooks for layer in module.modules())


def test_a_scale_that_is_stated_counts():
    layer = models.Linear(3, 1, bias=False)
    x = normal(4, 3)
    close(ntk(layer, {"weight": normal(1, 3)}, x)[..., 0, 0], x @ x.T / 3)


def test_the_products_of_the_last_layer_are_the_identity():
    """Theta of a linear read-out on fixed features: <a, a'> + 1 on the diagonal over outputs."""
    layer, x = nn.Linear(4, 3).double(), normal(5, 4)
    params = {k: v.detach() for k, v in layer.named_parameters()}
    close(ntk(layer, params, x), (x @ x.T + 1)[..., None, None] * torch.eye(3).double())


# ---- what is refused


class Mixing(nn.Module):
    """Centres the batch, so that examples depend on each other."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) - self.layer(x).mean(0)


class Sum(nn.Module):
    def forward(self, x):
        return x.sum()


REFUSED = {
    "batch statistics": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        "layer '1' .BatchNorm1d. is in training mode",
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)),
        "layer '1' .Dropout. is in training mode",
    ),
    "mixed examples": (Mixing, "depends on the others in its batch"),
    "weights that are rewritten": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Embedding(4, 2, max_norm=0.5)),
        "layer '1' .Embedding. rewrites its weights",
    ),
    "no axis of examples": (lambda: nn.Sequential(nn.Linear(3, 1), Sum()), "shape .n, "),
}


def two_layers(function):
    """A hidden layer a and a read-out b, joined by a function of (module, x)."""
    return Applied(function, a=nn.Linear(4, 6), b=nn.Linear(6, 3)).double()


COUPLED = {
    "sums": lambda m, x: m.b(torch.tanh(m.a(x).cumsum(0))),
    "differences from the first": lambda m, x: m.b(torch.tanh(m.a(x) - m.a(x)[:1])),
    "from three on": lambda m, x: m.b(torch.tanh(m.a(x) - (len(x) > 2) * m.a(x).mean(0))),
    "from five on": lambda m, x: m.b(torch.tanh(m.a(x) - (len(x) > 4) * m.a(x).mean(0))),
    "a branch on all": lambda m, x: m.b(torch.tanh(m.a(x)) if x.sum() > 0 else m.a(x)),
}


@pytest.mark.parametrize("function", COUPLED.values(), ids=COUPLED)
def test_examples_that_are_coupled_are_refused(function):
    module = two_layers(function)
    params = {k: p.detach() for k, p in module.named_parameters()}
    for seed in range(3):
        x = normal(6, 4, seed=seed)
        x = x - x.sum() / x.numel() + 0.1 * torch.linspace(-1, 2, 6)[:, None]
        with pytest.raises(ValueError, match="depends on the others in its batch"):
            ntk(module, params, x)


CHANCE = {
    "dropout": lambda m, x: m.b(F.dropout(torch.tanh(m.a(x)), 0.01, m.training)),
    "stochastic depth": lambda m, x: m.b(m.a(x) * (torch.rand(len(x), 1) > 0.001)),
    "RReLU": lambda m, x: m.b(F.rrelu(m.a(x), training=m.training)),
}


@pytest.mark.parametrize("function", CHANCE.values(), ids=CHANCE)
def test_what_draws_random_numbers_is_refused_and_draws_none_of_the_callers(function):
    module = two_layers(function).train()
    params = {k: p.detach() for k, p in module.named_parameters()}
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="draws random numbers"):
        ntk(module, params, normal(6, 4))
    assert torch.equal(state, torch.get_rng_state())


def sorted_inside(m, x):
    order = x[:, 0].argsort()
    return m.b(torch.tanh(m.a(x[order])))[order.argsort()]


def experts(m, x):
    """Each row by one of two layers."""
    out, chosen = x.new_zeros(len(x), 3), x[:, 0] > 0
    for side, layer in ((chosen, m.a), (~chosen, m.c)):
        out = out.index_put((side.nonzero().flatten(),), m.b(layer(x[side])))
    return out


@pytest.mark.parametrize("function", [sorted_inside, experts])
@pytest.mark.parametrize("seed", range(3))
def test_rows_may_be_reordered_inside(function, seed):
    module = two_layers(function)
    module.c = nn.Linear(4, 6).double()
    is_dense(module, {k: p.detach() for k, p in module.named_parameters()}, normal(7, 4, seed=seed))


def test_rows_that_torch_adds_up_come_one_by_one():
    """A batch of two and a PReLU: under vmap its rows are those of both examples together."""
    module = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)).double()
    params = {k: p.detach() for k, p in module.named_parameters()}
    for seed in range(4):
        x = normal(2, 3, seed=seed)
        rows = [dense_jacobian(module, params, xi) for xi in x.split(1)]
        J = torch.cat(rows)
        close(ntk(module, params, x), torch.einsum("icp,jdp->ijcd", J, J))


def test_a_tensor_of_two_layers_stays_a_parameter_of_both():
    module = Applied(lambda m, x: m.c(m.b(torch.tanh(m.a(x)))), a=nn.Linear(4, 4),
                     b=nn.Linear(4, 4), c=nn.Linear(4, 3)).double()  # fmt: skip
    module.b.weight, module.again = module.a.weight, module.c
    params = {k: p.detach() for k, p in module.named_parameters()}
    ntk(module, params, normal(5, 4))  # torch's own call, as an oracle, does not leave them so
    held = module.a.weight, module.b.weight, module.c.weight, module.again.weight
    assert all(isinstance(v, nn.Parameter) for v in held) and module.b.weight is module.a.weight
    is_dense(module, params, normal(5, 4))


@pytest.mark.parametrize("build, message", REFUSED.values(), ids=REFUSED)
def test_no_map_of_single_examples_is_refused(build, message):
    module = build()
    params = {k: p.detach() for k, p in module.named_parameters()}
    with pytest.raises(ValueError, match=message) as error:
        ntk(module, params, normal(2, 3).float())
    assert "\n" not in str(error.value)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_pruned_weights_are_known_by_their_own_name():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = normal(4, 3)
    ntk(module, {k: p.detach() for k, p in module.named_parameters()}, x)
    prune.l1_unstructured(module[0], "weight", 0.5)
    params = {k: p.detach() for k, p in module.named_parameters()}
    assert "0.weight_orig" in params
    is_dense(module, params, x)


def test_half_precision_that_does_not_hold_the_kernel_is_refused():
    module = models.MLP(3, 4, 1)
    params = models.initialise(module, 0, torch.float16)
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        ntk(module, params, 500 * normal(3, 3).half())


def test_bad_input_is_named():
    module = models.MLP(3, 4, 1)
    params, x = models.initialise(module, 0), normal(5, 3)

    def fails(message, p=params, x1=x, **options):
        with pytest.raises(ValueError, match=f"^{message}"):
            ntk(module, p, x1, **options)

    fails("x1 holds values that are not finite", x1=torch.where(x > 1, torch.nan, x))
    fails(
        "'?hidden.0.weight'? .*not finite", params | {"hidden.0.weight": torch.full((4, 3), 1e999)}
    )
    fails("the output is not finite", {k: 1e300 * v for k, v in params.items()})
    fails(r"params hold 'other': accepted are hidden\.0\.weight", params | {"other": x})
    fails("params hold no parameter", {})
    fails(
        "'readout.weight' must have shape .1, 4., got .4,.", params | {"readout.weight": x[:4, 0]}
    )
    fails("params must all be of one", params | {"readout.bias": x[:2, :1]})
    fails("outputs must be one of full, diagonal, trace", outputs="all")
    fails("there are no inputs", x1=x[:0])
    assert stack([params, params]).keys() == params.keys()


def detached(module):
    return {k: p.detach() for k, p in module.named_parameters()}


def small():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return module, detached(module), normal(5, 3)


def test_a_part_of_the_parameters_has_the_kernel_of_these_alone():
    module, params, x = small()
    parts = [ntk(module, {k: v}, x) for k, v in params.items()]
    close(sum(parts), ntk(module, params, x))
    head = {k: v for k, v in params.items() if k.startswith("2.")}
    assert jacobian(module, head, x).vjp(normal(5, 2)).keys() == head.keys()
    several = stack([head, {k: 2 * v for k, v in head.items()}])
    close(ntk(module, several, x)[0], parts[2] + parts[3])


def test_inputs_may_be_dicts_and_tuples_and_outputs_of_any_shape():
    module, params, x = small()
    want = ntk(module, params, x, x[:2])
    for build, pick in ((lambda x: {"x": x, "more": [x]}, lambda x: x["more"][0]),
                        (lambda x: (x[:, :1], x[:, 1:]), lambda x: torch.cat(x, 1))):  # fmt: skip
        whole = Applied(lambda m, x, pick=pick: m.body(pick(x)).unsqueeze(1), body=module)
        given = {f"body.{k}": v for k, v in params.items()}
        close(ntk(whole, given, build(x), build(x[:2])), want)
        with pytest.raises(ValueError, match="common first axis"):
            ntk(whole, given, (x, x[:2]))
    single = Applied(lambda m, x: m.body(x)[:, 0], body=module)
    close(ntk(single, {f"body.{k}": v for k, v in params.items()}, x, x[:2]), want[..., :1, :1])


def test_a_table_with_padding_is_structured():
    module = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 2))
    params, ids = detached(module.double()), torch.tensor([[0, 1], [2, 0], [3, 3], [0, 0]])
    is_dense(module, params, ids)
    assert route.Route.of(module, params, ids, 0).structured == {"0", "2"}


def test_padding_leaves_what_is_added_to_a_table_as_it_is():
    """A sum hands one signal to both of its terms."""
    module = Applied(
        lambda m, x: m.c(m.a(x) + m.b((x[:, :1] > 0).long()).flatten(1)),
        a=nn.Linear(3, 4), b=nn.Embedding(2, 4, padding_idx=1), c=nn.Linear(4, 2),
    ).double()  # fmt: skip
    for n in (1, 2, 6):
        x = normal(n, 3)
        is_dense(module, detached(module), x - x[0, 0] + 1 - 2 * torch.arange(n)[:, None])


def test_numbers_of_few_digits_beside_others():
    """A body in bfloat16 and outputs in single precision; single precision, outputs in double."""
    for inner, outer, error in ((torch.bfloat16, torch.float32, 0.1),
                                (torch.float32, torch.float64, 1e-5)):  # fmt: skip
        body, params, x = small()
        module = Applied(lambda m, x, t=outer: m.body(x).to(t), body=body.to(inner))
        kernel = ntk(module, {f"body.{k}": v.to(inner) for k, v in params.items()}, x.to(inner))
        want = ntk(body.double(), params, x)
        assert kernel.dtype == outer
        assert (kernel - want).abs().max() < error * want.abs().max()


def test_checkpoints_compute_anew_at_the_parameters_given():
    body, params, x = small()
    module = Applied(lambda m, x: checkpoint(m.body, x, use_reentrant=False), body=body)
    params = {f"body.{k}": 2 * v for k, v in params.items()}
    close(ntk(module, params, x), ntk(body, {k[5:]: v for k, v in params.items()}, x))
    reentrant = Applied(lambda m, x: checkpoint(m.body, x, use_reentrant=True), body=body)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        ntk(reentrant, params, x)


def test_no_graph_is_expected_in_vain():
    module, params, x = small()
    assert not ntk(module, dict(module.named_parameters()), x).requires_grad
    for graph, at in (({k: 2 * p for k, p in module.named_parameters()}, x),
                      (params, x.clone().requires_grad_())):  # fmt: skip
        with pytest.raises(ValueError, match="asks for a derivative"):
            ntk(module, graph, at)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        with pytest.raises(ValueError, match="asks for a derivative"):
            transform(lambda p: ntk(module, p, x).sum())(params)


def test_inference_tensors_and_layers_that_write_into_their_inputs():
    module, params, x = small()
    want = ntk(module, params, x)
    with torch.inference_mode():
        close(ntk(module, {k: v.clone() for k, v in params.items()}, x.clone()), want)
    writing, before = nn.Sequential(nn.ReLU(inplace=True), *module), x.clone()
    ntk(writing, detached(writing), x)
    assert torch.equal(x, before)


class Kept(nn.Module):
    """A linear layer and parameters of odd kinds."""

    def __init__(self, odd, buffer=False):
        super().__init__()
        self.body, self.odd = nn.Linear(3, 2).double(), odd
        self.register_buffer("calls", torch.zeros(()) if buffer else None)

    def forward(self, x):
        if self.calls is not None:
            self.calls += 1
        return self.body(x) + self.odd.sum().real.double()


def test_parameters_of_odd_kinds_and_buffers_that_change():
    x = normal(4, 3)
    for odd in (torch.arange(3), torch.ones(2, dtype=torch.complex64)):
        module = Kept(nn.Parameter(odd, requires_grad=False))
        with pytest.raises(ValueError, match="'odd' is of type"):
            ntk(module, detached(module), x)
        close(ntk(module, {k: v for k, v in detached(module).items() if k != "odd"}, x),
              ntk(module.body, detached(module.body), x))  # fmt: skip
    module = Kept(nn.Parameter(torch.zeros(0, 3).double()))
    assert jacobian(module, detached(module), x).vjp(normal(4, 2))["odd"].shape == (0, 3)
    module = Kept(nn.Parameter(torch.zeros(1).double()), buffer=True)
    with pytest.raises(ValueError, match="rewrites its buffer 'calls'"):
        ntk(module, detached(module), x)
    assert module.calls == 0
    table = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Flatten()).double()
    assert ntk(table, detached(table), torch.tensor([[0, 1], [1, 1]]))[0, 1, 0, 0] == 0


def test_a_stack_whose_first_network_is_not_finite():
    module, params, x = small()
    lost = {k: torch.full_like(v, 1e308) for k, v in params.items()}
    lost["0.weight"] *= 0
    several = stack([lost, params])
    with pytest.raises(ValueError, match=r"finite for the inputs 0 to 5, of the networks \[0\]"):
        ntk(module, several, x)
    close(jacobian(module, several, x).gram()[1], ntk(module, params, x))
    mlp = models.MLP(3, 4, 1)
    good = models.initialise(mlp, 0)
    several = stack([{k: 1e300 * v for k, v in good.items()}, good])
    close(jacobian(mlp, several, x).gram()[1], ntk(mlp, good, x))
    with pytest.raises(ValueError, match=r"of the networks \[0\]"):
        ntk(mlp, several, x)
    with pytest.raises(ValueError, match="a stack of 0 networks"):
        ntk(mlp, {k: v[:0] for k, v in several.items()}, x)


CHANGES = {
    "activation": lambda m: setattr(m, "activation", torch.relu),
    "head": lambda m: setattr(m, "readout", nn.Sequential(m.readout, nn.Tanh())),
    "hook": lambda m: m.hidden[0].register_forward_hook(lambda _, __, z: 2 * z),
    "input hook": lambda m: m.readout.register_forward_pre_hook(lambda _, a: (a[0].cumsum(-1),)),
    "scale": lambda m: setattr(m.hidden[1], "in_features", 40),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_module_that_changes_after_its_first_kernel_gets_a_new_route(change):
    module, x = models.MLP(3, 5, 2, c=2, activation="tanh"), normal(4, 3)
    ntk(module, models.initialise(module, 0), x)
    change(module)
    params = models.initialise(module, 0)
    rows = jacrev(lambda p: functional_call(module, p, (x,)))(params)
    J = torch.cat([rows[k].flatten(2) for k in params], -1)
    close(ntk(module, params, x), torch.einsum("icp,jdp->ijcd", J, J))


def test_a_module_that_is_pruned_after_its_first_kernel_wants_its_new_parameters():
    module, x = models.MLP(3, 5, 2, c=2), normal(4, 3)
    params = models.initialise(module, 0)
    ntk(module, params, x)
    prune.l1_unstructured(module.hidden[1], "weight", 0.5)
    with pytest.raises(ValueError, match=r"params hold 'hidden.1.weight'"):
        ntk(module, params, x)


class Switched(nn.Module):
    """A linear layer that is applied once more, depending on something that can change."""

    def __init__(self):
        super().__init__()
        self.a = models.Linear(4, 4)
        self.options, self.calls = {"twice": False}, [1]
        self.register_buffer("times", torch.zeros(()))

    def forward(self, x):
        x = torch.tanh(self.a(x))
        twice = self.options["twice"] or self.calls[0] > 1 or bool(self.times > 0)
        return torch.nn.functional.linear(x, self.a.weight[..., :, :]) if twice else x


SWITCHES = {
    "dictionary": lambda m: m.options.update(twice=True),
    "list": lambda m: m.calls.append(m.calls.pop() + 1),
    "buffer in place": lambda m: m.times.fill_(1),
    "another buffer": lambda m: setattr(m, "times", torch.ones(())),
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_a_module_whose_settings_change_gets_a_new_route(switch):
    module, x = Switched(), normal(3, 4)
    params = models.initialise(module, 0)
    ntk(module, params, x)
    switch(module)
    J = dense_jacobian(module, params, x)
    close(ntk(module, params, x), torch.einsum("icp,jdp->ijcd", J, J))


def test_routes_keep_no_module_alive_and_stay_few():
    class Counting(models.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    module = Counting(3, 2)
    module.closure = module.forward
    for _ in range(20):
        ntk(module, models.initialise(module, 0), normal(2, 3))
    assert len(route._ROUTES[module]) <= route.KEPT
    watched = weakref.ref(module)
    del module
    gc.collect()
    assert watched() is None
