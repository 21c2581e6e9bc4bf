"""What Liu, Zhu and Belkin claim, in our words, and what this book adds; each with its check.

The theorems are bounds up to logarithms: what they bound may fall faster, not more slowly.
"""

from tangents.declaration import Claim
from tangents.experiments.constancy_checks import (
    all_converged,
    below_bound,
    bottleneck_order,
    catapult_ratio,
    ends_flat,
    error_exponent,
    identity,
    known,
    log_linear,
    pl_known,
    plane_exponent,
    ratio,
    signal,
    stays_positive,
)
from tangents.statistics import INF, exponent

PAPER, HERE = "liu2020", "this book"
FALLS, VANISHES, FLAT = (-0.6, -0.3), (-INF, -0.5), (-0.15, 0.15)
SHALLOW, DEEP = dict(depth=1), dict(depth=3)
LINEAR, TANH = dict(head="linear"), dict(head="tanh")


def width(metric: str, accept, part: str = "head", **where):
    return exponent(metric, part, "width", accept, when=known(metric), **where)


def claim(number: str, source: str, statement: str, expected: str, check) -> Claim:
    return Claim(number, PAPER, source, statement, expected, check)


HALF = "exponent $-1/2$, up to logarithms"
AT_LEAST_HALF = r"exponent $\leq -1/2$"
CONSTANT = "exponent 0"

# fmt: off
CLAIMS = (
    claim("liu-1a", "linear output layer",
          "One hidden layer, linear head: the norm of the output's Hessian falls as $m^{-1/2}$.",
          HALF, width("hessian", FALLS, **LINEAR, **SHALLOW)),
    claim("liu-1b", "linear output layer",
          "Three hidden layers, linear head: the norm of the output's Hessian falls as "
          "$m^{-1/2}$.",
          HALF, width("hessian", FALLS, **LINEAR, **DEEP)),
    claim("liu-1c", "linear output layer",
          r"Three hidden layers, linear head: the largest entry of $\partial f/\partial a_l$ falls "
          "as $m^{-1/2}$ (mean over the layers).",
          HALF, signal("inf", FALLS)),
    claim("liu-2a", "linear output layer",
          "The norm of the output's gradient does not depend on the width.",
          CONSTANT, width("gradient", (-0.1, 0.1), **LINEAR)),
    claim("liu-2b", "linear output layer",
          r"Nor does the 2-norm of $\partial f/\partial a_l$ (mean over the layers).",
          CONSTANT, signal("two", (-0.1, 0.1))),
    claim("liu-3a", "numerical section",
          "One hidden layer, linear head: the largest change of the kernel in training "
          "vanishes with width, at least as fast as the bound $m^{-1/2}$.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, **LINEAR, **SHALLOW)),
    claim("liu-3b", "numerical section",
          "Three hidden layers, linear head: the largest change of the kernel vanishes likewise.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, **LINEAR, **DEEP)),
    claim("liu-3c", "numerical section",
          "ReLU, one hidden layer, linear head: the change of the kernel vanishes with width.",
          "exponent below 0",
          width("kernel_largest", (-INF, -0.3), "relu", **LINEAR, **SHALLOW)),
    claim("liu-3d", "Hessian and kernel",
          r"The kernel changes by no more than $2q + q^2$, $q = R \max\|H\| / \|\nabla f\|$, the "
          "maximum that found in the ball: an estimate of the bound (largest share of it).",
          r"$\leq 1$", below_bound),
    claim("liu-4a", "non-linear output",
          "One hidden layer, tanh head: the Hessian does not become small with width.",
          CONSTANT, width("hessian", FLAT, **TANH, **SHALLOW)),
    claim("liu-4b", "non-linear output",
          "Three hidden layers, tanh head: the Hessian does not become small with width.",
          CONSTANT, width("hessian", FLAT, **TANH, **DEEP)),
    claim("liu-4c", "numerical section",
          "One hidden layer, tanh head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", FLAT, **TANH, **SHALLOW)),
    claim("liu-4d", "numerical section",
          "Three hidden layers, tanh head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", FLAT, **TANH, **DEEP)),
    claim("liu-4e", "numerical section",
          "ReLU, one hidden layer, tanh head: the change of the kernel does not vanish with "
          "width.",
          CONSTANT, width("kernel_largest", FLAT, "relu", **TANH, **SHALLOW)),
    claim("liu-4f", "non-linear output",
          "One hidden layer, sigmoid head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", FLAT, "heads", head="sigmoid")),
    claim("liu-4g", "non-linear output",
          "One hidden layer, softmax head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", FLAT, "heads", head="softmax")),
    claim("liu-4h", "non-linear output",
          "One hidden layer, swish head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", FLAT, "heads", head="swish")),
    claim("liu-5a", "bottleneck",
          "With a bottleneck the Hessian does not become small as the other layers widen.",
          CONSTANT, width("hessian", FLAT, "bottleneck")),
    claim("liu-5b", "bottleneck",
          "With a bottleneck the change of the kernel does not vanish as the other layers widen.",
          CONSTANT, width("kernel_largest", FLAT, "bottleneck")),
    claim("liu-5c", "bottleneck",
          "The wider the bottleneck, the less the kernel changes (exponent in its width).",
          "below 0", bottleneck_order("kernel_largest", "bottleneck")),
    claim("liu-5d", "numerical section",
          "MNIST, zeros against ones, 128 images: the kernel changes less as the middle one of "
          "three hidden layers widens (exponent in its width).",
          "below 0", bottleneck_order("kernel_largest", "mnist")),
    claim("liu-6a", "remark on laziness",
          "The weights move equally far at every width.",
          CONSTANT, width("radius", (-0.1, 0.1))),
    claim("liu-6b", "remark on laziness",
          "With a tanh head they move about as far as without (ratio, one hidden layer).",
          "O(1)", ratio("radius", "head", (0.67, 1.5), **SHALLOW)),
    claim("liu-6c", "remark on laziness",
          "On that path the kernel changes many times more than without (ratio, one hidden layer).",
          r"$\gg 1$", ratio("kernel_largest", "head", (10, INF), **SHALLOW)),
    claim("liu-7a", "optimisation",
          "Gradient descent reaches the minimum whether the kernel is constant or not.",
          "every run", all_converged),
    claim("liu-7b", "optimisation",
          "The smallest eigenvalue of the kernel stays positive (least share left of its first "
          "value, converged runs of every kind).",
          "above 0", stays_positive),
    claim("liu-7c", "optimisation",
          r"Wide network, linear head: $|\nabla \mathcal{L}|^2 / 2\mathcal{L}$ never falls below "
          "the smallest eigenvalue of $K_0 / n$, known before training (least ratio, to a tenth).",
          r"$\geq 1$", pl_known),
    claim("liu-7d", "optimisation",
          "Below a tenth of its first value the logarithm of the loss falls linearly in time "
          "(share of its variance that a line explains, heads of every kind).",
          "1", log_linear),
    claim("liu-8a", "transition to linearity",
          "The error of the linear model grows no faster than the square of the distance, along "
          "the top eigenvector, $r$ from 1/4 to 8.",
          r"exponent $\leq 2$", error_exponent("top", (-INF, 2.2), (0.25, 8))),
    claim("liu-8b", "transition to linearity",
          "And as the square along a random direction.",
          "exponent 2", error_exponent("random", (1.8, 2.2), (0.25, 8))),
    claim("liu-8c", "transition to linearity",
          "At distance 4 it falls as $m^{-1/2}$ along the top eigenvector.",
          HALF, width("linear_error_top_4", FALLS, **LINEAR, **SHALLOW)),
    claim("liu-8d", "transition to linearity",
          "And at least as fast along a random direction.",
          AT_LEAST_HALF, width("linear_error_random_4", VANISHES, **LINEAR, **SHALLOW)),
    claim("liu-9a", "non-linear output",
          r"$H_{\varphi(f)} = \varphi' H_f + \varphi'' \nabla f \nabla f^\top$ (relative "
          "deviation).",
          "0", identity("hessian_identity")),
    claim("liu-9b", "non-linear output",
          r"$K_{\varphi(f)}(x, z) = \varphi'(f(x)) \varphi'(f(z)) K_f(x, z)$ (relative deviation).",
          "0", identity("kernel_identity")),
    claim("liu-10a", "linear output layer",
          "The Hessian is small at random points of a ball: one hidden layer, linear head.",
          HALF, width("hessian_random", FALLS, **LINEAR, **SHALLOW)),
    claim("liu-10b", "linear output layer",
          "The same at random points with three hidden layers.",
          HALF, width("hessian_random", FALLS, **LINEAR, **DEEP)),
    claim("liu-10c", "linear output layer",
          "And where ten steps of steepest ascent lead in that ball: one hidden layer.",
          HALF, width("hessian_steepest", FALLS, **LINEAR, **SHALLOW)),
    claim("liu-10d", "linear output layer",
          "And where such an ascent leads with three hidden layers.",
          HALF, width("hessian_steepest", FALLS, **LINEAR, **DEEP)),
    claim("liu-11a", "appendix, other architectures",
          "Residual network, linear head: the change of the kernel vanishes with width.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, "resnet", **LINEAR)),
    claim("liu-11b", "appendix, other architectures",
          "Convolutional network on MNIST, linear head: the norm of the Hessian falls with the "
          "number of channels.",
          HALF, width("hessian", FALLS, "conv", **LINEAR)),
    claim("liu-11c", "appendix, other architectures",
          "And the change of its kernel vanishes.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, "conv", **LINEAR)),
    claim("liu-11d", "numerical section",
          "MNIST, three hidden layers, linear head: the change of the kernel vanishes with width.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, "mnist", **LINEAR, bottleneck=0)),
    claim("beyond-plane-scale", HERE,
          r"Over scale and width the change of the kernel goes as $1/(\alpha^a m^b)$ with $a = 1$.",
          "1",
          plane_exponent("alpha", (0.85, 1.15), False)),
    claim("beyond-plane-width", HERE,
          "And with $b = 1$, not the bound's $1/2$.",
          "1 against 1/2",
          plane_exponent("width", (0.85, 1.15), False)),
    claim("beyond-plane-sign", HERE,
          "Where all read-out weights have one sign the units cannot cancel each other, and "
          "$b = 1/2$, the exponent of the bound.",
          "1/2",
          plane_exponent("width", (0.4, 0.6), True)),
    claim("beyond-catapult", HERE,
          "Above the critical step $2n/\\lambda_{\\max}(K_0)$ the kernel of a wide network "
          "changes many times more than below it (ratio).",
          r"$\gg 1$",
          catapult_ratio),
    claim("beyond-catapult-width", HERE,
          "And by as much at every width.",
          "exponent 0",
          width("kernel_largest", FLAT, "catapult", rate=(2.5, 3.5))),
    claim("beyond-catapult-end", HERE,
          "Such a run ends where step times largest curvature is below 2 (largest).",
          "below 2",
          ends_flat),
)
