"""What Geiger et al. claim, in our words, and what this book adds; each with its check.

The first version (2019) and the journal version (2020) differ in data, depth and loss.
"""

from tangents.declaration import Claim
from tangents.experiments.lazy_checks import (
    FEATURE,
    LAZY,
    conv_ratio,
    depth_law,
    early_linear,
    ensemble_flat,
    ensemble_gap,
    first_kernel,
    fluctuations,
    gap_at_largest,
    gap_shrinks,
    growth,
    half_height,
    integrator,
    last_kernel,
    lazy_residual,
    plateau,
    residual_by_distance,
    reversal,
    scale_by_error,
    scale_by_kernel,
    time_exponent,
    velocity,
)
from tangents.statistics import exponent

V1, V2 = "geiger2019", "geiger2020"
TIGHT = dict(dynamics="gradient_flow", implicit=True)

CLAIMS = (
    Claim(
        "geiger-1a",
        V1,
        "abstract, section 3",
        r"The output scale $\alpha^*$ that separates lazy from "
        r"feature learning, read off the change of the kernel, falls as $h^{-1/2}$.",
        r"exponent $-1/2$",
        scale_by_kernel,
    ),
    Claim(
        "geiger-1b",
        V1,
        "section 3",
        r"The same scale, read off the test error at half height, falls as "
        r"$h^{-1/2}$.",
        r"exponent $-1/2$",
        scale_by_error,
    ),
    Claim(
        "geiger-1c",
        V1,
        "section 3",
        r"The test error has risen half way where $\sqrt{h}\alpha$ is 30 to 50 (accepted within a "
        "factor of about 1.6).",
        "30 to 50",
        half_height,
    ),
    Claim(
        "geiger-2a",
        V1,
        "set-up A",
        "Fully connected, ten principal components: feature learning "
        "errs less than lazy learning at the largest width.",
        "0.65 points at $h=800$",
        gap_at_largest,
    ),
    Claim(
        "geiger-2b",
        V1,
        "set-up A",
        "That gap shrinks as the network widens.",
        "1.15 to 0.65 points, $h$ from 100 to 800",
        gap_shrinks,
    ),
    Claim(
        "geiger-3",
        V1,
        "set-up B",
        "Convolutional network: lazy learning errs about twice as often as feature learning.",
        "3.7 % against 1.7 % at $h=159$",
        conv_ratio,
    ),
    Claim(
        "geiger-4a",
        V2,
        "abstract",
        "Fully connected on Fashion-MNIST pixels, wide: lazy learning errs "
        "less than feature learning.",
        "2.65 % against 2.88 % at $h=1390$",
        reversal(True),
    ),
    Claim(
        "geiger-4b",
        V2,
        "section 3",
        "The same, narrow ($h \\leq 100$): feature learning errs less.",
        "order reversed",
        reversal(False),
    ),
    Claim(
        "geiger-5a",
        V1,
        "section 4",
        r"Feature regime, $\sqrt{h}\alpha = 0.01$: the variance of $\alpha(f-f_0)$ over "
        "initialisations falls as $1/h$.",
        "exponent $-1$",
        fluctuations(1e-2),
    ),
    Claim(
        "geiger-5b",
        V1,
        "section 4",
        r"Lazy regime, $\sqrt{h}\alpha = 10^4$: the variance of $\alpha(f-f_0)$ over "
        "initialisations falls as $1/h$.",
        "exponent $-1$",
        fluctuations(LAZY),
    ),
    Claim(
        "geiger-6a",
        V1,
        "section 4",
        "Feature regime: an ensemble's error does not depend on the width "
        "(share of the single network's gain from width that is left).",
        "0",
        ensemble_flat(FEATURE),
    ),
    Claim(
        "geiger-6b",
        V1,
        "section 4",
        "Lazy regime: an ensemble's error does not depend on the width (the same share).",
        "0",
        ensemble_flat(LAZY),
    ),
    Claim(
        "geiger-6c",
        V1,
        "section 4",
        "Ensembles of either regime err almost alike (share left of the gap between single "
        "networks, largest width).",
        "0.2 of 0.65 points",
        ensemble_gap,
    ),
    Claim(
        "geiger-7a",
        V1,
        "section 5",
        r"Feature regime: the time $t_1$ to halve the loss grows as "
        r"$\sqrt{h}\alpha$, at a fixed width.",
        "exponent 1",
        time_exponent("t1", "scaled_alpha", (0.9, 1.1)),
    ),
    Claim(
        "geiger-7c",
        V1,
        "section 5",
        r"Feature regime: at a fixed $\sqrt{h}\alpha$ the time $t_1$ does not depend on the width.",
        "exponent 0",
        time_exponent("t1", "width", (-0.1, 0.1)),
    ),
    Claim(
        "geiger-7b",
        V1,
        "section 5",
        r"Lazy regime: $t_1$ does not depend on $\alpha$.",
        "ratio 1",
        plateau("t1"),
    ),
    Claim(
        "geiger-8a",
        V1,
        "section 5",
        r"Feature regime: the time $t_2$ to the end of training grows as "
        r"$(\sqrt{h}\alpha)^{3/2}$, at a fixed width.",
        "exponent 3/2",
        time_exponent("t2", "scaled_alpha", (1.25, 1.75)),
    ),
    Claim(
        "geiger-8c",
        V1,
        "section 5",
        r"Feature regime: at a fixed $\sqrt{h}\alpha$ the time $t_2$ does not depend on the width.",
        "exponent 0",
        time_exponent("t2", "width", (-0.1, 0.1)),
    ),
    Claim(
        "geiger-8b",
        V1,
        "section 5",
        r"Lazy regime: $t_2$ does not depend on $\alpha$.",
        "ratio 1",
        plateau("t2"),
    ),
    Claim(
        "geiger-9a",
        V1,
        "section 5",
        r"$|f_t - f_0|$ grows linearly in time while $t \ll t_1$.",
        "exponent 1",
        early_linear,
    ),
    Claim(
        "geiger-9b",
        V1,
        "section 5",
        r"Feature regime, at a fixed $\sqrt{h}\alpha$: the factor by which the output has grown at "
        r"$t_1$ goes as $\sqrt{h}$.",
        "exponent 1/2",
        growth,
    ),
    Claim(
        "geiger-10a",
        V1,
        "kernel figure",
        r"Feature regime, five hidden layers: the kernel changes as "
        r"$(\sqrt{h}\alpha)^{-a}$, $a = 1.7$, at a fixed width.",
        "1.7 (homogeneity: 5/3)",
        exponent(
            "kernel_change", "phase", "scaled_alpha", (1.5, 1.9), -1.0, scaled_alpha=(1e-2, 1.0)
        ),
    ),
    Claim(
        "geiger-10b",
        V1,
        "kernel figure",
        r"Lazy regime, softplus: the kernel changes as $\alpha^{-1}$ at a fixed width.",
        "exponent $-1$",
        exponent("kernel_change", "residual", "scaled_alpha", (-1.1, -0.9)),
    ),
    Claim(
        "geiger-10c",
        V1,
        "kernel figure",
        r"Feature regime: at a fixed $\sqrt{h}\alpha$ the kernel changes alike at every width.",
        "exponent 0",
        exponent("kernel_change", "phase", "width", (-0.1, 0.1), scaled_alpha=(1e-2, 1.0)),
    ),
    Claim(
        "geiger-11a",
        V1,
        "weights figure",
        r"Feature regime, five hidden layers: $|dw|/|w_0|$ goes as "
        r"$(\sqrt{h}\alpha)^{-0.23}$, at a fixed width.",
        "$-0.23$ (asymptote $-1/6$)",
        exponent(
            "weights_change", "phase", "scaled_alpha", (-0.33, -0.13), scaled_alpha=(1e-2, 1.0)
        ),
    ),
    Claim(
        "geiger-11c",
        V1,
        "weights figure",
        r"Feature regime: at a fixed $\sqrt{h}\alpha$ the weights move as $|dw|/|w_0| \propto "
        r"h^{-1/2}$.",
        "exponent $-1/2$",
        exponent("weights_change", "phase", "width", (-0.6, -0.4), scaled_alpha=(1e-2, 1.0)),
    ),
    Claim(
        "geiger-11b",
        V1,
        "weights figure",
        r"Lazy regime: $|dw|/|w_0|$ goes as $\alpha^{-1}$ at a fixed width.",
        "exponent $-1$",
        exponent("weights_change", "residual", "scaled_alpha", (-1.1, -0.9)),
    ),
    Claim(
        "geiger-12",
        V1,
        "appendix on ReLU",
        r"ReLU, lazy: the kernel changes as "
        r"$\alpha^{-1/2}$ at a fixed width.",
        "exponent $-1/2$",
        exponent("kernel_change", "relu", "scaled_alpha", (-0.6, -0.4)),
    ),
    Claim(
        "geiger-13a",
        V1,
        "section 6",
        r"Fully connected, $\sqrt{h}\alpha = 0.1$ and 1: learning with the network's last kernel "
        "errs as often as the network (share of the network's gain over its first kernel that the "
        "last one has).",
        "1",
        last_kernel,
    ),
    Claim(
        "geiger-13b",
        V1,
        "section 6",
        "The same: learning with the first kernel errs more often than with the last.",
        "CNN: 14 to 3.7 % (first), 4.2 to 2.8 % (last)",
        first_kernel,
    ),
    Claim(
        "geiger-14",
        V1,
        "section 4",
        "At initialisation the preactivations move at a speed that falls as $h^{-1/2}$.",
        "exponent $-1/2$",
        velocity,
    ),
    Claim(
        "geiger-15",
        V2,
        "appendix",
        r"The trained output is robust to the integrator: tolerances $10^{-4}$ and $10^{-6}$ (of "
        r"implicit steps; width 32, 200 images, $\sqrt{h}\alpha$ 1 and 1000) differ by at most "
        "2.5e-3.",
        r"$\leq$ 2.5e-3",
        integrator(dict(tolerance=1e-4, **TIGHT), dict(tolerance=1e-6, **TIGHT), 2.5e-3),
    ),
    Claim(
        "beyond-depth",
        V1,
        "this book",
        "The feature-regime exponent of the kernel is $2L/(L+1)$ for every "
        "depth $L$ from 1 to 5 (largest distance over depths).",
        "0 (homogeneity)",
        depth_law,
    ),
    Claim(
        "beyond-residual",
        V1,
        "this book",
        r"Deep in the lazy regime, widths of 16 to 256: the kernel changes as $1/(\alpha h)$, "
        r"not as $1/(\alpha\sqrt{h})$ (exponent of $h$ at fixed $\alpha$).",
        "1 against 1/2",
        lazy_residual,
    ),
    Claim(
        "beyond-residual-distance",
        V1,
        "this book",
        r"Per distance that the weights move it changes as $h^{-1/2}$: half of the faster law is "
        "that wider networks move less.",
        "exponent $-1/2$",
        residual_by_distance,
    ),
    Claim(
        "beyond-steps",
        V1,
        "this book",
        r"Width 32, 200 images, $\sqrt{h}\alpha$ from 1 to 1000: the linearly implicit steps used "
        r"here agree with explicit Euler steps at the paper's tolerance within 1 %.",
        r"$\leq$ 0.01",
        integrator(
            dict(tolerance=1e-4, **TIGHT),
            dict(tolerance=1e-4, dynamics="gradient_flow", implicit=False),
            1e-2,
        ),
    ),
    Claim(
        "beyond-tolerance",
        V1,
        "this book",
        r"The same: the tolerance $10^{-2}$ of this chapter's sweep agrees with $10^{-6}$ within "
        "5 %.",
        r"$\leq$ 0.05",
        integrator(dict(tolerance=1e-2, **TIGHT), dict(tolerance=1e-6, **TIGHT), 5e-2),
    ),
    Claim(
        "beyond-momentum",
        V1,
        "this book",
        r"The same, $\sqrt{h}\alpha = 1$: the continuous momentum of the first version leads to "
        "the same output as gradient flow within 5 %.",
        r"$\leq$ 0.05",
        integrator(dict(dynamics="momentum"), dict(tolerance=1e-6, **TIGHT), 5e-2),
    ),
)
