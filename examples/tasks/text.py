"""Classify texts of any length; stop when validation gets no better; save, and read in a fresh process.

python -m examples.tasks.text
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbp
from jbp import Parallel, Serial
from jbp.layers import GRU, Dense, Embedding, Identity, Lengths
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

READ = """
import sys, jbp, numpy as np
net, params = jbp.load(sys.argv[1])
words, lengths, scores = (np.load(f"{sys.argv[1]}.{name}.npy") for name in ("words", "lengths", "scores"))
np.testing.assert_allclose(net.evaluation()(params, (words, lengths)), scores, rtol=1e-4, atol=1e-5)
"""


def texts(n: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((words padded with 0, lengths), label): is the word 1 more frequent than the word 2?"""
    rng = np.random.default_rng(seed)
    words, lengths = rng.integers(1, 9, (n, 12)), rng.integers(3, 13, n)
    words = np.where(np.arange(12) < lengths[:, None], words, 0)
    return (words, lengths), ((words == 1).sum(1) > (words == 2).sum(1)).astype(np.int32)


def main(steps: int = 400) -> float:
    net = Serial(embed=Parallel(Embedding(9, 8), Identity()), read=Lengths(GRU(16), pool="last"), head=Dense(2))
    x, label = texts(512, 0)
    loss, optimizer = SoftmaxCrossEntropy(), optax.adam(1e-2)
    state = start(net, optimizer, jax.random.key(0), x)
    state, history = fit(
        net, loss, optimizer, state, [(x, label)] * steps,
        every=20, validation=[texts(256, 1)], patience=3, accuracy=accuracy,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        jbp.save(path, net, state)
        held, _ = texts(5, 2)
        for name, array in zip(("words", "lengths"), held, strict=True):
            np.save(f"{path}.{name}.npy", array)
        np.save(f"{path}.scores.npy", net.evaluation()(state.params, jax.tree.map(jnp.asarray, held)))
        subprocess.run([sys.executable, "-c", READ, str(path)], check=True)
    return max(row["validation accuracy"] for row in history if "validation accuracy" in row)


if __name__ == "__main__":
    print(f"validation accuracy {main():.3f}; the same scores in another process")
