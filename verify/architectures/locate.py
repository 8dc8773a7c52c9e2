"""Which layer of a network is at fault: every other layer is given its true backward, so only its own can be wrong."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from verify.architectures.compiled import Compiled, hand_and_true, said
from verify.architectures.judge import Outcome, judge
from verify.architectures.networks import Network, values
from verify.architectures.protocol import children, leaves, nodes, replace_at


@dataclass(frozen=True)
class Corrected(Compiled):
    """A layer whose backward pass is `jax.vjp` of its definition, but for what `own` names: "dx" or "gradient"."""

    own: str = ""

    def pull(self, params, x, dy):
        _, dx, dparams, _, (true_dparams, true_dx) = hand_and_true(self.layer, params, x, dy)
        return dx if self.own == "dx" else true_dx, dparams if self.own == "gradient" else true_dparams


@dataclass(frozen=True)
class Fault:
    """A layer whose backward is wrong: its path in the network, itself, which half, and how far off on which leaf."""

    path: str
    layer: Any
    half: str
    outcome: Outcome

    def __str__(self):
        place = self.path.rpartition(".")[0]
        if why := said(self.layer):
            return f"{place}{': ' * bool(place)}{self.layer!r} is at fault: its backward pass {why}"
        worst = max(self.outcome.differences, key=lambda d: d.error / max(d.scale, 1e-300))
        return f"{place}{': ' * bool(place)}{self.layer!r} is at fault in its {self.half}; {worst}"


def locate(network: Network) -> list[Fault]:
    """The layers at fault, each found on its own, with every other layer's backward pass corrected.

    A leaf is at fault if the network disagrees although all other leaves are corrected. A combinator is at fault if the
    network disagrees with all leaves corrected, and agrees once the combinator is corrected as a whole, alone or with
    all others of its class.
    """
    with jax.enable_x64(True):
        return _locate(network)


def _locate(network):
    params, x, _ = values(network)

    def outcome(change):
        layer = replace_at(network.layer, change)
        return judge(layer, params, x, values(network)[2])

    def with_leaves_true(path, node):
        return node if children(node) else Corrected(node)

    if outcome(with_leaves_true).disagrees:
        return _combinator(network, outcome, with_leaves_true)
    faults = []
    for path, leaf in leaves(network.layer):

        def alone(own, path=path):
            def change(p, node):
                node = with_leaves_true(p, node)
                if p != path:
                    return node
                return Compiled(node.layer) if own is None else replace(node, own=own)

            return outcome(change)

        found = alone(None)
        if found.disagrees:
            halves = [half for half, own in (("backward", "dx"), ("gradient", "gradient")) if alone(own).disagrees]
            faults.append(Fault(path, leaf, " and ".join(halves) or "backward pass", found))
    return faults


def _combinator(network, outcome, with_leaves_true):
    """The least part that cures the network once it is corrected: one combinator, or all of a class that err alike."""
    every = list(nodes(network.layer))
    inner = [(path, node) for path, node in every if children(node)]
    alike = [
        [(path, node) for path, node in inner if type(node) is kind]
        for kind in dict.fromkeys(type(node) for _, node in inner)
    ]

    def corrected(paths):
        return outcome(lambda p, n: Corrected(n) if p in paths else with_leaves_true(p, n))

    def extent(group):
        return sum(any(p == path or p.startswith((f"{path}.", f"{path}[")) for path, _ in group) for p, _ in every)

    for group in sorted([*([one] for one in inner), *alike], key=extent):
        paths = {path for path, _ in group}
        if not corrected(paths).disagrees:
            alone = [(path, node, corrected(paths - {path})) for path, node in group]
            return [Fault(path, node, "backward pass", found) for path, node, found in alone if found.disagrees]
    return []
