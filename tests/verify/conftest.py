import jax
import pytest


@pytest.fixture
def lenient():
    """Strangers do not write their code for strict promotion, nor with float64 on."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        yield
