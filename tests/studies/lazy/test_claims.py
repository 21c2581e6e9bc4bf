"""The chapter's claims on invented tables whose laws are known exactly."""

import math

import numpy as np
import pandas as pd
import pytest

from tangents.lab.evidence import Table
from tangents.studies.lazy.claims import CLAIMS, border
from tests.studies.judging import jitter, judged

INF = math.inf
WIDTHS = (100, 200, 400)


def table(law, part="feature", metric="kernel_change", scales=(1.0,), widths=WIDTHS, **columns):
    """Runs of these widths and scales and five seeds, whose last `metric` is law(h, s, seed)."""
    rows = []
    for h in widths:
        for s in scales:
            for seed in range(5):
                run = {"run_id": f"{part}-{h}-{s}-{seed}", "part": part, "width": h, "seed": seed}
                run |= {"scaled_alpha": s, "depth": 5, "n": 1000, "step": 1, "time": 1.0} | columns
                for name, value in ((metric, law(h, s, seed)), ("converged", 1.0)):
                    rows.append(run | {"metric": name, "value": value})
    return pd.DataFrame(rows)


def test_the_border_of_the_kernel_and_its_direction():
    scales = (30.0, 100.0)
    law = lambda h, s, seed: 15 * jitter(seed) / s  # noqa: E731
    found = judged("geiger-1a", table(law, "border", scales=scales))
    assert found.estimate == pytest.approx(-0.5) and found.verdict == "supported"
    upside_down = table(lambda *a: 0.09 / law(*a), "border", scales=scales)
    assert judged("geiger-1a", upside_down).verdict == "inconclusive"
    steeper = table(lambda h, s, seed: law(h, s, seed) * (h / 200) ** -0.3, "border", scales=scales)
    assert judged("geiger-1a", steeper).verdict == "contradicted"
    narrow = steeper.assign(width=steeper["width"] // 4)
    assert judged("geiger-1a", narrow).verdict == "outside", "narrower than the paper's"


def test_a_border_falls_through_its_level():
    assert border([10, 100], [3, 0.03], 0.3) == pytest.approx(10**1.5)
    for change in ([0.03, 3], [3, 1], [0.1, 0.03], [3]):
        assert math.isnan(border([10, 100][: len(change)], change, 0.3))


def test_the_planted_wrong_sign_must_fail():
    law = lambda h, s, seed: 15 * jitter(seed) / s  # noqa: E731
    assert judged("control-inverted", table(law, "border", scales=(30.0, 100.0))).estimate == 0


def test_half_height_of_the_error_and_its_direction():
    def rising(h, s, seed):
        return jitter(seed) * (0.1 + 0.01 * min(max(math.log10(min(s, 1e4) / 10), 0), 1))

    scales = (1.0, 10.0, 30.0, 100.0, INF)
    frame = table(rising, "phase", "error", scales, (64,))
    found = judged("geiger-1c", frame)
    assert found.estimate == pytest.approx(10**1.5, rel=0.1) and found.verdict == "supported"
    falling = frame.assign(value=frame["value"].where(frame["metric"] == "converged", -frame.value))
    assert judged("geiger-1c", falling).verdict == "inconclusive"


def test_gaps_are_lazy_minus_feature():
    law = lambda h, s, seed: 0.10 + (0.32 / h if s == INF else 0.0) * jitter(seed)  # noqa: E731
    frame = table(law, "phase", "error", (1.0, INF), (32, 64, 128))
    found = judged("geiger-2a", frame)
    assert found.estimate == pytest.approx(0.25) and found.verdict == "supported"
    assert judged("geiger-2b", frame).verdict == judged("geiger-2c", frame).verdict == "supported"
    turned = table(lambda h, s, seed: -law(h, s, seed), "phase", "error", (1.0, INF), (32, 64, 128))
    assert judged("geiger-2a", turned).verdict == "outside", "a fifth of the paper's images"


def test_the_convolutional_ratio_is_by_width():
    law = lambda h, s, seed: (2.0 if s > 1 else 1.0) * jitter(seed) / h  # noqa: E731
    frame = table(law, "conv", "error", (1.0, 1e3), (5, 10))
    assert judged("geiger-3a", frame).estimate == pytest.approx(2)
    assert "width 5" in judged("geiger-3b", frame).note


def outputs(spread):
    """Five draws of the data with three networks each, F = y + noise of that spread by width."""
    rows, arrays, rng = [], {}, np.random.default_rng(0)
    for draw in range(5):
        y = np.where(rng.normal(size=400) > 0, 1.0, -1.0)
        for h in WIDTHS:
            for k in range(3):
                run = f"{draw}-{h}-{k}"
                arrays[f"{run}/test_output"] = y + spread(h) * rng.normal(size=400)
                arrays[f"{run}/test_label"] = y
                rows.append({"run_id": run, "part": "members", "width": h, "scaled_alpha": 1.0,
                             "seed": k, "data_seed": draw, "time": 1.0, "step": 1,
                             "metric": "converged", "value": 1.0})  # fmt: skip
    return pd.DataFrame(rows), arrays


def test_variances_and_ensembles_are_over_draws(monkeypatch):
    frame, arrays = outputs(lambda h: 10 * h**-0.5)
    claims = {setting: (c, setting) for c in CLAIMS for setting in c.settings}

    def found(setting):
        claim, name = claims[setting]
        return claim.estimate(name, Table(frame, arrays))

    assert found("geiger-5a").value == pytest.approx(-1, abs=0.1) and found("geiger-5a").seeds == 5
    assert 0 < found("geiger-6a").value < 1
    short = frame.drop(frame.index[(frame["width"] == 100) & (frame["data_seed"] == 0)])
    frame = short
    assert found("geiger-5a").seeds == 4, "a draw that lacks a width is left out"


def test_exponents_in_scale_and_in_width():
    frame = table(lambda h, s, seed: jitter(seed) * s**-1.7, scales=(0.01, 0.1, 1.0))
    found = judged("geiger-10a", frame)
    assert found.estimate == pytest.approx(1.7) and found.verdict == "supported"
    assert judged("geiger-10c", frame).verdict == "supported"
    falls = table(lambda h, s, seed: jitter(seed) * s**-1.7 * h**-0.7, scales=(0.01, 0.1, 1.0))
    assert judged("geiger-10c", falls).verdict == "contradicted"
    one = table(lambda h, s, seed: jitter(seed) / s, "depth", scales=(0.01, 0.1, 1.0), depth=1)
    assert judged("beyond-depth-1", one).verdict == "supported"


def test_the_lazy_residual_tells_one_from_a_half():
    for b, verdict in ((1.0, "supported"), (0.5, "contradicted")):
        law = lambda h, s, seed, b=b: jitter(seed) / h**b  # noqa: E731
        change = table(law, "lazy", "alpha_change", (INF,))
        found = judged("beyond-residual", change)
        assert found.estimate == pytest.approx(-b) and found.verdict == verdict
    way = table(lambda h, s, seed: h**0.25, "lazy", "alpha_distance", (INF,))
    both = judged("beyond-residual-distance", pd.concat([change, way]))
    assert both.estimate == pytest.approx(-0.75)


def test_what_happens_at_t1():
    """A kernel that changes by (t / t1)^2 until t1, whatever the scale."""
    frames = []
    for s in (0.01, 0.1, 1.0):
        frames.append(table(lambda h, s, seed: 2 * s, metric="t1", scales=(s,), time=9.0))
        for u in np.geomspace(0.01, 2, 15):
            for name, law in (("kernel_change", 3 * u**2), ("output_change", u)):
                frames.append(table(lambda h, s, seed, v=law: jitter(seed) * v, metric=name,
                                    scales=(s,), time=2 * s * u))  # fmt: skip
    frame = pd.concat(frames).drop_duplicates(["run_id", "metric", "time"], ignore_index=True)
    frame.loc[frame["metric"] == "converged", "time"] = 9.0
    frame = frame.drop_duplicates(["run_id", "metric", "time"], ignore_index=True)
    assert judged("geiger-t1-before", frame).estimate == pytest.approx(0.03, rel=0.1)
    assert judged("geiger-t1-at", frame).estimate == pytest.approx(3, rel=0.1)
    for setting in ("geiger-t1-scale", "geiger-t1-width", "geiger-9a"):
        assert judged(setting, frame).verdict == "supported", setting


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


def test_noise_moves_the_kernel_more():
    noise = table(lambda h, s, seed: 4 * jitter(seed), "shuffled", widths=(100,))
    true = table(lambda h, s, seed: 1.0, widths=(100,))
    found = judged("control-shuffled-kernel", pd.concat([noise, true]))
    assert found.estimate == pytest.approx(4, rel=0.01) and found.verdict == "supported"


def test_claims_have_names_of_their_own_and_known_papers():
    ids = [setting for claim in CLAIMS for setting in claim.settings]
    assert len(set(ids)) == len(ids)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.paper for claim in CLAIMS} <= {"geiger2019", "geiger2020"}
    assert sum(claim.kind == "finding" for claim in CLAIMS) <= 12
