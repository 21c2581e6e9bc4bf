"""Figures of the toy: one that can be drawn, and one that never can."""

from matplotlib.figure import Figure

from tangents.lab.evidence import Table


def losses(t: Table) -> Figure:
    fig = Figure()
    fig.subplots().plot(t.ends("loss")["value"])
    return fig


def missing(t: Table) -> Figure:
    return t.ends("loss", "nowhere")
