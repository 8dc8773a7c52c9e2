"""Training on many devices: the tests in tests/scale, each file in a process of its own that has eight."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "scale").glob("*.py")))
def test_on_eight_devices(file):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"tests/scale/{file}"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
