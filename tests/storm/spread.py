"""Every layer and loss over devices that share its examples: what each device does, by the law `spread`."""

from collections.abc import Iterator

import jax

from jbp.errors import LayerError
from tests.storm.told import Tried
from verify import Contract
from verify.check import benched
from verify.cli.cases import Case, of_catalogue
from verify.laws.spread import Shared
from verify.subject.subject import subject

EXCUSED = {  # what is known to do more, by how its name begins or what is in it
    "MixtureOfExperts": "experts take tokens of all examples, in an order of their own: a Plan divides it by experts",
    "EmbeddingBag(5, 3, mode='mean')": "its bags are parts of one long row of ids, which are no examples",
    "Recurrent(GRUCell(2), return_state=True)": "one feature: XLA lets time and batch change places",
    "EquilibriumPropagation": "the gradient is the difference of two sums, one of each phase",
    "LowRankAdapter(Repeat": "the gradient of the whole weight is summed, and then cut down to its ranks",
}


def faults(case: Case, count: int) -> list[str]:
    """What one of `count` devices does too much in the backward pass of a layer, whose x are its examples."""
    layer, args, _ = case.make()
    what, given = subject(layer, args, None, case.seed)
    bench, _ = benched(what, given, Contract())
    layout = bench.flat.layout
    first = len(given) - 1  # parameters come before it
    names = [
        name
        for role, known in (("float", layout.floats), ("other", layout.named("other")))
        for name, owner in zip(known, layout.owners(role), strict=True)
        if owner == first
    ]
    bench.contract = Contract(batch=tuple(names))
    shared = Shared(bench, count)
    return [text for text, _ in shared.faults(shared.program(bench))]


def spread(only: str = "") -> Iterator[Tried]:
    """Each case of the catalogue, over eight devices of the CPU."""
    jax.config.update("jax_num_cpu_devices", 8)
    for case in of_catalogue():
        if only in case.name:
            why = next((why for part, why in EXCUSED.items() if part in case.name), "")
            try:
                found = faults(case, 8)
            except LayerError as error:  # a parameter along the batch, say
                yield Tried("of one size of batch", f"{case.name}: {error}")
                continue
            yield Tried("excused", f"{case.name}: {why}") if why else Tried("alone", case.name, tuple(found))
