"""How what runs a few times only is compiled."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp


@cache
def quick_options(random: bool = False) -> dict[str, Any] | None:
    """Options for quick compilation of what runs a few times on a few numbers, where this compiler knows them.

    Without one of them for what takes keys: it would compute random bits anew in every loop that takes some of them.
    """
    options: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
    for try_ in (options if random else options | {"xla_cpu_use_fusion_emitters": False}, options):
        try:
            jax.jit(lambda: 0, compiler_options=try_)()
        except Exception as error:  # each backend has its own way to say that it has no such option
            if "option" not in str(error):
                raise
        else:
            return try_
    return None


def has_keys(tree: Any) -> bool:
    """Whether random keys are among the arrays."""
    return any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(tree))
