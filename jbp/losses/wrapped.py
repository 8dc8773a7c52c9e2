"""Cases of losses in other losses, which need more than one file of them."""

from jbp.cases import Case, f, i
from jbp.losses.cross_entropy import SoftmaxCrossEntropy
from jbp.losses.divergence import StandardNormalDivergence
from jbp.losses.linear_cross_entropy import LinearCrossEntropy
from jbp.losses.loss import Each, PerExample, Sum, Weighted
from jbp.losses.regression import MeanSquaredError

CASES = (
    Case(Each(MeanSquaredError()), (f(3, 5), f(3, 5))),
    Case(Each(SoftmaxCrossEntropy(ignore=1)), (f(5, 3), i(5, below=3))),
    Case(Each(LinearCrossEntropy(5, 2)), (f(2, 3, 4), i(2, 3, below=5))),
    Case(Sum(SoftmaxCrossEntropy(ignore=1)), (f(5, 3), i(5, below=3))),
    Case(PerExample(MeanSquaredError()), (f(3, 2, 5), f(3, 2, 5))),
    Case(PerExample(SoftmaxCrossEntropy(ignore=1), "mean"), (f(3, 5, 3), i(3, 5, below=3))),
    Case(Weighted(StandardNormalDivergence()), (f(3, 4), f(3))),
    Case(Weighted(MeanSquaredError()), (f(3, 5), f(3, 5), i(3, 5, below=2)), (f(3, 5), f(3, 5), f(3))),
    Case(
        Weighted(SoftmaxCrossEntropy(ignore=1), normalize=False),
        (f(5, 3), i(5, below=3), i(5, below=3)),
        (f(2, 3, 3), i(2, 3, below=3), f(1, 3)),
    ),
    Case(
        Each(PerExample(Weighted(LinearCrossEntropy(3, 2, weights=(0.5, 2.0, 1.0))), "mean")),
        (f(3, 2, 4), i(3, 2, below=3), f(3, 2)),
    ),
)
