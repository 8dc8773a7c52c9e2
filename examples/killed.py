"""Killed: a training on eight devices is killed with SIGKILL, again and again, and goes on each time.

    python -m examples.killed

It runs in a process of its own, which is killed as soon as it has saved once more, and begun anew. On devices that are
as before it goes on bit for bit; in the end it is taken up under another plan, whose losses are the same to rounding.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

import numpy as np

from examples.characters import LENGTH, VOCABULARY
from examples.data import text
from examples.devices import eight, mesh, trained
from examples.shared import Figure, Outcome, main, picture
from jbp import recipes
from jbp.saves import Saves
from jbp.train import Plan

NET = recipes.gpt(VOCABULARY, LENGTH, 32, blocks=2, heads=8)
PLAN = Plan(mesh(data=8), weights="data")
OTHER = Plan(mesh(data=2, tokens=2, tensor=2), weights="data", tensor="tensor", sequence="tokens")
KILLS = 3


def saved(folder: Path) -> list[int]:
    """The steps of the saves that are whole."""
    return sorted(int(place.name) for place in folder.glob("*") if place.name.isdigit())


def child(folder: str, steps: int, seed: int) -> None:
    """The training that is killed."""
    eight()
    trained(NET, PLAN, text()[0], steps, seed, saves=Saves(folder, every=max(1, steps // 10)))


def killed(folder: Path, steps: int, seed: int) -> int:
    """Trains until it has saved once more, or is done. The step of the newest save."""
    before = saved(folder)[-1:]
    program = f"from examples.killed import child; child({str(folder)!r}, {steps}, {seed})"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while process.poll() is None and saved(folder)[-1:] == before:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    return saved(folder)[-1]


def run(steps: int, seed: int, out: Path) -> Outcome:
    training, _ = text()
    _, wanted = trained(NET, PLAN, training, steps, seed)
    with TemporaryDirectory() as place:
        folder, copy = Path(place) / "saves", Path(place) / "copy"
        at = [killed(folder, steps, seed) for _ in range(KILLS)]
        copytree(folder, copy)
        _, same = trained(NET, PLAN, training, steps, seed, saves=Saves(str(folder), every=steps))
        _, other = trained(NET, OTHER, training, steps, seed, saves=Saves(str(copy), every=steps))

    with picture(out / "killed.png", columns=2, size=(11, 3.8)) as (left, right):
        left.plot(range(1, steps + 1), wanted, label="never stopped")
        left.plot(range(1, steps + 1), same, "--", label="killed")
        for step in at:
            left.axvline(step, color="0.5", linewidth=0.8)
        left.set(xlabel="step; lines: the saves from which it went on", ylabel="loss")
        left.legend(frameon=False)
        right.plot(range(1, steps + 1), np.abs(same - wanted), label="on the same devices")
        right.plot(range(1, steps + 1), np.abs(other - wanted), label="taken up in a ring, and by heads")
        right.set(xlabel="step", ylabel="|loss − loss never stopped|")
        right.legend(frameon=False)
    figures = [
        Figure(
            "losses on the same devices, off by", float(np.abs(same - wanted).max()), 0.0, "a batch twice", low=True
        ),
        Figure("taken up elsewhere, off by", float(np.abs(other - wanted).max()), 1e-10, "a batch twice", low=True),
        Figure("the last save before the last kill", at[-1], 2 * max(1, steps // 10), "from the beginning each time"),
    ]
    return Outcome({"GPT": NET}, figures, out / "killed.png")


if __name__ == "__main__":
    eight()
    main(run, steps=200, short=60)
