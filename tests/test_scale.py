"""Training on many devices: the tests in tests/scale, each file in a process of its own that has eight."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.storm.trainings import Run, saved, words

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "scale").glob("*.py")))
def test_on_eight_devices(file):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"tests/scale/{file}"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-8000:]


def test_two_processes_name_the_layer_that_made_a_nan(tmp_path):
    codes, said = Run(tmp_path / "saves", tmp_path / "cache", "nan=6", "devices=2", count=2, steps=7).ended()
    assert codes == [0, 0], said
    told = {words(text, "DIVERGED") for text in said}
    assert len(told) == 1, said
    assert "DIVERGED 6" in told.pop()
    assert all("The first is in the output of Serial[0]: Dense(8)" in text for text in said), said
    assert saved(tmp_path / "saves") == 5
