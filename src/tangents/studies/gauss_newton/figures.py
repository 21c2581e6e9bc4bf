"""The figures of the chapter on exact Gauss-Newton, each a function of published rows."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Estimate, Runs, Table
from tangents.studies.gauss_newton.claims import (
    ADAM,
    FIXES,
    LADDER,
    MINIMUM,
    PLAIN,
    PUBLISHED,
    REVERSIBLE,
    at_epoch,
    ends,
)

ERROR, LOSS = "test error (%)", "training loss"
ARMS = {  # words, place in the palette, fields
    "reversible": (0, REVERSIBLE),
    "as published": (4, PUBLISHED),
    "minimum norm": (2, MINIMUM),
    "Adam": (1, ADAM),
    "SGD": (3, dict(method="sgd")),
    "momentum": (5, dict(method="momentum")),
}


def every(t: Table, part: str, metric: str, **where) -> Runs:
    """All values of runs that did not diverge; errors in points."""
    ended = t.ends(metric, part).where(**where)
    rows = t.every(metric, part).where(**where).rows
    found = Runs(rows[rows["run_id"].isin(ended["run_id"])])
    return found.map(100 * found["value"]) if metric.startswith("error") else found


def some(runs: Runs) -> Runs:
    """The runs. Raises LookupError where there are none."""
    if not len(runs):
        raise LookupError("no run of one arm")
    return runs


def arms(ax, t: Table, part: str, metric: str, **where) -> None:
    """A curve along training for each kind of step that was run."""
    for name, (place, step) in ARMS.items():
        runs = every(t, part, metric, **step, **where)
        if len(runs):
            draw.band(ax, runs, "time", place, name, marker="", lw=1.6)


def dots(ax, means: Mapping[str, Estimate], place: int, label: str | None = None, rows=()) -> None:
    """Estimates with their intervals, from top to bottom: a row each, or those of `rows` named."""
    rows = list(rows or means)
    at = [rows.index(name) for name in means]
    value = [m.value for m in means.values()]
    reach = [[m.value - m.low for m in means.values()], [m.high - m.value for m in means.values()]]
    ax.errorbar(value, at, xerr=reach, ls="", capsize=3, label=label, **draw.look(place))
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)


def headline(t: Table) -> Figure:
    """One training curve, and what two right inverses predict along it."""
    fig, (left, right) = draw.panels(2)
    left.set(yscale="log", xlabel="steps", ylabel=LOSS)
    right.set(xlabel="steps", ylabel=ERROR, ylim=(0, 100))
    for ax, metric in ((left, "loss"), (right, "error")):
        for place, method, words, line in ((0, "reversible", "reversible", "-"),
                                           (2, "minimum", "minimum norm", "--")):  # fmt: skip
            runs = some(every(t, "mnist", metric, method=method, width=1200))
            draw.band(ax, runs, "time", place, words, ls=line, marker="")
    right.legend()
    return fig


def widths(t: Table) -> Figure:
    """Test error against the features of half a block, over the training examples."""
    fig, axes = draw.panels(2)
    for ax, part, words in zip(axes, ("digits", "mnist"), ("digits", "MNIST"), strict=True):
        ax.set(xscale="log", xlabel="features over examples, $h/n$", ylabel=ERROR, ylim=(0, 100))
        ax.set_title(words, fontsize=11)
        for place, method, name in (
            (0, "reversible", "reversible"),
            (2, "minimum", "minimum norm"),
        ):
            for metric, line, more in (("error", "-", ""), ("error_theory", ":", ", theory")):
                runs = (ends if metric == "error" else begins)(t, part, metric, method=method)
                runs = Runs(runs.rows.assign(ratio=runs["width"] / runs["n"]))
                draw.band(ax, some(runs), "ratio", place, name + more, ls=line)
        at = sorted(set(runs["ratio"]))
        draw.label_ticks(ax, at, (f"{ratio:.2g}" for ratio in at))
    axes[0].legend(fontsize=8.5)
    return fig


def begins(t: Table, part: str, metric: str, **where) -> Runs:
    runs = t.starts(metric, part).where(**where)
    return runs.map(100 * runs["value"])


RUNGS = {
    "as it is": dict(),
    "all on the last block": dict(shares="last"),
    "pixels interleaved": dict(layout="interleaved"),
    "1 % damping": dict(damping=0.01),
    "10 % damping": dict(damping=0.1),
    "truncated at 0.01": dict(rtol=1e-2),
    "image in both halves": dict(layout="both"),
    "start subtracted": dict(centred=True),
    "both of these": dict(layout="both", centred=True),
    "random, as long": dict(method="random"),
}
COMMON = ("layout", "damping", "centred")  # what can be asked of any kind of step


def ladder(t: Table) -> Figure:
    """What closes the gap between the two steps, remedy by remedy."""
    fig, (ax,) = draw.panels(1, height=4.4)
    fig.set_figwidth(6.6)
    ax.set(xlabel=ERROR)
    for place, method, label in ((0, "reversible", "reversible"), (2, "minimum", "minimum norm")):
        means = {}
        for name, fields in RUNGS.items():
            same = {k: v for k, v in fields.items() if k in COMMON}
            where = LADDER | dict(method=method) | (fields if method == "reversible" else same)
            means[name] = some(ends(t, "ladder", "error", **where)).mean()
        dots(ax, means, place, label)
    ax.legend()
    return fig


def losses(t: Table) -> Figure:
    """Test errors on the full batch, by kind of step, loss and size."""
    fig, axes = draw.panels(2, height=3.4)
    for ax, part, words in zip(axes, ("full", "large"), ("300 images", "1024 images"), strict=True):
        ax.set(xlabel=ERROR)
        ax.set_title(f"MNIST, {words}", fontsize=11)
        for place, loss in ((9, "squared"), (5, "cross-entropy")):
            found = {name: ends(t, part, "error", loss=loss, **step)
                     for name, (_, step) in ARMS.items()}  # fmt: skip
            means = {name: runs.mean() for name, runs in found.items() if len(runs)}
            dots(ax, means, place, loss, ARMS)
    axes[0].legend()
    return fig


def batches(t: Table) -> Figure:
    """Training in batches: the loss, and how a step changes that of its batch and of the next."""
    fig, axes = draw.panels(2, rows=2, height=3.3)
    for ax, loss in zip(axes, ("squared", "cross-entropy"), strict=False):
        ax.set(xlabel="epochs", ylabel=LOSS, yscale="log")
        ax.set_title(loss, fontsize=11)
        arms(ax, t, "batches", "loss", loss=loss)
    axes[0].legend(fontsize=8)
    for ax, metric, words in ((axes[2], "change_own", "its own batch"),
                              (axes[3], "change_next", "the next batch")):  # fmt: skip
        ax.set(xlabel="epochs", ylabel=f"loss of {words} (%)")
        ax.set_title("squared", fontsize=11)
        arms(ax, t, "batches", metric, loss="squared")
    return fig


def phase(t: Table) -> Figure:
    """Where training in batches saturates: by examples and by batch over features."""
    fig, (ax,) = draw.panels(1)
    ax.set(xscale="log", xlabel="training examples over features, $N/h$",
           ylabel="loss after 20 epochs over 10")  # fmt: skip
    last = ends(t, "phase", "loss")
    middle = at_epoch(t, "phase", "loss", 10).by_run
    runs = last.map(last["value"] / last["run_id"].map(middle))
    runs = Runs(runs.rows.assign(ratio=runs["n"] / runs["width"]))
    draw.bands(ax, runs, "ratio", "width", lambda h: f"$h/n={h / 64:g}$")
    ax.axhline(1, **draw.MARK)
    draw.label_widths(ax, runs["ratio"])
    ax.legend()
    return fig


def remedies(t: Table) -> Figure:
    """What remedies do to the loss in batches, and switches of the kind of step."""
    fig, (left, right) = draw.panels(2, height=4.0)
    left.set(xlabel=f"{LOSS} after 20 epochs")
    names = {"none": dict()} | dict(FIXES.values())
    means = {name: some(ends(t, "fixes", "loss", **(REVERSIBLE | PLAIN | fix))).mean(log=True)
             for name, fix in names.items()}  # fmt: skip
    dots(left, means, 0)
    for place, label, step in (
        (1, "Adam", ADAM | dict(network="reversible")),
        (2, "minimum norm", MINIMUM),
        (7, "Adam, plain network", ADAM | dict(network="mlp")),
    ):
        level = some(ends(t, "fixes", "loss", **step)).mean(log=True)
        left.axvline(level.value, color=draw.look(place)["color"], ls="--", label=label)
    left.legend(fontsize=8.5)
    right.set(xlabel="epochs", ylabel=LOSS, yscale="log")
    for place, words, where in (
        (0, "reversible", dict(part="fixes", **(REVERSIBLE | PLAIN))),
        (4, "Adam, then reversible", dict(part="switch", then="reversible")),
        (1, "reversible, then Adam", dict(part="switch", then="adam")),
        (2, "reversible, then minimum norm", dict(part="switch", then="minimum")),
    ):
        draw.band(right, some(every(t, metric="loss", **where)), "time", place, words, marker="")
    right.legend(fontsize=8)
    return fig


def laziness(t: Table) -> Figure:
    """How lazy the kinds of step are, by loss; the dial of the output scale; what the features
    that were learnt are worth."""
    fig, (left, right, worth, _) = draw.panels(2, rows=2, height=3.4)
    _.remove()
    names = ("reversible", "minimum norm", "Adam", "SGD", "momentum")
    left.set(xlabel=r"cosine of the last kernel with $\Theta_0$")
    for place, loss in ((9, "squared"), (5, "cross-entropy")):
        found = {name: ends(t, "lazy", "kernel_cosine", loss=loss, **ARMS[name][1])
                 for name in names}  # fmt: skip
        dots(left, {name: some(runs).mean() for name, runs in found.items()}, place, loss)
    left.legend(fontsize=8.5)
    right.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$",
              ylabel="kernel change, 1 − cosine")  # fmt: skip
    draw.band(right, some(ends(t, "scale", "kernel_change")), "alpha", 0, "reversible, centred")
    right.legend(fontsize=8.5)
    worth.set(xlabel=ERROR)
    for place, metric, label in ((0, "error", "network"), (3, "error_kernel", "its last kernel"),
                                 (4, "error_probe", "its last states")):  # fmt: skip
        found = {name: ends(t, "lazy", metric, loss="cross-entropy", **ARMS[name][1])
                 for name in names}  # fmt: skip
        dots(worth, {name: some(runs).mean() for name, runs in found.items()}, place, label)
    worth.legend(fontsize=8.5)
    return fig


def theirs(t: Table) -> Figure:
    """The reversible step in batches at the paper's own sizes on CIFAR-10: losses and error, and
    what a step does to the loss of its own batch and of the next."""
    fig, (left, right) = draw.panels(2)
    left.set(xlabel="epochs", ylabel="cross-entropy, error")
    right.set(xlabel="epochs", ylabel="change of a batch's loss by a step (%)")
    shown = (
        (left, "loss", "training loss"), (left, "test_loss", "test loss"),
        (left, "error", "test error"), (right, "change_own", "its own batch"),
        (right, "change_next", "the next batch"),
    )  # fmt: skip
    for place, (ax, metric, words) in enumerate(shown):
        draw.paths(ax, t.every(metric, "batches"), "time", place, words)
        ax.legend()
    right.axhline(0, **draw.MARK)
    return fig
