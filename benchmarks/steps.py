"""Step time and memory of the four example networks, by hand and by jax.grad of their plain definitions.

    python -m benchmarks.steps

Both sides are the value and the whole gradient in float32, compiled, on the same parameters and the same batch; they
run in turn, and the figure is the ratio of the medians, with the quartiles of the ratio over neighbouring runs.
Memory is XLA's temp_size_in_bytes. Below 1.00 the hand-written pass is the faster one; whatever comes out is printed.
"""

import argparse
import os

import jax
from rich.console import Console

from examples import characters, data, digits
from examples.shared import figures_of, race, report
from jbp.sweep import initialize


def networks() -> dict:
    """name -> (network, loss, x, target), as in the examples, with a batch of their data."""
    images = next(digits.batches(*data.images()[0], seed=0))
    text = next(characters.batches(data.text()[0], seed=0))
    return {
        "digits, MLP": (digits.NETS["MLP"], digits.LOSS, *images),
        "digits, convolutional": (digits.NETS["convolutional"], digits.LOSS, *images),
        "characters, transformer": (characters.NETS["transformer"], characters.LOSS, *text),
        "characters, LSTM": (characters.NETS["LSTM"], characters.LOSS, *text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each network is timed")
    options = parser.parse_args()

    console, columns = Console(), {}
    device = jax.devices()[0]
    console.print(f"jax {jax.__version__}, {device.platform} {device.device_kind}, {os.cpu_count()} cores")
    for name, (net, loss, x, target) in networks().items():
        with console.status(name):
            params = initialize(net, jax.random.key(0), x)
            columns[name] = figures_of(race(net, loss, params, x, target, options.seconds))
    report(console, columns)


if __name__ == "__main__":
    main()
