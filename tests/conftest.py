"""Strict in the tests: float64 on, no silent broadcast over ranks or promotion of dtypes, warnings are errors."""

import jax

pytest_plugins = ["pytest_verify"]  # also where the installation is older than the plugin

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
