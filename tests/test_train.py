"""Training: the step, the loop, its stop at the first NaN, exact clipping inside the sweep."""

import faulthandler
import json
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbp import (
    Buffer,
    Layer,
    LayerError,
    Parallel,
    Remat,
    Repeat,
    Residual,
    Serial,
    Tied,
    buffers,
    cast,
    merge,
    trainable,
    value_and_grad,
)
from jbp.combinators import Keep
from jbp.layers import Add, BatchNorm, Dense, Dropout, Embedding, FanOut, Identity, LayerNorm, Logits, Tanh
from jbp.losses import MeanAbsoluteError, MeanSquaredError, SoftmaxCrossEntropy
from jbp.train import Diverged, State, accuracy, fit, inside, lines, loop, start, step
from jbp.train.step import _compiled, copied, given_away, norm

LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(1)
X = jax.random.normal(jax.random.key(0), (12, 4))
T = jnp.arange(12) % 3
NET = Serial(Dense(6), BatchNorm(), Tanh(), Dropout(0.2), Dense(3))


def same(a, b):
    def leaf(u, v):
        u, v = (jax.random.key_data(w) if jnp.issubdtype(w.dtype, jax.dtypes.prng_key) else w for w in (u, v))
        np.testing.assert_array_equal(u, v)

    jax.tree.map(leaf, a, b)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "adamw with a schedule": optax.adamw(optax.cosine_decay_schedule(1e-2, 100), weight_decay=1e-2),
    "lion": optax.lion(1e-3),
    "adafactor": optax.adafactor(1e-2),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.rmsprop(1e-2)),
    "accumulated": optax.MultiSteps(optax.adam(2e-2), 2),
    "schedule free": optax.contrib.schedule_free_sgd(0.1),  # its state begins with the parameters themselves
    "by the loss": optax.contrib.momo(0.5),
    "searching": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10, store_grad=True)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_lowers_the_loss_and_a_state_serves_once(name):
    optimizer = OPTIMIZERS[name]
    state = first = start(NET, optimizer, KEY, X)
    run = step(NET, LOSS, optimizer, accuracy=accuracy)
    losses = []
    for _ in range(12):
        state, metrics = run(state, X, T)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert bool(metrics["finite"])
    assert 0 <= metrics["accuracy"] <= 1
    assert int(state.steps) == 12
    with pytest.raises(LayerError, match=r"got a state whose arrays were deleted.* expected one .* Go on with"):
        run(first, X, T)


def test_a_plateau_lowers_the_rate():
    optimizer = optax.chain(
        optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    )
    net = Serial(Dense(3))
    state, history = trained(net, [(X, T)] * 4, optimizer=optimizer)
    assert len({row["loss"] for row in history}) == 1  # it stands still
    np.testing.assert_allclose(state.optimizer[1].scale, 0.5**3)  # the first is an improvement over infinity


def test_lbfgs_solves_least_squares():
    """With its line search it finds in few steps the solution of the normal equations."""
    net, optimizer = Serial(Dense(2)), optax.lbfgs()
    target = jax.random.normal(jax.random.key(3), (12, 2))
    state, _history = trained(net, [(X, target)] * 15, MeanSquaredError(), optimizer=optimizer)
    wanted, *_ = np.linalg.lstsq(np.c_[X, np.ones(12)], target, rcond=None)
    np.testing.assert_allclose(state.params[0]["w"], wanted[:4], atol=1e-6)
    np.testing.assert_allclose(state.params[0]["b"], wanted[4], atol=1e-6)


def test_sam_takes_the_gradient_at_the_worse_place():
    net, rho = Serial(Dense(2, bias=False)), 0.05
    target = jnp.ones((12, 2))
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    optimizer = optax.contrib.sam(optax.sgd(0.1), ascent, opaque_mode=True)
    state = start(net, optimizer, KEY, X)
    w = np.asarray(state.params[0]["w"])

    def grad(w):
        return X.T @ (X @ w - target) * (2 / target.size)

    worse = w + rho * grad(w) / np.linalg.norm(grad(w))
    state, _ = step(net, MeanSquaredError(), optimizer)(state, X, target)
    np.testing.assert_allclose(state.params[0]["w"], w - 0.1 * grad(worse), rtol=1e-12)


def test_schedule_free_is_evaluated_by_its_average():
    net, optimizer = Serial(Dense(3)), optax.contrib.schedule_free_sgd(0.1)
    state, _ = trained(net, [(X, T)] * 3, optimizer=optimizer)
    averaged = optax.contrib.schedule_free_eval_params(state.optimizer, trainable(state.params))
    y, _ = net.evaluation().forward(merge(averaged, buffers(state.params)), X)
    w, z, b, zb = (np.asarray(p[0][name]) for name in "wb" for p in (state.params, state.optimizer.z))
    np.testing.assert_allclose(y, np.asarray(X) @ ((w - 0.1 * z) / 0.9) + (b - 0.1 * zb) / 0.9, rtol=1e-12)


def test_a_step_is_the_sweep_and_the_optimizer():
    net, optimizer = Serial(Dense(5), Tanh(), Dense(3)), optax.adam(1e-2)
    state = start(net, optimizer, KEY, X)
    params, kept = copied((state.params, state.optimizer))
    run, sweep = step(net, LOSS, optimizer), jax.jit(value_and_grad(net, LOSS))
    for _ in range(3):
        state, metrics = run(state, X, T)
        value, grads = sweep(params, X, T)
        with jax.numpy_dtype_promotion("standard"):
            updates, kept = optimizer.update(grads, kept, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), state.params, params)


def test_a_step_with_nan_leaves_the_state_as_it_was():
    optimizer = optax.adam(1e-2)
    state = start(NET, optimizer, KEY, X)
    before = copied(state)
    state, metrics = step(NET, LOSS, optimizer)(state, X.at[3, 1].set(jnp.nan), T)
    assert not metrics["finite"]
    same(state, before)


def test_a_state_goes_through_pickle_and_goes_on_bit_for_bit():
    optimizer = optax.adam(1e-2)
    run = step(NET, LOSS, optimizer)
    state = start(NET, optimizer, KEY, X)
    for _ in range(3):
        state, _ = run(state, X, T)

    def to_numpy(a):
        return jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a

    def back(saved, like):
        is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(saved) if is_key else jnp.asarray(saved)

    saved = pickle.dumps(jax.device_get(jax.tree.map(to_numpy, state)))
    other = jax.tree.map(back, pickle.loads(saved), start(NET, optimizer, jax.random.key(99), X))
    assert isinstance(other, State)
    for _ in range(3):
        state, _ = run(state, X, T)
        other, _ = run(other, X, T)
    same(state, other)


def trained(net, batches, loss=LOSS, x=X, optimizer=None, **options):
    optimizer = optimizer or optax.sgd(0.1)
    return fit(net, loss, optimizer, start(net, optimizer, KEY, x), batches, **options)


def test_fit_reads_every_step_and_checks_now_and_then(capsys):
    def check(params):
        return {"size of w": jnp.abs(params[0]["w"]).max()}

    batches = repeat((X, T))
    state, history = trained(NET, batches, steps=7, every=3, check=check, accuracy=accuracy, title="a title")
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in history if "size of w" in row] == [3, 6, 7]
    assert all({"loss", "norm", "accuracy"} <= set(row) for row in history)
    assert int(state.steps) == 7
    said = capsys.readouterr().out  # to a file: a line a look, however long, and nothing else
    assert [line[:16] for line in said.split("\n")] == [*(f"a title: step {k}, "[:16] for k in (3, 6, 7)), ""]
    state, history = fit(NET, LOSS, optax.sgd(0.1), state, [(X, T)] * 2)
    assert [row["step"] for row in history] == [8, 9]


def test_fit_without_batches_is_refused():
    used = iter([(X, T)])
    state, _ = trained(NET, used)
    for batches in ([], used):
        with pytest.raises(LayerError, match=r"got no batches; expected one .* Is the iterator used up") as caught:
            fit(NET, LOSS, optax.sgd(0.1), state, batches)
        assert caught.value.state is state
        assert caught.value.history == []


@dataclass(frozen=True)
class Counted(Layer):
    """y = x; each tracing of its forward is put down, for it runs when a program is made, and not again."""

    name: str

    def forward(self, params, x, /):
        TRACED.append((self.name, x.shape))
        return x, ()

    def backward(self, params, residuals, dy, /):
        return dy, ()


TRACED = []


def traced(name):
    return [shape for each, shape in TRACED if each == name]


def test_the_same_training_is_compiled_once(capsys):
    optimizer = optax.adam(1e-2)
    for name, epochs in (("fit", lambda net, state: fit(net, LOSS, optimizer, state, [(X, T)] * 2, accuracy=accuracy)),
                         ("step", lambda net, state: step(net, LOSS, optimizer)(state, X, T))):  # fmt: skip
        state = start(Serial(Counted(name), Dense(3)), optimizer, KEY, X)
        state, _ = epochs(Serial(Counted(name), Dense(3)), state)
        before = len(traced(name))
        for _ in range(3):
            state, _ = epochs(Serial(Counted(name), Dense(3)), state)  # an equal network is the same network
        assert len(traced(name)) == before
    assert step(NET, LOSS, optimizer).compiled is step(NET, LOSS, optimizer).compiled
    assert step(NET, LOSS, optimizer).compiled is not step(NET, LOSS, optax.adam(1e-2)).compiled
    assert _compiled.cache_info().maxsize == 16


def test_a_last_batch_of_another_size_is_compiled_once_and_told_once(capsys):
    net = Serial(Counted("sizes"), Dense(3))
    batches = [(X, T), (X, T), (X[:5], T[:5]), (X[:5], T[:5]), (X[:4], T[:4])]
    _state, history = trained(net, batches)
    assert len(history) == 5
    assert traced("sizes") == [(12, 4), (12, 4), (5, 4), (4, 4)]  # the first is that of `start`
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("a batch of another size") == 1
    assert "(float64[5, 4], int64[5]) after (float64[12, 4], int64[12]); each new size is compiled once" in out


MALFORMED = {
    "no tuple": (X, "got the batch float64[12, 4]; expected a tuple (x, *targets)"),
    "a list of numbers": ((X, [None, object()]), "expected a tuple (x, *targets) of arrays"),
    "words": ((X, np.array(["a", "b"])), "expected a tuple (x, *targets) of arrays"),
    "another tree": ((X, T, T), "int64[12]) after (float64[12, 4], int64[12]); expected one tree for all"),
}


@pytest.mark.parametrize(("batch", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_batch_that_is_none_is_refused_with_the_state_and_the_rows(batch, says):
    with pytest.raises(LayerError) as caught:
        trained(NET, [(X, T), batch])
    assert says in str(caught.value)
    assert len(caught.value.history) == int(caught.value.state.steps) == 1


def test_what_is_no_training_is_refused():
    optimizer = optax.sgd(0.1)
    state = start(NET, optimizer, KEY, X)
    kept = copied(state)
    for says, call in {
        "expected a State. Make it with start": lambda: fit(NET, LOSS, optimizer, state.params, [(X, T)]),
        "Is it that of another optimizer": lambda: fit(NET, LOSS, optax.adam(0.1), state, [(X, T)]),
        "got the optimizer adam; expected an optax": lambda: fit(NET, LOSS, optax.adam, state, [(X, T)]),
        "got type as net; expected a layer. Write Tanh(...)": lambda: fit(Tanh, LOSS, optimizer, state, [(X, T)]),
        "got function as loss; expected a layer": lambda: step(NET, same, optimizer),
        "got steps=0; expected": lambda: fit(NET, LOSS, optimizer, state, [(X, T)], steps=0),
        "got every=-1; expected": lambda: fit(NET, LOSS, optimizer, state, [(X, T)], every=-1),
        "got batches int; expected an iterable": lambda: fit(NET, LOSS, optimizer, state, 3),
        "got the optimizer adam; expected an optax transformation. Write": lambda: start(NET, optax.adam, KEY, X),
        "got key int; expected a random key": lambda: start(NET, optimizer, 0, X),
        "got x ndarray object[2]; expected an array": lambda: start(NET, optimizer, KEY, np.array([None, None])),
    }.items():
        with pytest.raises(LayerError) as caught:
            call()
        assert says in str(caught.value)
    same(state, kept)
    fit(NET, LOSS, optimizer, state, [(X, T)])
    with pytest.raises(LayerError, match="got a state whose arrays were deleted"):
        fit(NET, LOSS, optimizer, state, [(X, T)])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_on_the_way_leaves_with_the_state(error):
    def batches():
        yield from [(X, T)] * 3
        raise error

    with pytest.raises(error) as caught:
        trained(NET, batches())
    assert int(caught.value.state.steps) == 3
    assert [row["step"] for row in caught.value.history] == [1, 2, 3]


def interrupt():
    signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class Stop:
    """The compiled step, and Ctrl-C at the end of the call `at`: the old state is deleted, the new one unassigned."""

    run: Callable
    at: int
    calls: list

    def __call__(self, *args):
        out = self.run(*args)
        self.calls.append(args[0])
        if len(self.calls) == self.at:
            assert given_away(args[0])
            interrupt()
        return out


@pytest.mark.parametrize("at", [1, 3])
def test_ctrl_c_between_donation_and_assignment_loses_nothing(at, monkeypatch):
    compiled = loop.compiled
    monkeypatch.setattr(loop, "compiled", lambda *a, **k: Stop(compiled(*a, **k), at, []))
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(NET, [(X, T)] * 5)
    assert not given_away(caught.value.state)
    assert int(caught.value.state.steps) == at
    assert [row["step"] for row in caught.value.history] == list(range(1, at + 1))
    monkeypatch.undo()
    state, _ = fit(NET, LOSS, optax.sgd(0.1), caught.value.state, [(X, T)] * (5 - at))
    same(state, trained(NET, [(X, T)] * 5)[0])  # it goes on as if nothing had been
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("where", ["the data", "the check", "the reading", "tracing"])
def test_ctrl_c_anywhere_else_loses_nothing_either(where, monkeypatch):
    @dataclass(frozen=True)
    class Interrupts(Layer):
        def forward(self, params, x, /):
            if where == "tracing" and x.shape == (5, 4):
                interrupt()
            return x, ()

        def backward(self, params, residuals, dy, /):
            return dy, ()

    def batches():
        yield from [(X, T)] * 3
        if where == "the data":
            interrupt()
        yield X[:5], T[:5]

    def check(params):
        if where == "the check":
            interrupt()
        return {}

    def read(metrics, times=[]):  # noqa: B006
        times.append(1)
        if where == "the reading" and len(times) == 2:
            interrupt()
        return device_get(metrics)

    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", read)
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(Serial(Interrupts(), *NET.layers), batches(), check=check, every=2)
    assert not given_away(caught.value.state)
    assert len(caught.value.history) == int(caught.value.state.steps) >= 2


def test_ctrl_c_in_a_thread_is_left_to_the_main_one():
    with ThreadPoolExecutor(1) as pool:
        _, history = pool.submit(trained, NET, [(X, T)]).result()
    assert len(history) == 1


def test_a_check_may_keep_what_it_is_given():
    kept = []
    state, _ = trained(NET, [(X, T)] * 4, every=1, check=lambda params: kept.append(params) or {})
    fit(NET, LOSS, optax.sgd(0.1), state, [(X, T)])
    assert len(kept) == 4
    assert not any(given_away(params) for params in kept)
    assert (kept[0][0]["w"] != kept[1][0]["w"]).any()


def ill(count):
    """A learning rate that is NaN from step 3 on."""
    return jnp.where(count < 2, 0.1, jnp.nan)


def test_a_schedule_that_turns_nan_at_the_last_step_is_no_success():
    with pytest.raises(
        Diverged, match=r"Step 3: .* is in params\[0\]\['b'\], and the optimizer made it.*schedule"
    ) as caught:
        trained(NET, [(X, T)] * 3, optimizer=optax.sgd(ill))
    assert caught.value.step == 3
    assert len(caught.value.history) == 2
    same(caught.value.state, trained(NET, [(X, T)] * 2, optimizer=optax.sgd(ill))[0])


def test_an_overflow_in_the_optimizers_state_is_seen():
    net, optimizer = Serial(Dense(3)), optax.adam(1e-3)
    x = jnp.full((12, 4), 1e200)  # dW is finite, its square is not, and Adam's update would be 0
    with pytest.raises(Diverged, match=r"The first is in optimizer\[0\]\.nu\[0\]\['w'\], and the optimizer made it"):
        trained(net, [(x, jnp.zeros((12, 3)))], MeanAbsoluteError(), optimizer=optimizer)


def test_an_infinity_that_was_there_before_is_none_of_the_steps():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(accumulation_size=5))
    state, history = trained(NET, [(X, T)] * 3, optimizer=optimizer)
    assert jnp.isinf(state.optimizer[1].best_value)
    assert len(history) == 3


@dataclass(frozen=True)
class RunningMean(Layer):
    """y = x, with a mean of the examples in a buffer: NaN for an empty batch, though loss and gradients are not."""

    def init(self, key, x, /):
        return {"mean": Buffer(jnp.zeros(x.shape[-1]))}

    def forward(self, params, x, /):
        return x, x

    def backward(self, params, x, dy, /):
        return dy, ()

    def gradient(self, x, delta, /):
        return {"mean": None}

    def advance(self, params, x, /):
        return {"mean": Buffer(x.mean(0))}


def test_an_empty_batch_does_not_ruin_the_buffers():
    net = Serial(Dense(3), RunningMean())
    with pytest.raises(
        Diverged, match=r"buffer \[1\]\['mean'\]\.value that the network moves on.*batch empty"
    ) as caught:
        trained(net, [(X, T), (X[:0], T[:0]), (X, T)])
    assert caught.value.step == 2
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(caught.value.state.params))


def test_nan_at_the_first_step_has_state_and_history():
    with pytest.raises(Diverged) as caught:
        trained(NET, [(X * jnp.nan, T)])
    assert caught.value.history == []
    same(caught.value.state, start(NET, optax.sgd(0.1), KEY, X))


@dataclass(frozen=True)
class LogZero(Layer):
    """y = log x where x > below, −∞ there else. For planting."""

    below: float = -1e9

    def forward(self, params, x, /):
        return jnp.where(x > self.below, x, jnp.log(x * 0)), x

    def backward(self, params, x, dy, /):
        return dy, ()


@dataclass(frozen=True)
class BadBack(Layer):
    """y = x, and in the backward pass what the formula of √x² gives at zero."""

    where: str = "dx"

    def init(self, key, x, /):
        return jnp.ones((), x.dtype)

    def forward(self, params, x, /):
        return x, x

    def backward(self, params, x, dy, /):
        return (dy / (x * 0) if self.where == "dx" else dy), dy

    def gradient(self, x, dy, /):
        return dy.sum() * (jnp.inf if self.where == "gradient" else 1)


PLANTED = {
    "the output of Serial[1]: LogZero(below=100.0)": Serial(Dense(4), LogZero(100.0), Dense(3)),
    "the output of Serial[0].Residual.Serial[1]: LogZero(below=100.0)": Serial(
        Residual(Serial(Dense(4), LogZero(100.0))), Dense(3)
    ),
    "the output of Serial[0].Remat.Residual: LogZero(below=100.0)": Serial(Remat(Residual(LogZero(100.0))), Dense(3)),
    "the output of Serial[0].Keep.Residual: LogZero(below=100.0)": Serial(
        Keep(Residual(LogZero(100.0)), "int8"), Dense(3)
    ),
    "the output of Serial[1].Parallel[1]: LogZero(below=100.0)": Serial(
        FanOut(2), Parallel(Dense(4), LogZero(100.0)), Add(), Dense(3)
    ),
    "the output of Serial[0].Tied.Serial[1]: LogZero(below=100.0)": Serial(
        Tied(Serial(Dense(4), LogZero(100.0), Dense(4)), (((0,), (2,)),)), Dense(3)
    ),
    "the error dx of Serial[1]: BadBack()": Serial(Dense(4), BadBack(), Dense(3)),
    "the gradient of the parameters of Serial[1]: BadBack(where='gradient')": Serial(
        Dense(4), BadBack("gradient"), Dense(3)
    ),
    "the error dx of Serial[0].Repeat.Remat.Serial[0]: BadBack(), time 2 of its Repeat": Serial(
        Repeat(Remat(Serial(BadBack(), Dense(4))), 3), Dense(3)
    ),
}


@pytest.mark.parametrize("where", PLANTED)
def test_the_layer_that_made_the_nan_is_named(where):
    with pytest.raises(Diverged) as caught:
        trained(PLANTED[where], [(X, T)] * 3)
    assert f"The first is {'in the backward pass, ' * ('output' not in where)}in {where}." in str(caught.value)
    assert str(caught.value).startswith("Step 1: NaN or Inf")
    assert caught.value.step == 1


@dataclass(frozen=True)
class Huge(Layer):
    def forward(self, params, x, /):
        return x * jnp.asarray(1e100, x.dtype), ()

    def backward(self, params, residuals, dy, /):
        return dy * jnp.asarray(1e100, dy.dtype), ()


def test_the_time_in_a_repeat_is_named():
    net = Serial(Dense(4), Repeat(Serial(Huge(), Repeat(Huge(), 2)), 2), Dense(3))
    with pytest.raises(Diverged, match=r"Repeat\.Serial\[0\]: Huge\(\), time 1 of its Repeat\. Its"):
        trained(net, [(X, T)])  # 1e300 after the first time, overflow at once in the second
    net = Serial(Dense(4), Repeat(Serial(Tanh(), Repeat(Huge(), 5)), 2), Dense(3))
    with pytest.raises(Diverged, match=r"Serial\[1\]\.Repeat: Huge\(\), time 0 of its Repeat, time 3 of its Repeat"):
        trained(net, [(X, T)])


def test_an_overflow_in_the_sum_of_a_combinator_is_its_own():
    net = Serial(Residual(Identity()), Dense(3))
    with pytest.raises(Diverged, match=r"in the output of Serial\[0\]: Residual\(Identity\(\)\)\. Its input"):
        trained(net, [(jnp.full_like(X, 1.7e308), T)])


def test_labels_out_of_range_and_bad_batches_and_parameters_are_told_apart():
    net = Serial(Dense(4), Dense(3))
    with pytest.raises(Diverged, match=r"got labels between 1 and 3; expected 0 <= labels < 3"):
        trained(net, [(X, T + 1)])
    with pytest.raises(Diverged, match=r"Step 2: .*batch\[0\] held NaN or Inf already"):
        trained(net, [(X, T), (X * jnp.inf, T)])
    state = start(net, optax.sgd(0.1), KEY, X)
    state.params[1]["b"] = state.params[1]["b"].at[0].set(jnp.nan)
    with pytest.raises(Diverged, match=r"params\[1\]\['b'\] held NaN or Inf already.*learning rate"):
        fit(net, LOSS, optax.sgd(0.1), state, [(X, T)])
    with pytest.raises(Diverged, match=r"The first is the loss, MeanSquaredError\(\)\. The output of the network was"):
        trained(Serial(Dense(4)), [(X, jnp.full_like(X, 1e300))], MeanSquaredError())


def test_nothing_moves_after_the_bad_step_though_the_next_had_begun():
    good = [(X, T)] * 4
    state, _ = trained(NET, good)
    with pytest.raises(Diverged) as caught:
        trained(NET, [*good, (X * jnp.nan, T), *good])
    assert caught.value.step == 5
    assert np.isnan(caught.value.batch[0]).all()
    same(caught.value.state, state)


CLIPPED = {
    "Dense": Serial(Dense(9), Tanh(), Dense(8, bias=False), Tanh(), Logits(3)),
    "Repeat": Serial(
        one=Dense(6), some=Repeat(Serial(Dense(6), Tanh(), Repeat(Residual(Dropout(0.2)), 2)), 3), last=Dense(3)
    ),
    "combinators": Serial(
        Dense(6),
        LayerNorm(),
        Residual(Serial(Dense(6), Tanh(), Dropout(0.3))),
        FanOut(2),
        Parallel(Serial(Dense(6, bias=False), BatchNorm()), Repeat(Remat(Dense(6)), 3)),
        Add(),
        Tied(Serial(Dense(6), Tanh(), Dense(6)), (((0,), (2,)),)),
        Dense(3),
    ),
}


@pytest.mark.parametrize(
    ("name", "max_norm"), [("Dense", 0.05), ("Dense", 100.0), ("Repeat", 0.05), ("combinators", 0.05)]
)
def test_clipping_inside_the_sweep_is_clipping(name, max_norm):
    net, optimizer = CLIPPED[name], optax.adamw(1e-2)
    ordinary = optax.chain(optax.clip_by_global_norm(max_norm), optimizer)
    states = [start(net, ordinary, KEY, X), inside.start(net, optimizer, KEY, X)]
    runs = step(net, LOSS, ordinary), inside.step(net, LOSS, optimizer, max_norm)
    for _ in range(4):
        (states[0], one), (states[1], other) = (run(s, X, T) for run, s in zip(runs, states, strict=True))
        np.testing.assert_allclose(one["norm"], other["norm"], rtol=1e-12)
        assert (one["norm"] > max_norm) == (max_norm < 1)

    def close(a, b):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        else:
            same(a, b)

    jax.tree.map(close, states[0].params, states[1].params)
    assert int(states[1].steps) == 4


def test_clipping_inside_the_sweep_keeps_the_state_from_nan_and_refuses_what_it_cannot_use():
    net, optimizer = CLIPPED["Dense"], optax.adam(1e-2)
    state = inside.start(net, optimizer, KEY, X)
    before = copied(state)
    run = inside.step(net, LOSS, optimizer, 1.0)
    state, metrics = run(state, X.at[0, 0].set(jnp.inf), T)
    assert not metrics["finite"]
    same(state, before)
    with pytest.raises(LayerError, match=r"expected a tuple of 5, one for each layer\. Make it with"):
        run(start(net, optimizer, KEY, X), X, T)
    with pytest.raises(LayerError, match="max_norm=0; expected a positive number"):
        inside.step(net, LOSS, optimizer, 0)


def test_clipping_inside_the_sweep_keeps_the_optimizers_nan_out():
    optimizer = optax.sgd(ill)
    for net in (Serial(Dense(4), Dense(3)), Serial(Dense(4), Repeat(Dense(4), 2), Dense(3))):
        run, state = inside.step(net, LOSS, optimizer, 1.0), inside.start(net, optimizer, KEY, X)
        for _ in range(2):
            state, metrics = run(state, X, T)
            assert metrics["finite"]
        before = copied(state)
        state, metrics = run(state, X, T)
        assert not metrics["finite"]
        same(state, before)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    "net", [Serial(*[Dense(512), Tanh()] * 16), Repeat(Serial(Dense(512), Tanh()), 16)], ids=["Serial", "Repeat"]
)
def test_clipping_inside_the_sweep_needs_a_fifth_of_the_memory(net):
    x = jnp.ones((32, 512), jnp.float32)
    optimizer, loss = optax.adam(1e-3), MeanSquaredError()
    ordinary = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    runs = (
        (step(net, loss, ordinary), start(net, ordinary, KEY, x)),
        (
            inside.step(net, loss, optimizer, 1.0),
            inside.start(net, optimizer, KEY, x),
        ),
    )
    memory = [run.lower(s, x, x).compile().memory_analysis().temp_size_in_bytes / 2**20 for run, s in runs]
    print(f"temporary memory: ordinary {memory[0]:.2f} MiB, inside the sweep {memory[1]:.2f} MiB")
    assert memory[0] >= 5 * memory[1]


def test_an_embedding_trains_too():
    net = Tied(Serial(Embedding(5, 4, "float64"), Tanh(), Logits(5)), (((0, "e"), (2, "e")),))
    ids = jnp.array([[0, 1, 2], [4, 3, 2]])
    state, history = trained(net, [(ids, ids)] * 20, x=ids, optimizer=optax.adam(0.1))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert trainable(cast(state.params, "float32"))[0]["e"].dtype == jnp.float32
    with pytest.raises(
        Diverged, match=r"Tied\.Serial\[0\]: Embedding\(5, 4, dtype='float64'\): got ids between 1 and 9"
    ):
        trained(net, [(ids.at[0, 0].set(9), ids)], x=ids)


def test_what_measures_and_checks_return_is_numbers():
    net, optimizer, batch = Dense(2), optax.sgd(0.1), (jnp.ones((4, 3)), jnp.ones((4, 2)))

    def run(**options):
        return fit(net, MeanSquaredError(), optimizer, start(net, optimizer, KEY, batch[0]), [batch], **options)

    for options, says in (
        ({"each": lambda y, t: y}, "[4, 2] from the measure each; expected one number. Take the mean"),
        ({"words": lambda y, t: "good"}, "got str from the measure words; expected one number"),
        ({"accuracy": 3}, "got accuracy=int as a measure; expected a function of"),
        ({"check": lambda params: 1.0}, "got float from check(params); expected a dict of numbers. Return"),
        ({"check": lambda params: {"w": params["w"]}}, "[3, 2]} from check"),
        ({"check": 3}, "got check=int; expected a function of the parameters"),
    ):
        with pytest.raises(LayerError, match=re.escape(says)):
            run(**options)
    _, history = run(one=lambda y, t: 1, other=lambda y, t: jnp.ones((), bool))
    assert (history[0]["one"], history[0]["other"]) == (1.0, 1.0)


def test_the_norm_of_half_precision_numbers_whose_squares_do_not_fit():
    assert norm({"w": jnp.full(4, 300, "float16")}) == 600


@pytest.mark.parametrize("net", [Tanh(), Serial(Repeat(Tanh(), 3), Dense(2))], ids=repr)
def test_a_step_of_what_has_no_parameters_inside_is_that_of_the_sweep(net):
    x, loss, rule = jnp.ones((3, 2), "float64"), MeanSquaredError(), optax.adam(0.1)
    one = step(net, loss, optax.chain(optax.clip_by_global_norm(0.1), rule))
    inner = inside.step(net, loss, rule, 0.1)
    state, told = one(start(net, optax.chain(optax.clip_by_global_norm(0.1), rule), KEY, x), x, x)
    same, said = inner(inside.start(net, rule, KEY, x), x, x)
    for a, b in zip(*map(jax.tree.leaves, ((state.params, told), (same.params, said))), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_log_has_every_row_once_and_whole():
    def check(params):
        return {"size of w": jnp.abs(params[0]["w"]).max()}

    for reads in (1, 3, 50):
        told = []
        _, history = trained(NET, [(X, T)] * 7, every=3, check=check, log=told.append, reads=reads)
        assert all(row.pop("seconds") > 0 for row in told)
        assert told == history

    def torn():
        yield from [(X, T)] * 5
        raise OSError("the disk is gone")

    told = []
    with pytest.raises(OSError, match="the disk") as caught:
        trained(NET, torn(), log=told.append)
    assert [row["step"] for row in told] == [row["step"] for row in caught.value.history] == [1, 2, 3, 4, 5]

    def full(row):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left") as caught:
        trained(NET, [(X, T)] * 5, log=full)
    assert len(caught.value.history) == 2


def test_lines_are_json_and_nothing_is_taken_back(tmp_path):
    path = tmp_path / "runs" / "rows.jsonl"
    _, history = trained(NET, [(X, T)] * 3, log=lines(path))
    trained(NET, [(X * jnp.nan, T), (X, T), (X, T)], log=lines(path), skips=1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert [row["loss"] for row in rows[:3]] == [row["loss"] for row in history]
    assert (rows[3]["loss"], rows[3]["skipped"], rows[4]["skipped"]) == (None, 1, 0)
    with pytest.raises(OSError, match=r"rows\.jsonl"):
        lines(path / "below a file")


@pytest.mark.parametrize("reads", [1, 4])
def test_unsound_steps_are_skipped_as_often_in_a_row_as_was_asked(reads):
    bad, optimizer = X.at[3, 1].set(jnp.nan), optax.sgd(0.1, momentum=0.9)
    good = [(X * k, T) for k in (1, 2, 3, 4)]
    wanted, _ = trained(NET, good, optimizer=optimizer)
    batches = [good[0], (bad, T), (bad, T), good[1], (bad, T), (bad, T), good[2], good[3]]
    state, history = trained(NET, batches, optimizer=optimizer, skips=2, reads=reads)
    assert int(state.steps) == 8
    same((state.params, state.optimizer), (wanted.params, wanted.optimizer))
    assert [row["skipped"] for row in history] == [0, 1, 1, 0, 1, 1, 0, 0]
    with pytest.raises(Diverged, match=r"Step 3: NaN or Inf in training.*batch\[0\]") as caught:
        trained(NET, batches, optimizer=optimizer, skips=1, reads=reads)
    assert [row["step"] for row in caught.value.history] == [1, 2]
    one, _ = trained(NET, good[:1], optimizer=optimizer)
    same((caught.value.state.params, caught.value.state.optimizer), (one.params, one.optimizer))


HANGS = """
import time
import jax.numpy as jnp, jax, optax
from jbp.layers import Dense
from jbp.losses import MeanSquaredError
from jbp.train import fit, start

def batches():
    for k in range(3):
        yield jnp.ones((2, 3)), jnp.ones((2, 1))
    time.sleep(600)

net, optimizer = Dense(1), optax.sgd(0.1)
state = start(net, optimizer, jax.random.key(0), jnp.ones((2, 3)))
fit(net, MeanSquaredError(), optimizer, state, batches(), timeout=12, log=lambda row: print(row["step"], flush=True))
"""


def test_what_hangs_is_ended_with_its_stacks():
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "Timeout (0:00:12)" in done.stderr
    assert "in batches" in done.stderr
    assert done.stdout.split() == ["1", "2"]


def test_nothing_is_left_that_would_end_the_process(monkeypatch):
    armed = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: armed.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", armed.clear)
    trained(NET, [(X, T)] * 2, timeout=300)
    assert armed == []
    with pytest.raises(LayerError, match="got no batches"):
        trained(NET, [], timeout=300)
    assert armed == []
    trained(NET, [(X, T)] * 2, log=lambda row: armed.append(row["step"]))
    assert armed == [1, 2]
