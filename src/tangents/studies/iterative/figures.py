"""The figures of the chapter on iterative linearisation, each a function of published rows."""

from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Estimate, Runs, Table, by_seed
from tangents.studies.iterative import claims
from tangents.studies.iterative.claims import SETUPS, ends, standard

COUNT = "linearisations $N$"
ERROR = "test error (%)"
ABOVE = "error above standard training (points)"


def counts(t: Table, part: str, metric: str = "error_linear", **where) -> Runs:
    """Of networks that were linearised at equal times, whatever their number."""
    given = dict(train="rounds", schedule="uniform", damping=0.0)
    return ends(t, part, metric, **given | where)


def over_counts(ax, runs: Runs, place: int, label: str | None = None, **line) -> None:
    draw.band(ax, runs, "rounds", place, label, **line)
    draw.label_widths(ax, runs["rounds"])


def level(ax, found: Estimate, place: int, label: str | None = None) -> None:
    """A mean with its interval, across the panel."""
    colour = draw.look(place)["color"]
    ax.axhline(found.value, color=colour, ls="--", lw=1.2, label=label)
    ax.axhspan(found.low, found.high, color=colour, alpha=0.1, lw=0)


def present(t: Table) -> dict[str, str]:
    """The set-ups that were run. Raises LookupError for none."""
    found = {part: words for part, words in SETUPS.items() if len(t.metric("converged", part))}
    if not found:
        raise LookupError(f"no run of {', '.join(SETUPS)}")
    return found


def headline(t: Table) -> Figure:
    """What rare updates cost, and how many tangents a training needs."""
    fig, (left, right) = draw.panels(2)
    left.set(xscale="log", xlabel=COUNT, ylabel=ABOVE)
    for place, (part, words) in enumerate(present(t).items()):
        runs, end = counts(t, part), by_seed(standard(t, part))
        above = runs.map(runs["value"] - runs["seed"].map(end))
        over_counts(left, above.where(rounds=(1, 32)), place, words)
    left.axhline(0, **draw.MARK)
    left.legend()
    draw.loglog(right, r"output scale $\alpha$", "tangents needed")
    needed = t.ends("tangents", "tangents").where(value=(1, 1e9))
    draw.bands(right, needed, "alpha", "width", lambda h: f"width {h}")
    right.legend()
    return fig


def curves(t: Table) -> Figure:
    """Test error of the tangent model and of the network against N, and along training."""
    fig, axes = draw.panels(2, rows=2, height=3.4)
    for ax, (part, words) in zip(axes, present(t).items(), strict=False):
        ax.set(xscale="log", xlabel=COUNT, ylabel=ERROR)
        ax.set_title(words, fontsize=11)
        over_counts(ax, counts(t, part), 0, "tangent model")
        over_counts(ax, counts(t, part, "error"), 1, "network", ls=":")
        level(ax, standard(t, part).mean(), 2, "standard training")
    axes[0].legend(fontsize=8.5)
    used = len(present(t)) + ("planes" in present(t))
    for ax in axes[used:]:
        ax.remove()
    if "planes" in present(t):
        along_training(axes[used - 1], t)
    return fig


def along_training(along, t: Table) -> None:
    """Errors along training on CIFAR-10, with one linearisation and with many."""
    along.set(xscale="log", xlabel="training time $t$ (units of the flow)", ylabel=ERROR)
    along.set_title("along training, CIFAR-10", fontsize=11)
    lazy = t.every("error_linear", "planes").where(rounds=1)
    draw.paths(along, percent(lazy), "time", 0, "one linearisation", lw=0.9)
    many = t.every("error_linear", "planes").where(rounds=32, schedule="geometric")
    draw.paths(along, percent(many), "time", 2, "32 linearisations", lw=0.9)
    along.legend(fontsize=8.5)


def percent(errors: Runs) -> Runs:
    return errors.map(100 * errors["value"])


def when(t: Table) -> Figure:
    """A single update at different times; and updates at different output scales."""
    fig, (left, right) = draw.panels(2)
    left.set(xscale="log", xlabel="time of the one update", ylabel=ERROR)
    draw.band(left, ends(t, "once"), "first", 0, "once anew")
    level(left, claims.uniform(t, "parity", 1).mean(), 1, "never")
    level(left, claims.uniform(t, "parity", 8).mean(), 2, "eight times")
    left.legend()
    right.set(xscale="log", xlabel=COUNT, ylabel=ERROR)
    scales = counts(t, "scale")
    draw.bands(right, scales, "rounds", "alpha", lambda a: rf"$\alpha={a:g}$")
    draw.label_widths(right, scales["rounds"])
    right.legend()
    return fig


def change(t: Table) -> Figure:
    """How far weights and kernel move against N, and against the damping."""
    fig, axes = draw.panels(2, rows=2, height=3.3)
    names = {
        "distance": r"$\|w-w_0\|$",
        "kernel_cka": r"CKA with $\Theta_0$",
        "kernel_cosine": r"cosine with $\Theta_0$",
    }
    for ax, (metric, words) in zip(axes, names.items(), strict=False):
        ax.set(xscale="log", xlabel=COUNT, ylabel=words)
        over_counts(ax, counts(t, "parity", metric), 0, "parity")
        level(ax, standard(t, "parity", metric).mean(), 2, "standard training")
    axes[0].legend()
    damped = axes[3]
    damped.set(xscale="log", xlabel=r"damping $\mu$ of eight Gauss–Newton steps", ylabel=ERROR)
    runs = ends(t, "damping", "error", rounds=8).where(damping=(1e-9, 1e9))
    draw.band(damped, runs, "damping", 3, "test error")
    return fig


def gaps(t: Table) -> Figure:
    """What eight updates gain over one linearisation, against data and width."""
    fig, axes = draw.panels(2)
    for ax, (part, x, words) in zip(
        axes, (("size", "n", "training examples $n$"), ("width", "width", "width")), strict=True
    ):
        ax.set(xscale="log", xlabel=words, ylabel="gain of eight updates (points)")
        runs = claims.gap(t, part)
        draw.band(ax, runs, x, 0, None)
        draw.label_widths(ax, runs[x])
        ax.axhline(0, **draw.MARK)
    return fig
