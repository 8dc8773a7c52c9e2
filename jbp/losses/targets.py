"""What losses take: a prediction and its targets, checked."""

from jbp.errors import LayerError, floats, parts, show


def pair(layer, x, what):
    """x, after a check that it is (prediction, what)."""
    return parts(layer, x, "prediction", what)


def alike(layer, x):
    """(prediction, target), after a check that they are floating and of one shape and dtype."""
    p, t = pair(layer, x, "target")
    floats(layer, p, "of any shape", least=0)
    if p.shape != t.shape or p.dtype != t.dtype:
        raise LayerError(
            layer,
            f"got prediction {show(p)} and target {show(t)}; expected one shape and one dtype. "
            "Reshape or cast the target.",
        )
    return p, t
