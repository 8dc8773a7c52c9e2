"""Another layer in the place of one, by its path."""

import dataclasses
from typing import Any

from jbp.combinators.reversible import Reversible
from jbp.combinators.wrappers import Frozen
from jbp.compose import Several, Wrapper
from jbp.errors import LayerError
from jbp.layer import Layer, map_children
from jbp.params import Buffer, fits

Path = tuple[str, ...]


def replace(net: Layer, params: Any, where: str, layer: Layer, new: Any = None) -> tuple[Layer, Any]:
    """(net, params) with `layer` in every place that the pattern `where` fits, patterns being those of `jbp.labels`.

        net, params = jbp.replace(net, params, "head", Dense(5))
        state = start(net, optimizer, key, x, params=params)

    `new` are the layer's parameters, out of another network if it moves from there. None are drawn anew by `start`. A
    path is that of the parameters, "encoder/0": Residual, Remat, Repeat and the like have no step of their own in it,
    and go with what they are around. Raises LayerError for a pattern that fits no layer; in an adapter, a tie or among
    frozen weights none is looked for, since they hold parameters in another form.

    >>> net, x = Serial(body=Dense(8), head=Dense(1)), jnp.ones((2, 5))
    >>> net, params = replace(net, net.init(jax.random.key(0), x), "head", Dense(3))
    >>> net
    Serial(body=Dense(8), head=Dense(3))
    >>> print(params["head"])
    None
    """
    if not isinstance(layer, Layer):
        raise LayerError(replace, f"got layer={layer!r}; expected a layer. Write Dense(5), say.")
    there: dict[Path, bool] = {}
    net, params = _replaced(net, params, (), where, (layer, new), there)
    if not any(there.values()):
        known = ", ".join(map("/".join, there)) or "none"
        raise LayerError(
            replace,
            f"got the path {where!r}, at which there is no layer; expected the end of one of: {known}. What is in an "
            "adapter or frozen begins at net.layer, with net.merge(params).",
        )
    return net, params


def _replaced(net: Layer, params: Any, path: Path, where: str, new: Any, there: dict[Path, bool]) -> Any:
    if path:
        there[path] = there.get(path, False) or fits(path, where)
        if there[path]:
            return new
    if isinstance(net, Several | Reversible):
        steps = net.names if isinstance(net, Several) and net.names else map(str, range(len(net.layers)))
        parts = _parts(net, params)
        each = zip(net.layers, parts, steps, strict=True)
        done = [_replaced(child, p, (*path, step), where, new, there) for child, p, step in each]
        parts = [p for _, p in done]
        whole = net.whole(parts) if isinstance(net, Several) else tuple(parts)
        return dataclasses.replace(net, layers=tuple(child for child, _ in done)), whole
    if isinstance(net, Frozen) and net.paths is None:
        held = params.value if isinstance(params, Buffer) else params
        child, own = _replaced(net.layer, held, path, where, new, there)
        return dataclasses.replace(net, layer=child), Buffer(own)
    if isinstance(net, Wrapper) and type(net)._inner is Wrapper._inner:  # its parameters are those of the layer inside
        child, own = _replaced(net.layer, params, path, where, new, there)
        return map_children(lambda _, old: child if old is net.layer else old, net), own
    return net, params


def _parts(net: Any, params: Any) -> Any:
    if params is None:
        return (None,) * len(net.layers)
    return net.parts(params) if isinstance(net, Several) else params
