"""Audit a function of a released package against its plain definition, and write the page with what was found.

python -m examples.tasks.released
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp


def plain(x):
    return jnp.log(1 + jnp.exp(-jnp.abs(x))) + x * (x > 0)


def main() -> tuple[int, str]:
    """(the exit code, 0 if all passed; the page)."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "softplus.html"
        audit = [sys.executable, "-m", "verify", "function", "jax.nn:softplus", "--level", "quick"]
        more = ["--reference", "examples.tasks.released:plain", "--example", "f32[6]", "--output", str(page)]
        code = subprocess.run([*audit, *more], cwd=Path(__file__).parents[2], check=False).returncode
        return code, page.read_text()


if __name__ == "__main__":
    print(main()[1][:300])
