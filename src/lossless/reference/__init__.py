"""The accurate formulas, written once in array-API operations, for NumPy, for PyTorch on any device, and for reading.

This is what the compiled kernels are compared with, and what runs where there is none. Classes are the last axis;
arithmetic is float64, and the caller rounds the result once. Values never contain a rounded `1 + tail` inside a
logarithm, and gradients never a `p - 1`:

    k = argmax x,   m = x_k,   E_j = exp(x_j - m),   tail = sum_{j != k} E_j,   L = log1p(tail)
    lse = m + L,   -log p_j = (m - x_j) + L,   p_j = E_j / (1 + tail),   q_j = 1 - p_j = sum_{i != j} E_i / (1 + tail)

Where the top class does not enter a sum, nothing is left of it to cancel. All functions are made of differentiable
operations, so differentiating a gradient once more gives the second derivative.

    arithmetic        sums, differences and quotients that keep what rounding would lose
    softmax           the softmax of every row in pieces that do not cancel; log-softmax; gradients and curvatures
    rows              the row statistics, their gradient and curvature
    links             losses as expressions in the statistics
    sigmoid           the sigmoid, its logarithm and its inverse
    pointwise         losses of one number and its target
    distributions     one distribution in four forms; entropy, perplexity, inverse softmax
    divergences       measures of two distributions
"""

from lossless.reference.arithmetic import Array, namespace, sum_of_others, wide
from lossless.reference.distributions import (
    entropy,
    inverse_softmax,
    inverse_softmax_backward,
    inverse_softmax_forward,
    perplexity,
    perplexity_backward,
)
from lossless.reference.divergences import K3, MEASURES
from lossless.reference.links import (
    Link,
    link,
    nll,
    probability_cost,
    probability_cost_backward,
    smoothed,
    soft_curve,
    soft_curve_backward,
    soft_curve_costs,
    soft_curve_costs_forward,
    soft_curve_curvature,
)
from lossless.reference.pointwise import (
    BinaryCrossEntropy,
    BinaryCrossEntropyWithLogits,
    KLDivergence,
    Pointwise,
    SigmoidFocal,
    SquaredError,
    elements,
    root_mean_square,
    root_mean_square_slope,
    root_of_mean,
    weighted,
)
from lossless.reference.rows import (
    Statistics,
    masked,
    row_statistics,
    row_statistics_backward,
    row_statistics_curvature,
)
from lossless.reference.sigmoid import Elementwise, Logit, LogSigmoid, Sigmoid
from lossless.reference.softmax import (
    class_costs,
    log_softmax,
    log_softmax_backward,
    log_softmax_curvature,
    log_softmax_forward,
    softmax,
    softmax_backward,
    softmax_curvature,
)

__all__ = [
    "K3",
    "MEASURES",
    "Array",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyWithLogits",
    "Elementwise",
    "KLDivergence",
    "Link",
    "LogSigmoid",
    "Logit",
    "Pointwise",
    "Sigmoid",
    "SigmoidFocal",
    "SquaredError",
    "Statistics",
    "class_costs",
    "elements",
    "entropy",
    "inverse_softmax",
    "inverse_softmax_backward",
    "inverse_softmax_forward",
    "link",
    "log_softmax",
    "log_softmax_backward",
    "log_softmax_curvature",
    "log_softmax_forward",
    "masked",
    "namespace",
    "nll",
    "perplexity",
    "perplexity_backward",
    "probability_cost",
    "probability_cost_backward",
    "root_mean_square",
    "root_mean_square_slope",
    "root_of_mean",
    "row_statistics",
    "row_statistics_backward",
    "row_statistics_curvature",
    "smoothed",
    "soft_curve",
    "soft_curve_backward",
    "soft_curve_costs",
    "soft_curve_costs_forward",
    "soft_curve_curvature",
    "softmax",
    "softmax_backward",
    "softmax_curvature",
    "sum_of_others",
    "weighted",
    "wide",
]
