"""The chapter's claims on invented tables whose laws are known exactly."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tangents import models
from tangents.lab.evidence import Accept, Table
from tangents.studies.constancy import predictions
from tests.cases import dense_hessian
from tests.studies.judging import CLAIMS, SETTINGS, claim_of, jitter, judged

WIDTHS = (32, 128, 512)
BOTH = [{"head": "tanh"}, {"head": "linear"}]


def table(law, metric="kernel_largest", part="head", converged=1.0, grid=None, step=3, **columns):
    """Runs of three widths and five seeds whose `metric` is law(row), at one step."""
    rows = []
    for m in WIDTHS:
        for point in grid or [{}]:
            for seed in range(5):
                run = {"part": part, "width": m, "seed": seed, "depth": 1, "head": "linear"}
                run |= {"bottleneck": 0, "alpha": 1.0, "positive": False, "rate": 0.5}
                run |= {"network": "mlp"} | columns | point
                run["run_id"] = repr(sorted(run.items()))
                for name, value in ((metric, law(run)), ("converged", converged)):
                    rows.append(run | {"step": step, "time": 1.0, "metric": name, "value": value})
    return pd.DataFrame(rows)


def starts(law, metric, **columns):
    return table(law, metric, step=0, **columns)


def together(*frames):
    return pd.concat(frames).drop_duplicates(["run_id", "metric", "step"])


@pytest.mark.parametrize("slope, verdict", [(-0.9, "supported"), (-0.2, "contradicted")])
def test_the_kernel_vanishes_or_does_not(slope, verdict):
    frame = table(lambda r: jitter(r["seed"]) * r["width"] ** slope)
    found = judged("liu-3a", frame)
    assert found.estimate == pytest.approx(slope) and found.verdict == verdict
    narrow = table(lambda r: jitter(r["seed"]) * r["width"] ** -0.2, part="conv")
    narrow["width"] //= 4
    assert judged("liu-3f", narrow).verdict == "outside"


@pytest.mark.parametrize("slope, verdict", [(0, "supported"), (0.2, "contradicted")])
def test_the_hessian_falls_as_the_largest_weight_does(slope, verdict):
    law = lambda r: jitter(r["seed"]) * predictions.largest_weight(r["width"]) * r["width"] ** slope  # noqa: E731
    found = judged("liu-1a", starts(law, "hessian"))
    assert found.estimate == pytest.approx(slope) and found.verdict == verdict
    trained = table(law, "hessian_trained", depth=3)
    assert judged("liu-1c", trained).verdict == verdict


@pytest.mark.parametrize("factor, verdict", [(1, "supported"), (1.3, "contradicted")])
def test_what_independent_draws_predict(factor, verdict):
    laws = {
        "hessian": predictions.hessian_norm,
        "linear_error_random_4": lambda m: 2 * factor * predictions.random_error(m, 4.0),
    }
    for (metric, law), name in zip(laws.items(), ("hessian", "error"), strict=True):
        frame = starts(lambda r, law=law: factor * jitter(r["seed"]) * law(r["width"]), metric)
        found = judged(f"beyond-draws-{name}", frame)
        assert found.verdict == ("contradicted" if name == "error" else verdict)
    for when, made in (("", starts), ("_trained", table)):
        share = lambda r: 3 * factor * jitter(r["seed"]) * predictions.largest_share(r["width"])  # noqa: E731
        frames = [made(share, f"signal_inf_2{when}", depth=3),
                  made(lambda r: 3.0, f"signal_two_2{when}", depth=3)]  # fmt: skip
        name = "trained" if when else "unit"
        assert judged(f"beyond-draws-{name}", together(*frames)).verdict == verdict


@pytest.mark.parametrize("size, verdict", [(4, "supported"), (1.1, "contradicted")])
def test_what_does_not_vanish_is_also_large(size, verdict):
    """A change of the kernel that is as flat as asked for, but no larger than a linear head's."""
    law = lambda r: jitter(r["seed"]) * (size if r["head"] == "tanh" else 1)  # noqa: E731
    found = judged("liu-4d", table(law, grid=BOTH))
    assert found.estimate == pytest.approx(0) and found.verdict == verdict
    small = table(lambda r: 0.02 * law(r), grid=BOTH)
    assert judged("liu-4d", small).verdict == "contradicted"  # flat, large beside others, but small


def test_the_hessian_of_a_tanh_head():
    def frame(own, added):
        sizes = {"linear": lambda r: r["width"] ** -0.5, "tanh": lambda r: own}
        return together(
            starts(lambda r: jitter(r["seed"]) * sizes[r["head"]](r), "hessian", grid=BOTH),
            starts(lambda r: added * jitter(r["seed"]), "head_curvature", head="tanh"),
        )

    found = judged("liu-4a", frame(0.4, 0.4))
    assert found.estimate == pytest.approx(1) and found.verdict == "supported"
    for own, added in ((0.1, 0.4), (0.4, 0.04), (0.03, 0.04)):
        assert judged("liu-4a", frame(own, added)).verdict == "contradicted"


def test_bottlenecks():
    grid = [{"bottleneck": b} for b in (1, 3, 10, 30)]
    law = lambda r: jitter(r["seed"]) * r["bottleneck"] ** -0.3  # noqa: E731
    other = table(lambda r: r["width"] ** -0.8, depth=3)
    frame = together(table(law, part="bottleneck", grid=grid), other)
    found = judged("liu-5c", frame)
    assert found.estimate == pytest.approx(-0.3) and found.n_runs == 45
    assert judged("liu-5b", frame).verdict == "supported"
    falls = table(lambda r: law(r) * r["width"] ** -0.5, part="bottleneck", grid=grid)
    assert judged("liu-5b", together(falls, other)).verdict == "contradicted"


def test_what_is_known_at_the_start_counts_unconverged_runs_too():
    frame = starts(lambda r: jitter(r["seed"]), "gradient", converged=0.0)
    assert judged("liu-2a", frame).n_runs == 15
    with pytest.raises(LookupError, match="no converged run"):
        claim_of("liu-3a").estimate("liu-3a", Table(table(lambda r: 1.0, converged=0.0)))


@pytest.mark.parametrize("ratio, verdict", [(1.2, "supported"), (2, "contradicted")])
def test_ratio_of_the_distances_at_the_largest_width(ratio, verdict):
    law = lambda r: jitter(r["seed"]) * (ratio if r["head"] == "tanh" else 1)  # noqa: E731
    far = lambda r: law(r) * (1 if r["width"] == 512 else 9)  # noqa: E731
    found = judged("liu-6a", table(far, "radius", grid=BOTH))
    assert found.estimate == pytest.approx(ratio) and found.verdict == verdict


def test_an_unconverged_run_is_counted_against_convergence():
    assert judged("liu-7a", table(lambda r: 1.0)).verdict == "supported"
    failed = judged("liu-7a", table(lambda r: 1.0, converged=0.0))
    assert failed.estimate == 0 and failed.verdict == "contradicted"
    for other in (dict(part="swish"), dict(part="conv", network="conv"), dict(rate=2.5)):
        frame = together(table(lambda r: 1.0), table(lambda r: 1.0, converged=0.0, **other))
        assert judged("liu-7a", frame).verdict == "supported"
    with pytest.raises(LookupError, match="no run that the statement is about"):
        claim_of("liu-7b").estimate("liu-7b", Table(table(lambda r: 1.0)))


def test_the_linear_model():
    frame = starts(lambda r: jitter(r["seed"]) / r["width"] ** 0.5, "linear_error_top_4")
    found = judged("liu-8a", frame)
    assert found.estimate == pytest.approx(-0.5) and found.verdict == "supported"


def test_the_plane_tells_one_from_a_half():
    grid = [{"alpha": a, "positive": p} for a in (1.0, 4.0, 16.0) for p in (False, True)]
    law = lambda r: jitter(r["seed"]) / r["alpha"] / r["width"] ** (1 - r["positive"] / 2)  # noqa: E731
    frame = table(law, part="plane", grid=grid)
    for name, want in (("scale", 1), ("width", 1), ("sign", 0.5)):
        found = judged(f"beyond-plane-{name}", frame)
        assert found.estimate == pytest.approx(want) and found.verdict == "supported"


def test_the_catapult():
    grid = [{"rate": r} for r in (0.5, 2.5)]
    law = lambda r: jitter(r["seed"]) * (10 if r["rate"] > 2 else 1)  # noqa: E731
    found = judged("beyond-catapult-kernel", table(law, part="catapult", grid=grid))
    assert found.estimate == pytest.approx(0) and found.verdict == "supported"
    flat = table(lambda r: jitter(r["seed"]), part="catapult", grid=grid)
    assert judged("beyond-catapult-kernel", flat).verdict == "contradicted"
    far = lambda r: law(r) / predictions.hessian_norm(r["width"])  # noqa: E731
    found = judged("beyond-catapult-radius", table(far, "radius", "catapult", grid=grid))
    assert found.estimate == pytest.approx(0) and found.verdict == "supported"
    fixed = table(law, "radius", "catapult", grid=grid)  # does not grow with the width
    assert judged("beyond-catapult-radius", fixed).verdict == "contradicted"


def test_controls():
    inside = table(lambda r: jitter(r["seed"]) / r["width"], "inside_largest", head="tanh")
    assert judged("control-undone-one", inside).verdict == "supported"
    given = table(lambda r: jitter(r["seed"]) / r["width"])
    for slope, verdict in ((-1, "supported"), (-0.5, "contradicted")):
        law = lambda r, s=slope: r["width"] ** (s + 0.01 * r["seed"])  # noqa: E731
        found = judged("control-labels", together(given, table(law, part="labels")))
        assert found.estimate == pytest.approx(slope + 1.02) and found.verdict == verdict
    fails = table(lambda r: 1.0, part="swish")
    assert judged("control-swish", fails).verdict == "contradicted"
    half = (fails["metric"] == "converged") & (fails["seed"] > 1)
    fails.loc[half, "value"] = 0.0
    assert judged("control-swish", fails).estimate == pytest.approx(0.4)


def test_the_largest_of_many_normal_numbers():
    """By quadrature: E max |v_i| is the integral of 1 - P(|v| < z)^m; two numbers on a circle."""
    z, step = np.linspace(0, 8, 100_001, retstep=True)
    inside = np.vectorize(math.erf)(z / math.sqrt(2))
    for m in (32, 2048):
        mean = (1 - inside**m).sum() * step
        assert predictions.largest_weight(m) == pytest.approx(mean / math.sqrt(m), rel=0.01)
    assert predictions.largest_share(2) == pytest.approx(2 * math.sqrt(2) / math.pi, rel=0.01)


def test_predictions_for_networks_of_four_units():
    """Dense Hessians of drawn networks, their norms and what they do to a random step."""
    m, d, r, count = 4, predictions.DIMENSION, 0.1, 400
    x = torch.zeros(d).double()
    x[0] = math.sqrt(d)
    net = models.MLP(d, m, 1, activation="tanh", bias=False)
    generator, norms, errors = torch.Generator().manual_seed(1), [], []
    for seed in range(count):
        H = dense_hessian(net, models.initialise(net, seed, torch.float64), x)
        norms.append(torch.linalg.matrix_norm(H, 2).item())
        u = torch.randn(100, len(H), generator=generator, dtype=torch.float64)
        bend = ((u @ H) * u).sum(1) / u.square().sum(1)
        errors.append(r**2 / 2 * bend.abs().mean().item())
    for found, want in ((norms, predictions.hessian_norm(m)),
                        (errors, predictions.random_error(m, r))):  # fmt: skip
        assert abs(np.mean(found) - want) < 4 * np.std(found) / math.sqrt(count)
        assert np.std(found) / math.sqrt(count) < 0.04 * want


def test_claims_of_both_chapters_have_names_of_their_own():
    assert len(set(SETTINGS)) == len(SETTINGS)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_equal_claims_have_one_digest(setting):
    claim = claim_of(setting)
    asked = claim.settings[setting]
    turned = asked._replace(options=dict(reversed(asked.options.items())))
    for equal in (replace(claim), replace(claim, settings={setting: turned})):
        assert equal.digest(setting) == claim.digest(setting)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_digest_tells_what_is_accepted_and_asked(setting):
    claim = claim_of(setting)
    asked, accept = claim.settings[setting], claim.accepted(setting)
    others = [asked._replace(accept=accept._replace(**end)) for end in ({"low": -7}, {"high": 77})]
    for name in (*asked.options, "another"):
        others.append(asked._replace(options={**asked.options, name: "other"}))
    changed = {replace(claim, settings={setting: other}).digest(setting) for other in others}
    assert len(changed) == len(others) and claim.digest(setting) not in changed


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_digest_knows_the_claims_range_unless_the_setting_has_its_own(setting):
    claim = claim_of(setting)
    same = replace(claim, accept=Accept("another", -7, 77)).digest(setting) == claim.digest(setting)
    assert same == (claim.settings[setting].accept is not None)
