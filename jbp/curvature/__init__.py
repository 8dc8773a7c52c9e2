"""Curvature of a loss, out of sweeps.

    sweep, optimizer = Factored(), optax.chain(kfac(net), optax.sgd(1.0))
    state, history = fit(net, loss, optimizer, start(net, optimizer, key, x), batches, sweep=sweep)

`hessian`, `ggn` and `fisher` are matrices known by their products, of which `trace`, `spectrum` and `top` tell more;
`Factored` and `kfac` are Kronecker factors and the optimizer that uses them.
"""

from jbp.curvature.diagonal import diagonal as diagonal
from jbp.curvature.factors import Factored as Factored, Factors as Factors
from jbp.curvature.kfac import kfac as kfac
from jbp.curvature.products import Product as Product, fisher as fisher, ggn as ggn, hessian as hessian
from jbp.curvature.spectra import (
    Eigenpairs as Eigenpairs,
    Estimate as Estimate,
    Spectrum as Spectrum,
    spectrum as spectrum,
    top as top,
    trace as trace,
)
from jbp.readers.maps import FACTORED as FACTORED

__all__ = [
    "Eigenpairs",
    "Estimate",
    "Factored",
    "Factors",
    "Product",
    "Spectrum",
    "diagonal",
    "fisher",
    "ggn",
    "hessian",
    "kfac",
    "spectrum",
    "top",
    "trace",
]
