"""What each of PyTorch's modules is in jbp: `SAYS[type]` is a function of the module and its inputs."""

from benchmarks.parity.says import (
    activation,
    attention,
    convolution,
    embedding,
    linear,
    loss,
    norm,
    pool,
    recurrent,
    shape,
)

SAYS = {
    **linear.SAYS,
    **activation.SAYS,
    **norm.SAYS,
    **convolution.SAYS,
    **pool.SAYS,
    **shape.SAYS,
    **embedding.SAYS,
    **recurrent.SAYS,
    **attention.SAYS,
    **loss.SAYS,
}

__all__ = ["SAYS"]
