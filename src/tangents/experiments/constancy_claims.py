"""What Liu, Zhu and Belkin claim, in our words, and what this book adds; each with its check.

The theorems are bounds up to logarithms: what they bound may fall faster, not more slowly. Where a
statement says "as", it is the rate itself that is tested, with room for the logarithms: `FALLS`.
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
FALLS, VANISHES = (-0.6, -0.3), (-INF, -0.5)
STAYS = (-0.15, INF)  # does not become small; more than that is not claimed
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
    claim("liu-1d", "linear output layer",
          "MNIST, three hidden layers, linear head: the norm of the output's Hessian falls as "
          "$m^{-1/2}$.",
          HALF, width("hessian", FALLS, "images", **LINEAR)),
    claim("liu-2a", "linear output layer",
          "The norm of the output's gradient does not depend on the width.",
          CONSTANT, width("gradient", (-0.1, 0.1), **LINEAR)),
    claim("liu-2b", "linear output layer",
          r"Three hidden layers, linear head: the 2-norm of $\partial f/\partial a_l$ does not "
          "depend on the width (mean over the layers).",
          CONSTANT, signal("two", (-0.1, 0.1))),
    claim("liu-2c", "linear output layer",
          "MNIST, three hidden layers, linear head: the norm of the output's gradient does not "
          "depend on the width.",
          CONSTANT, width("gradient", (-0.1, 0.1), "images", **LINEAR)),
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
          r"Linear head: the change of the kernel stays below an estimate of its bound, "
          r"$2q + q^2$, $q = R \max\|H\| / \|\nabla f\|$, the maximum that found in the ball "
          "(largest share of it).",
          r"$\leq 1$", below_bound),
    claim("liu-3e", "numerical section",
          "MNIST, three hidden layers, linear head: the change of the kernel vanishes with width.",
          AT_LEAST_HALF, width("kernel_largest", VANISHES, "mnist", **LINEAR, bottleneck=0)),
    claim("liu-4a", "non-linear output",
          "One hidden layer, tanh head: the Hessian does not become small with width.",
          CONSTANT, width("hessian", STAYS, **TANH, **SHALLOW)),
    claim("liu-4b", "non-linear output",
          "Three hidden layers, tanh head: the Hessian does not become small with width.",
          CONSTANT, width("hessian", STAYS, **TANH, **DEEP)),
    claim("liu-4c", "numerical section",
          "One hidden layer, tanh head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", STAYS, **TANH, **SHALLOW)),
    claim("liu-4d", "numerical section",
          "Three hidden layers, tanh head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", STAYS, **TANH, **DEEP)),
    claim("liu-4e", "numerical section",
          "ReLU, one hidden layer, tanh head: the change of the kernel does not vanish with "
          "width.",
          CONSTANT, width("kernel_largest", STAYS, "relu", **TANH, **SHALLOW)),
    claim("liu-4f", "non-linear output",
          "One hidden layer, sigmoid head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", STAYS, "heads", head="sigmoid")),
    claim("liu-4g", "non-linear output",
          "One hidden layer, softmax head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", STAYS, "heads", head="softmax")),
    claim("liu-4h", "non-linear output",
          "One hidden layer, swish head: the change of the kernel does not vanish with width.",
          CONSTANT, width("kernel_largest", STAYS, "heads", head="swish")),
    claim("liu-4i", "non-linear output",
          "MNIST, three hidden layers, tanh head: the Hessian does not become small with width.",
          CONSTANT, width("hessian", STAYS, "images", **TANH)),
    claim("liu-4j", "numerical section",
          "MNIST, three hidden layers, tanh head: the change of the kernel does not vanish with "
          "width.",
          CONSTANT, width("kernel_largest", STAYS, "mnist", **TANH)),
    claim("liu-5a", "bottleneck",
          "With a bottleneck the Hessian does not become small as the other layers widen.",
          CONSTANT, width("hessian", STAYS, "bottleneck")),
    claim("liu-5b", "bottleneck",
          "With a bottleneck the change of the kernel does not vanish as the other layers widen.",
          CONSTANT, width("kernel_largest", STAYS, "bottleneck")),
    claim("liu-5c", "bottleneck",
          "The wider the bottleneck, the less the kernel changes (exponent in its width).",
          "below 0", bottleneck_order("kernel_largest", "bottleneck")),
    claim("liu-5d", "numerical section",
          "MNIST, zeros against ones, 128 images: the kernel changes less as the middle one of "
          "three hidden layers widens (exponent in its width).",
          "below 0", bottleneck_order("kernel_largest", "mnist")),
    claim("liu-5e", "bottleneck",
          "MNIST, the middle one of three hidden layers a bottleneck: the Hessian does not become "
          "small as the others widen.",
          CONSTANT, width("hessian", STAYS, "bottleneck-images")),
    claim("liu-6a", "remark on laziness",
          "The weights move equally far at every width.",
          CONSTANT, width("radius", (-0.1, 0.1))),
    claim("liu-6b", "remark on laziness",
          "With a tanh head they move about as far as without (ratio, one hidden layer).",
          "O(1)", ratio("radius", "head", (0.67, 1.5), **SHALLOW)),
    claim("liu-6c", "remark on laziness",
          "On that path the kernel changes many times more than without (ratio, one hidden layer).",
          r"$\gg 1$", ratio("kernel_largest", "head", (10, INF), **SHALLOW)),
    claim("liu-6d", "remark on laziness",
          "MNIST, three hidden layers: the weights move equally far at every width.",
          CONSTANT, width("radius", (-0.1, 0.1), "mnist", bottleneck=0)),
    claim("liu-6e", "remark on laziness",
          "And with a tanh head about as far as without (ratio).",
          "O(1)", ratio("radius", "mnist", (0.67, 1.5), bottleneck=0)),
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
          "Heads of every kind, converged runs: below a tenth of its first value the logarithm of "
          "the loss falls linearly in time (share of its variance that a line explains).",
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
    claim("liu-8e", "transition to linearity",
          "MNIST, three hidden layers, linear head: the error grows no faster than the square of "
          "the distance along the top eigenvector.",
          r"exponent $\leq 2$", error_exponent("top", (-INF, 2.2), (0.25, 8), "images", 3)),
    claim("liu-8f", "transition to linearity",
          "And as the square along a random direction.",
          "exponent 2", error_exponent("random", (1.8, 2.2), (0.25, 8), "images", 3)),
    claim("liu-8g", "transition to linearity",
          "MNIST, three hidden layers, linear head: at distance 4 the error falls as $m^{-1/2}$ "
          "along the top eigenvector.",
          HALF, width("linear_error_top_4", FALLS, "images", **LINEAR)),
    claim("liu-8h", "transition to linearity",
          "And at least as fast along a random direction.",
          AT_LEAST_HALF, width("linear_error_random_4", VANISHES, "images", **LINEAR)),
    claim("liu-8i", "transition to linearity",
          "MNIST, three hidden layers, linear head: close by, at distance 1/4, it falls as "
          "$m^{-1/2}$ along the top eigenvector.",
          HALF, width("linear_error_top_0.25", FALLS, "images", **LINEAR)),
    claim("liu-9a", "non-linear output",
          r"$H_{\varphi(f)} = \varphi' H_f + \varphi'' \nabla f \nabla f^\top$ (relative "
          "deviation at the start, on a random vector, first input).",
          "0", identity("hessian_identity")),
    claim("liu-9b", "non-linear output",
          r"$K_{\varphi(f)}(x, z) = \varphi'(f(x)) \varphi'(f(z)) K_f(x, z)$ (relative deviation "
          "at the start).",
          "0", identity("kernel_identity")),
    claim("liu-10a", "linear output layer",
          "At a random point of a ball the norm of the Hessian falls as $m^{-1/2}$: one hidden "
          "layer, linear head.",
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
    claim("liu-10e", "linear output layer",
          "MNIST, three hidden layers, linear head: at a random point of a ball the norm of the "
          "Hessian falls as $m^{-1/2}$.",
          HALF, width("hessian_random", FALLS, "images", **LINEAR)),
    claim("liu-10f", "linear output layer",
          "And where the ascent leads.",
          HALF, width("hessian_steepest", FALLS, "images", **LINEAR)),
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
    claim("beyond-plane-scale", HERE,
          r"One hidden layer, softplus, scales $\alpha$ from 4 on: over scale and width the change "
          r"of the kernel goes as $1/(\alpha^a m^b)$ with $a = 1$.",
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
          "Above it, at steps of 2.5 to 3.5, the kernel changes by as much at every width.",
          "exponent 0",
          width("kernel_largest", (-0.15, 0.15), "catapult", rate=(2.5, 3.5))),
    claim("beyond-catapult-end", HERE,
          r"Such a run ends where step times $\lambda_{\max}(K_T)/n$ is below 2.",
          "every run",
          ends_flat),
)
