"""Strict in the tests: float64 on, no silent broadcast over ranks or promotion of dtypes, warnings are errors."""

import os
from collections import defaultdict

import jax
import pytest

pytest_plugins = ["pytest_verify"]  # also where the installation is older than the plugin

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Thousands of small programs that run a few times each: nearly all the time goes into compiling them. XLA ends the
# process at a flag that it does not know, and newer ones have but one way to emit loops.
jax.config.update("jax_disable_most_optimizations", True)
quick = ["--xla_cpu_parallel_codegen_split_count=1"]
quick += ["--xla_cpu_use_fusion_emitters=false"] * (jax.__version_info__ < (0, 11))
os.environ["XLA_FLAGS"] = " ".join([*quick, os.environ.get("XLA_FLAGS", "")])


def pytest_addoption(parser):
    words = "of the tests of each file try every so-many-th alone (make test-quick)"
    parser.addoption("--sample", type=int, default=1, help=words)


def pytest_collection_modifyitems(config, items):
    every, files = config.getoption("sample"), defaultdict(list)
    for item in items:
        files[item.path].append(item)
    left_out = {item for tests in files.values() for i, item in enumerate(tests) if i % every}
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
