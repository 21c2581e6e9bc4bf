"""The figures of the chapter on random features, each a function of published rows."""

import numpy as np
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Table
from tangents.studies.random_features.claims import DATA, at_start, errors

SIZE = "features $m$"
MAPS = {
    "srht": "random features",
    "leverage": "by leverage scores",
    "gradient": "gradients of a network",
    "fourier": "Fourier features",
}


def distances(ax, t: Table, metric: str, depth: int, ylabel: str) -> None:
    """A metric of the kernel that each map gives, against its number of features."""
    draw.loglog(ax, SIZE, ylabel)
    for place, (method, words) in enumerate(MAPS.items()):
        if method != "fourier":
            runs = at_start(t, metric, "kernel", method=method, depth=depth)
            line = dict(ls=":", zorder=3) if method == "leverage" else {}
            draw.band(ax, runs, "size", place, words, **line)
    draw.label_widths(ax, runs["size"])


def headline(t: Table) -> Figure:
    """Distance to the kernel, and test errors, against the number of features."""
    fig, (left, right) = draw.panels(2)
    distances(left, t, "kernel_error", 1, r"$\|\Theta_m-\Theta\|\,/\,\|\Theta\|$")
    sizes = at_start(t, "kernel_error", "kernel", method="srht", depth=1)
    ends, first = draw.origin(sizes, "size")
    draw.guide(left, ends, np.exp(np.log(first).mean()), -0.5, "$m^{-1/2}$")
    left.legend()
    images(right, t, "mnist")
    right.legend()
    return fig


def images(ax, t: Table, dataset: str) -> None:
    """Test errors on one set of images, and that of the exact kernel."""
    ax.set(xscale="log", xlabel=SIZE, ylabel="test error (%)")
    for place, (method, words) in enumerate(MAPS.items()):
        if method != "leverage":
            runs = errors(t, method, dataset=dataset)
            draw.band(ax, runs, "size", place, words)
    draw.label_widths(ax, runs["size"])
    found = errors(t, "exact", dataset=dataset).mean()
    ax.axhline(found.value, color="0.25", ls="--", lw=1.2, label="exact kernel")
    ax.axhspan(found.low, found.high, color="0.25", alpha=0.1, lw=0)


def spectra(t: Table) -> Figure:
    """The deeper kernel, and the regularised spectrum."""
    fig, (left, right) = draw.panels(2)
    distances(left, t, "kernel_error", 3, r"$\|\Theta_m-\Theta\|\,/\,\|\Theta\|$")
    distances(right, t, "spectral_error", 1, "error of the regularised spectrum")
    left.legend()
    return fig


def ridge(t: Table) -> Figure:
    """Test errors of ridge regression on each set of images."""
    fig, (*axes, last) = draw.panels(2, rows=2, height=3.4)
    last.remove()
    for ax, (dataset, words) in zip(axes, DATA.items(), strict=True):
        ax.set_title(words, fontsize=11)
        images(ax, t, dataset)
    axes[0].legend(fontsize=8.5)
    return fig


def cost(t: Table) -> Figure:
    """Seconds against examples, and against pixels."""
    fig, (left, right) = draw.panels(2)
    draw.loglog(left, "training examples $n$", "seconds")
    for place, (method, words) in enumerate(
        dict(srht="2048 features", exact="exact kernel").items()
    ):
        draw.band(left, at_start(t, "cost", "cost", method=method), "n", place, words)
    draw.label_widths(left, at_start(t, "cost", "cost")["n"])
    left.legend()
    runs = at_start(t, "cost", "pixels")
    pixels = at_start(t, "inputs", "pixels").by_run
    runs = runs.map(runs["value"])
    runs.rows["inputs"] = runs["run_id"].map(pixels)
    draw.loglog(right, "pixels $d$", "seconds, 2048 features of 8000 images")
    draw.band(right, runs, "inputs", 0, None)
    draw.label_widths(right, runs["inputs"])
    return fig
