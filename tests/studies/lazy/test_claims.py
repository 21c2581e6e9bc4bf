"""The chapter's claims on invented tables whose laws are known exactly."""

import math

import pandas as pd
import pytest

from tangents.lab.evidence import Table
from tangents.studies.lazy.claims import CLAIMS
from tests.studies.judging import jitter, judged

SCALES = [10.0**e for e in (-2, -1, 0, 0.5, 1, 1.5, 2, 2.5, 3, 4)]


def table(law, part="phase", metric="kernel_change", converged=1.0, scales=SCALES, **columns):
    """Runs of three widths and five seeds whose last `metric` is law(h, s, seed)."""
    rows = []
    for h in (32, 64, 128):
        for s in scales:
            for seed in range(5):
                run = {"run_id": f"{h}-{s}-{seed}", "part": part, "width": h, "scaled_alpha": s}
                run |= {"seed": seed, "depth": 5, **columns}
                for name, value in ((metric, law(h, s, seed)), ("converged", converged)):
                    rows.append(run | {"time": 1.0, "metric": name, "value": value})
    return pd.DataFrame(rows)


def test_the_border_of_the_kernel():
    frame = table(lambda h, s, seed: jitter(seed) / s, part="border")
    found = judged("geiger-1a", frame)
    assert found.estimate == pytest.approx(-0.5) and found.verdict == "supported"
    frame = table(lambda h, s, seed: jitter(seed) / (s * math.sqrt(h)), part="border")
    found = judged("geiger-1a", frame)
    assert found.verdict == "outside", "the widths are narrower than the paper's"
    wide = judged("geiger-1a", frame.assign(width=frame["width"] * 4))
    assert wide.verdict == "contradicted"
    assert found.note == "threshold 0.3; -1.00 with 0.1, -1.00 with 1"


@pytest.mark.parametrize("power, verdict", [(0, "supported"), (-0.5, "outside")])
def test_the_border_of_the_error(power, verdict):
    """The error rises, linearly in log s, over a decade around 30 (h / 64)^power."""

    def law(h, s, seed):
        rise = math.log10(s / 30) - power * math.log10(h / 64) + 0.5
        return jitter(seed) * (0.1 + 0.02 * min(max(rise, 0), 1))

    found = judged("geiger-1b", table(law, metric="error"))
    assert found.estimate == pytest.approx(-0.5 + power, abs=0.1) and found.verdict == verdict
    place = judged("geiger-1c", table(law, metric="error"))
    assert place.estimate == pytest.approx(30, rel=0.1) and place.verdict == "supported"


def test_the_growth_of_the_output():
    frame = table(lambda h, s, seed: jitter(seed) * math.sqrt(h), metric="output_t1")
    start = table(lambda h, s, seed: 1.0, metric="output_norm").assign(step=0)
    found = judged("geiger-9b", pd.concat([frame, start]))
    assert found.estimate == pytest.approx(0.5) and found.verdict == "supported"


def test_an_exponent_within_a_range():
    frame = table(lambda h, s, seed: h * s**-1.7 if s <= 1 else 7.0)
    found = judged("geiger-10a", frame)
    assert found.estimate == pytest.approx(1.7) and found.verdict == "supported"


def test_unconverged_runs_are_left_out():
    frame = table(lambda h, s, seed: 1.0, converged=0.0)
    with pytest.raises(LookupError, match="no converged run"):
        Table(frame).ends("kernel_change", "phase")


def test_the_gap_in_points():
    law = lambda h, s, seed: 0.10 + (0.32 / h if s >= 1e4 else 0.0) * jitter(seed)  # noqa: E731
    frame = table(law, metric="error")
    found = judged("geiger-2a", frame)
    assert found.estimate == pytest.approx(0.25) and found.verdict == "supported"
    assert judged("geiger-2b", frame).verdict == "supported"


def test_the_lazy_residual_tells_one_from_a_half():
    for b, verdict in ((1.0, "supported"), (0.5, "contradicted")):
        law = lambda h, s, seed, b=b: jitter(seed) / (s / h**0.5) / h**b  # noqa: E731
        frame = table(law, part="residual", scales=[1e3, 1e4, 1e5])
        found = judged("beyond-residual", frame)
        assert found.estimate == pytest.approx(b) and found.verdict == verdict


def test_movement_and_change_per_distance():
    """dTheta ~ 1 / (alpha h) where the weights move by 1 / (alpha sqrt h): 1 / sqrt h each."""
    law = lambda h, s, seed: jitter(seed) / (s / h**0.5) / h  # noqa: E731
    way = lambda h, s, seed: 1 / (s / h**0.5) / h**0.5  # noqa: E731
    where = dict(part="residual", scales=[1e3, 1e4, 1e5])
    frame = pd.concat([table(law, **where), table(way, metric="distance", **where)])
    found = judged("beyond-residual-distance", frame)
    assert found.estimate == pytest.approx(-0.5) and found.verdict == "supported"


def test_the_depth_law_does_not_add_up_noise():
    """Noise whose mean over seeds is zero leaves the estimate near zero."""
    noise = [0.3, -0.3, 0.2, -0.2, 0.0]
    frames = [
        table(lambda h, s, seed, L=L: s ** -(2 * L / (L + 1) + noise[seed]), part="depth",
              scales=[1e-3, 1e-2, 1e-1], depth=L)
        for L in (1, 2, 3)
    ]  # fmt: skip
    frame = pd.concat([f.assign(run_id=f["run_id"] + f"-{k}") for k, f in enumerate(frames)])
    found = judged("beyond-depth", frame[frame["width"] == 64])
    assert found.estimate == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share, verdict", [(1.0, "supported"), (0.4, "contradicted")])
def test_what_the_last_kernel_has_of_the_gain(share, verdict):
    rows = []
    for seed in range(6):
        first, network = 0.11 + 0.001 * seed, 0.09
        last, fitted = first - share * (first - network), float(seed < 5)
        for time, metric, value in ((0.0, "frozen_error", first), (0.0, "frozen_converged", 1.0),
                                    (2.0, "frozen_error", last if fitted else 0.5),
                                    (2.0, "frozen_converged", fitted),
                                    (2.0, "error", network), (2.0, "converged", 1.0)):  # fmt: skip
            run = {"run_id": str(seed), "part": "frozen", "scaled_alpha": 1.0, "seed": seed}
            rows.append(run | {"time": time, "metric": metric, "value": value})
    found = judged("geiger-13a", pd.DataFrame(rows))
    assert found.estimate == pytest.approx(share) and found.verdict == verdict
    assert found.n_runs == 5, "the machine that did not fit is left out"


def test_a_narrow_network_does_not_contradict_what_wide_ones_do():
    law = lambda h, s, seed: 0.1 + (0.01 * jitter(seed) if s >= 1e4 else 0.0)  # noqa: E731
    frame = table(law, part="fashion", metric="error", scales=[1e-2, 1e4])
    assert judged("geiger-4a", frame).verdict == "outside"
    wide = frame.assign(width=frame["width"] * 10)
    assert judged("geiger-4a", wide).verdict == "contradicted"


def test_times_at_a_fixed_width_and_at_a_fixed_scale():
    frame = table(lambda h, s, seed: jitter(seed) * s / h**0.3, metric="t1")
    assert judged("geiger-7a", frame).verdict == "supported"
    found = judged("geiger-7c", frame)
    assert found.estimate == pytest.approx(-0.3) and found.verdict == "outside"


def test_claims_have_names_of_their_own_and_known_papers():
    ids = [setting for claim in CLAIMS for setting in claim.settings]
    assert len(set(ids)) == len(ids)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.paper for claim in CLAIMS} <= {"geiger2019", "geiger2020"}


def test_networks_that_never_cross_are_counted():
    frame = table(lambda h, s, seed: 0.01 if (h, seed) == (32, 0) else 1 / s, part="border")
    found = judged("geiger-1a", frame)
    assert found.estimate == pytest.approx(-0.5) and "1 networks never cross" in found.note
    assert found.n_runs == 150


def test_a_network_that_never_crosses_costs_not_its_seed():
    def law(h, s, seed):
        return 0.01 if h == 32 and seed < 4 else jitter(seed) / s

    found = judged("geiger-1a", table(law, part="border"))
    assert found.estimate == pytest.approx(-0.5) and found.seeds == 5
    assert found.verdict == "supported"


def test_a_depth_that_lacks_a_seed_leaves_it_out_there():
    frames = [
        table(lambda h, s, seed, L=L: jitter(seed) * s ** -(2 * L / (L + 1)), part="depth",
              scales=[1e-3, 1e-2], depth=L).assign(run_id=lambda f, L=L: f["run_id"] + f"-{L}")
        for L in (1, 2)
    ]  # fmt: skip
    frame = pd.concat(frames)
    frame = frame[frame["width"] == 64]
    lost = (frame["seed"] == 0) & (frame["depth"] == 1) & (frame["scaled_alpha"] == 1e-3)
    frame.loc[lost & (frame["metric"] == "converged"), "value"] = 0.0
    found = judged("beyond-depth", frame)
    assert found.estimate == pytest.approx(0, abs=1e-6) and found.n_runs == 19
    assert "1 of 20 runs did not converge" in found.note
