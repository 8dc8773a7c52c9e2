"""The law of spread on eight virtual devices: run by tests/test_scale.py in a process of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import verify
from jbp.layers import BatchNorm
from tests.storm.spread import faults
from verify import Contract
from verify.cli.cases import Case, of_catalogue
from verify.laws.table import LAWS

jax.config.update("jax_num_cpu_devices", 8)

ALONE = tuple(law.name for law in LAWS if law.name not in ("structure", "dense", "spread"))
RNG = np.random.default_rng(0)
X, W = (RNG.normal(size=shape).astype("float32") for shape in ((6, 5, 3), (3, 4)))


def plain(x, w):
    return jnp.tanh(x @ w)


def ruled(back):
    """tanh(x w) with dx, dw = back(x, w, dz)."""
    f = jax.custom_vjp(plain)

    def forward(x, w):
        y = plain(x, w)
        return y, (x, w, y)

    f.defvjp(forward, lambda kept, dy: back(*kept[:2], dy * (1 - kept[2] ** 2)))
    return f


def right(x, w, dz):
    return dz @ w.T, jnp.einsum("bti,bto->io", x, dz)


def time_in_front(x, w, dz):
    rows, errors = (v.swapaxes(0, 1).reshape(-1, v.shape[-1]) for v in (x, dz))
    return dz @ w.T, rows.T @ errors


def example_by_example(x, w, dz):
    step = lambda dw, now: (dw + now[0].T @ now[1], None)  # noqa: E731
    return dz @ w.T, lax.scan(step, jnp.zeros_like(w), (x, dz))[0]


def time_step_by_time_step(x, w, dz):
    """The sum over devices is in the loop: as often as there are steps."""
    return dz @ w.T, sum(lax.optimization_barrier(x[:, t].T @ dz[:, t]) for t in range(x.shape[1]))


def audited(f, reference, batch, *args):
    contract = Contract(batch=batch, without=ALONE)
    return verify.check(f, *args, reference=reference, contract=contract)


def test_a_rule_that_each_device_follows_for_its_examples_passes():
    report = audited(ruled(right), plain, ("x",), X, W)
    assert report.verdict == "pass", str(report)
    assert [c.fate for c in report.canaries if c.law == "spread"] == ["killed"] * 3


@pytest.mark.parametrize(
    ("back", "words"),
    [(time_in_front, "is sent"), (example_by_example, "is sent"), (time_step_by_time_step, "sums")],
)
def test_a_rule_is_found_that_makes_devices_work_for_each_other(back, words):
    report = audited(ruled(back), plain, ("x",), X, W)
    assert report.verdict == "fail"
    (error,) = [e for e in report.errors if e.law == "spread"][:1]
    assert words in error.message
    assert error.diagnosis == "not shared out"


def test_what_joins_examples_is_held_to_its_own_derivative():
    """The mean over a batch is a sum over devices; to bring all examples to each is not what it needs."""

    def centred(x):
        return x - x.mean(0, keepdims=True)

    def gathering(kept, dy):
        return (dy - jnp.stack([dy[i] for i in range(dy.shape[0])]).mean(0, keepdims=True),)

    def summing(kept, dy):
        return (dy - dy.mean(0, keepdims=True),)

    for back, verdict in ((summing, "pass"), (gathering, "fail")):
        f = jax.custom_vjp(centred)
        f.defvjp(lambda x: (centred(x), None), back)
        report = audited(f, centred, ("x",), RNG.normal(size=(8, 3)).astype("float32"))
        assert report.verdict == verdict, str(report)


def test_examples_that_are_integers_and_a_sum_over_them():
    """A table's gradient is one sum; the ids have none."""

    def looked_up(table, ids):
        return (table[ids] ** 2).sum()

    f = jax.custom_vjp(looked_up)
    f.defvjp(
        lambda table, ids: (looked_up(table, ids), (table, ids)),
        lambda kept, dy: (jnp.zeros_like(kept[0]).at[kept[1]].add(2 * dy * kept[0][kept[1]]), None),
    )
    report = audited(f, looked_up, ("ids",), RNG.normal(size=(4, 3)).astype("float32"), np.arange(6) % 4)
    assert report.verdict == "pass", str(report)


def test_a_batch_that_is_none_is_refused():
    with pytest.raises(verify.ContractError, match="first axes of one size"):
        audited(ruled(right), plain, ("x", "w"), X, W)
    with pytest.raises(verify.ContractError, match="names of some of these"):
        audited(ruled(right), plain, ("y",), X, W)


def test_what_takes_no_other_number_of_examples_is_noted():
    weight = jnp.arange(6.0, dtype="float32")[:, None]

    def weighted(x):
        return x * weight

    report = audited(weighted, weighted, ("x",), X[:, 0])
    assert [(f.severity, "was not tried" in f.message) for f in report.findings if f.law == "spread"] == [
        ("note", True)
    ]


SAMPLE = (
    "LSTM(3)-1", "GRU(3)-0", "Lengths(GRU(2), pool='last')-0", "DiagonalStateSpace(2)-0", "Recursive(TensorNode())-0",
    "Conv(8, kernel=(2,), groups=8)-0", "MaxPool(window=(2,), stride=1)-0", "MaxUnpool(window=2)-0", "BatchNorm()-0",
    "MultiHeadAttention(1)-0", "WeightNorm(Dense(3))-0",
)  # fmt: skip


def test_no_layer_makes_devices_work_for_each_other():
    """A sample: `python -m tests.storm spread` asks all of them."""
    some = [case for case in of_catalogue() if case.name in SAMPLE]
    some += [case for case in of_catalogue() if case.name.startswith("LinearCrossEntropy(")][:2]
    assert len(some) == len(SAMPLE) + 2, {c.name for c in some} ^ set(SAMPLE)
    assert {case.name: found for case in some if (found := faults(case, 8))} == {}


def test_a_layer_that_reads_a_neighbour_is_named():
    class Shifted(BatchNorm):
        def backward(self, params, residuals, dy, /):
            return super().backward(params, residuals, jnp.roll(dy, 1, 0))

    case = Case("shifted", lambda: (Shifted(), (X[:, 0],), None))
    assert any("is sent" in text for text in faults(case, 8))
