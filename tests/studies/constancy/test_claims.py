"""The chapter's claims on invented tables whose laws are known exactly."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from tangents.lab.evidence import Accept, Table
from tests.studies.judging import CLAIMS, SETTINGS, claim_of, jitter, judged

WIDTHS = (32, 128, 512)


def table(law, metric="kernel_largest", part="head", converged=1.0, grid=None, step=3, **columns):
    """Runs of three widths and five seeds whose `metric` is law(row), at one step."""
    rows = []
    for m in WIDTHS:
        for point in grid or [{}]:
            for seed in range(5):
                run = {"part": part, "width": m, "seed": seed, "depth": 1, "head": "linear"}
                run |= {"bottleneck": 0, "alpha": 1.0, "positive": False, "rate": 0.5}
                run |= columns | point
                run["run_id"] = repr(sorted(run.items()))
                for name, value in ((metric, law(run)), ("converged", converged)):
                    rows.append(run | {"step": step, "time": 1.0, "metric": name, "value": value})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("slope, verdict", [(-0.9, "supported"), (-0.2, "contradicted")])
def test_the_kernel_vanishes_or_does_not(slope, verdict):
    frame = table(lambda r: jitter(r["seed"]) * r["width"] ** slope)
    found = judged("liu-3a", frame)
    assert found.estimate == pytest.approx(slope) and found.verdict == verdict


@pytest.mark.parametrize("size, verdict", [(4, "supported"), (1.1, "contradicted")])
def test_what_does_not_vanish_is_also_large(size, verdict):
    """A change of the kernel that is as flat as asked for, but no larger than a linear head's."""

    def law(r):
        return jitter(r["seed"]) * (size if r["head"] == "tanh" else 1)

    found = judged("liu-4c", table(law, grid=[{"head": "tanh"}, {"head": "linear"}]))
    assert found.estimate == pytest.approx(0) and found.verdict == verdict


def test_what_is_known_at_the_start_counts_unconverged_runs_too():
    law = lambda r: jitter(r["seed"]) * r["width"] ** 0.05  # noqa: E731
    frame = table(law, "hessian", head="tanh", converged=0.0, step=0)
    found = judged("liu-4a", frame)
    assert found.estimate == pytest.approx(0.05) and found.n_runs == 15
    frame = table(law, head="tanh", converged=0.0)
    with pytest.raises(LookupError, match="no converged run"):
        claim_of("liu-4c").estimate("liu-4c", Table(frame))


def test_the_kernel_stays_below_the_bound():
    def frame(change):
        laws = {"kernel_largest": change, "radius": 2.0, "gradient": 1.0, "hessian_steepest": 0.1}
        steps = {"kernel_largest": 3, "radius": 3}
        return pd.concat(
            table(lambda r, v=v: v * jitter(r["seed"]), name, step=steps.get(name, 0))
            for name, v in laws.items()
        ).drop_duplicates(["run_id", "metric"])

    found = judged("liu-3d", frame(0.22))  # q = 0.2, the bound 0.44
    assert found.estimate == pytest.approx(0.5, rel=0.02) and found.verdict == "supported"
    assert judged("liu-3d", frame(0.6)).verdict == "contradicted"


def test_signals_over_the_layers():
    frames = [
        table(lambda r: jitter(r["seed"]) * r["width"] ** -0.5, f"signal_inf_{k}", step=0, depth=3)
        for k in (1, 2, 3)
    ]
    found = judged("liu-1c", pd.concat(frames))
    assert found.estimate == pytest.approx(-0.5) and found.n_runs == 15


def test_ratio_of_the_heads_at_the_largest_width():
    law = lambda r: jitter(r["seed"]) * (r["width"] / 32 if r["head"] == "tanh" else 1)  # noqa: E731
    frame = table(law, grid=[{"head": "tanh"}, {"head": "linear"}])
    found = judged("liu-6c", frame)
    assert found.estimate == pytest.approx(16) and found.verdict == "supported"
    frame = table(law, "radius", grid=[{"head": "tanh"}, {"head": "linear"}])
    assert judged("liu-6b", frame).verdict == "contradicted"


def test_order_of_the_bottlenecks():
    grid = [{"bottleneck": b} for b in (0, 1, 10)]
    law = lambda r: jitter(r["seed"]) * max(r["bottleneck"], 1) ** -0.3  # noqa: E731
    found = judged("liu-5c", table(law, part="bottleneck", grid=grid))
    assert found.estimate == pytest.approx(-0.3) and found.n_runs == 30


def test_an_unconverged_run_is_counted_against_convergence():
    assert judged("liu-7a", table(lambda r: 1.0)).verdict == "supported"
    failed = judged("liu-7a", table(lambda r: 1.0, converged=0.0))
    assert failed.estimate == 0 and failed.verdict == "contradicted"


def test_the_plane_tells_one_from_a_half():
    grid = [{"alpha": a, "positive": p} for a in (1.0, 4.0, 16.0) for p in (False, True)]
    law = lambda r: jitter(r["seed"]) / r["alpha"] / r["width"] ** (1 - r["positive"] / 2)  # noqa: E731
    frame = table(law, part="plane", grid=grid)
    for name, want in (("scale", 1), ("width", 1), ("sign", 0.5)):
        found = judged(f"beyond-plane-{name}", frame)
        assert found.estimate == pytest.approx(want) and found.verdict == "supported"


def test_errors_of_the_linear_model():
    frames = [
        table(lambda r, d=d: jitter(r["seed"]) * d**2 / r["width"] ** 0.5,
              f"linear_error_top_{d}", step=0)
        for d in (0.5, 1, 2, 4)
    ]  # fmt: skip
    found = judged("liu-8a", pd.concat(frames))
    assert found.estimate == pytest.approx(2) and found.n_runs == 5
    assert judged("liu-8c", frames[-1]).estimate == pytest.approx(-0.5)
    cubic = [table(lambda r, d=d: d**3, f"linear_error_top_{d}", step=0) for d in (1, 2)]
    assert judged("liu-8a", pd.concat(cubic)).verdict == "contradicted"


def test_the_pl_condition():
    ratios = table(lambda r: 0.5 * jitter(r["seed"]) + 0.5 * (r["width"] < 512), "pl_ratio")
    eigenvalues = table(lambda r: 1.0, "eigenvalue_min", step=0)
    largest = table(lambda r: 20.0, "eigenvalue_max", step=0)
    found = judged("liu-7c", pd.concat([ratios, eigenvalues, largest]))
    assert found.estimate == pytest.approx(0.5) and found.verdict == "contradicted"
    ratios = ratios.assign(value=lambda f: f["value"].where(f["metric"] != "pl_ratio", 30.0))
    found = judged("liu-7c", pd.concat([ratios, eigenvalues, largest]))
    assert found.estimate == pytest.approx(30) and found.verdict == "contradicted"


@pytest.mark.parametrize("power, verdict", [(1, "supported"), (0.25, "contradicted")])
def test_the_logarithm_of_the_loss_is_linear_in_time(power, verdict):
    frames = [
        table(lambda r, t=t: jitter(r["seed"]) * math.exp(-3 * t**power), "loss").assign(time=t)
        for t in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    ]
    assert judged("liu-7d", pd.concat(frames)).verdict == verdict


def test_the_smallest_eigenvalue_of_any_part_counts():
    parts = [
        pd.concat([table(lambda r, v=v: v, "eigenvalue_lowest", part),
                   table(lambda r: 1.0, "eigenvalue_min", part, step=0)])
        for part, v in (("head", 0.5), ("mnist", 1e-4))
    ]  # fmt: skip
    found = judged("liu-7b", pd.concat(parts))
    assert found.estimate == pytest.approx(1e-4) and found.n_runs == 30


def test_the_catapult():
    grid = [{"rate": r} for r in (0.5, 2.5)]
    law = lambda r: jitter(r["seed"]) * (10 if r["rate"] > 2 else 1)  # noqa: E731
    found = judged("beyond-catapult", table(law, part="catapult", grid=grid))
    assert found.estimate == pytest.approx(10) and found.verdict == "supported"
    ends = table(lambda r: 1.5 * jitter(r["seed"]), "sharpness", "catapult", grid=grid)
    assert judged("beyond-catapult-end", ends).verdict == "supported"
    law = lambda r: 1.5 + 0.6 * (r["width"] == 32 and r["seed"] == 0)  # noqa: E731
    ends = table(law, "sharpness", "catapult", grid=grid)
    found = judged("beyond-catapult-end", ends)
    assert found.estimate == pytest.approx(14 / 15) and found.verdict == "contradicted"


def test_identities_take_the_worst_run():
    frame = table(lambda r: 1e-12 if r["width"] < 512 else 1e-3, "hessian_identity")
    assert judged("liu-9a", frame).verdict == "contradicted"


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


def test_an_eigenvalue_below_zero_contradicts():
    law = lambda r: -1e-3 if (r["seed"], r["width"]) == (0, 32) else 0.5  # noqa: E731
    lowest = table(law, "eigenvalue_lowest", rate=0.5)
    first = table(lambda r: 1.0, "eigenvalue_min", rate=0.5, step=0)
    found = judged("liu-7b", pd.concat([lowest, first]))
    assert found.verdict == "contradicted" and found.note == "1 are not above 0"
