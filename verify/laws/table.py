"""All laws, each with its canaries, in the order in which they are asked."""

from verify.laws import calls, kernels, numbers, precision, second, spread, transforms
from verify.laws.law import Law

LAWS = (
    Law("structure", calls.structure, calls.other_dtype),
    Law("dense", numbers.dense, numbers.corruptions),
    Law("value", numbers.value, numbers.wrong_value),
    Law("linear", numbers.linear, numbers.nonlinear),
    Law("zero", numbers.zero, numbers.added),
    Law("adjoint", numbers.adjoint, numbers.scaled),
    Law("pure", calls.pure, calls.drifting),
    Law("eager", calls.eager, calls.eager_only),
    Law("vmap", transforms.batched, transforms.vmap_only),
    Law("loop", transforms.looped, transforms.loop_only),
    Law("parts", transforms.parts, transforms.parts_only),
    Law("leaks", transforms.leaks, transforms.leaking),
    Law("twice", second.twice, second.twice_only),
    Law("sharded", transforms.sharded, transforms.sharded_only),
    Law("spread", spread.spread, spread.spreading),
    Law("kernels", kernels.raced, kernels.raced_only),
    Law("settings", numbers.settings, numbers.setting_only),
    Law("halves", transforms.apart, transforms.apart_only),
    Law("precision", precision.precise, precision.imprecise),
    Law("finite", precision.bounded, precision.infinite),
)


QUICK = ("structure", "dense", "value", "linear", "zero", "adjoint", "pure", "leaks", "settings", "precision", "finite")
