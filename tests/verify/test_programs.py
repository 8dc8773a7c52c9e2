"""Programs that audits keep between runs."""

import os

import pytest

from verify.processes import programs
from verify.processes.safely import Pool


def compiled(_: int) -> int:
    """How many programs were compiled, and not taken from where they are kept."""
    import jax
    import jax.numpy as jnp

    missed = []
    jax.monitoring.register_event_listener(
        lambda name, **_: missed.append(name) if name.endswith("cache_misses") else None
    )
    jax.jit(lambda x: jnp.sin(x) * 2)(jnp.arange(4.0)).block_until_ready()
    return len(missed)


def test_a_second_process_takes_what_the_first_has_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VERIFY_CACHE", str(tmp_path / "programs"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    counts = []
    for _ in range(2):
        with Pool(kept=True) as pool:
            counts.append(pool.call(compiled, 0))
    assert counts[0] > 0
    assert counts[1] == 0
    assert list((tmp_path / "programs").glob("*-cache"))
    assert (tmp_path / "programs").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("word", ["off", "kept"])
def test_nothing_is_kept_where_nobody_wants_it(tmp_path, monkeypatch, word):
    """Neither with VERIFY_CACHE=off nor in a pool of a long campaign."""
    monkeypatch.setenv("VERIFY_CACHE", "off" if word == "off" else str(tmp_path / "programs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    with Pool(kept=word == "off") as pool:
        pool.call(compiled, 0)
    assert not list(tmp_path.rglob("*-cache"))


def test_the_oldest_go_first(tmp_path, monkeypatch):
    monkeypatch.setenv("VERIFY_CACHE", str(tmp_path))
    for i in range(10):
        file = tmp_path / f"{i}-cache"
        file.write_bytes(bytes(100))
        os.utime(file, (i, i))
    programs.prune(1000)
    assert len(list(tmp_path.iterdir())) == 10
    programs.prune(999)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"{i}-cache" for i in range(6, 10)]
