"""Strict in the tests: float64 on, no silent broadcast over ranks or promotion of dtypes, warnings are errors."""

import jax
import pytest

pytest_plugins = ["pytest_verify"]  # also where the installation is older than the plugin

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Thousands of small programs that run a few times each: nearly all the time goes into compiling them.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized():
    """For what is said of the compiled program itself, such as its memory: as it is compiled for users."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def lenient():
    """Strangers do not write their code for strict promotion, nor with float64 on."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        yield
