"""One step of training: the sweep, the optimizer and the buffers as one compiled function that reuses its memory."""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jbp.arrays import array, is_array
from jbp.bridge import as_function
from jbp.errors import LayerError, TreeError, show
from jbp.layer import Layer
from jbp.numerics import wide
from jbp.params import Buffer, apply_updates, buffers, merge, trainable
from jbp.sweep import Aux, Sweep, initialize, value_and_grad
from jbp.train.plan import Plan, working

Metrics = dict[str, Any]
Measure = Callable[..., Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that training moves on, in one pytree: parameters with their buffers, the optimizer's state, steps taken.

    Saved and restored, it goes on bit for bit: dropout keys and running statistics are among the parameters.

    >>> net, x = Dense(1), jnp.ones((2, 3))
    >>> state = jbp.train.start(net, optax.sgd(0.1), jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, state.params), state.steps
    ({'b': (1,), 'w': (3, 1)}, Array(0, dtype=int32))
    """

    params: Any
    optimizer: Any
    steps: Any


def start(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: Any,
    x: Any,
    *,
    params: Any = None,
    plan: Plan | None = None,
) -> State:
    """The state before the first step. Only the shapes of x are looked at.

    With `params` training goes on from these; what is None there is drawn anew, the head of a network that is to learn
    another task, say: {"encoder": loaded["encoder"], "head": None}. Every array is a copy of its own, since `step`
    takes them all over. Raises TreeError for parameters of another network.

    >>> net, x = Dense(1), jnp.ones((2, 3))
    >>> state = jbp.train.start(net, optax.sgd(0.1), jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, state.params), state.steps
    ({'b': (1,), 'w': (3, 1)}, Array(0, dtype=int32))
    """
    must_be_optimizer(net, optimizer)
    if plan is None:
        return copied(_first(optimizer, given(initialize(net, key, x), params)))
    with working(plan):
        key = plan.everywhere(key)
        like = jax.eval_shape(lambda: _first(optimizer, initialize(net, key, x)))
        where = plan.shardings(net, like, x)
        if params is None:
            return jax.jit(lambda key: _first(optimizer, initialize(net, key, x)), out_shardings=where)(key)
        first = jax.jit(lambda key: initialize(net, key, x), out_shardings=where.params)(key)
        params = jax.device_put(given(first, params), where.params)
        return jax.jit(lambda params: copied(_first(optimizer, params)), out_shardings=where)(params)


def _first(optimizer, params):
    return State(params, optimizer.init(trainable(params)), jnp.zeros((), jnp.int32))


def given(first: Any, params: Any) -> Any:
    """The parameters that are given, with those of the start where they have None."""
    if params is None:
        return first
    if jax.tree.structure(first) == jax.tree.structure(params):
        wanted, found = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (first, params))
        for path, a in wanted.items():
            if (np.shape(found[path]), jnp.result_type(found[path])) != (a.shape, a.dtype):
                raise TreeError(
                    f"start: got params{jax.tree_util.keystr(path)} {show(found[path])}; expected {show(a)}. Are these "
                    "the parameters of another network? Cast them with jbp.cast, or put None to draw them anew."
                )
        return params
    if isinstance(first, Buffer) and isinstance(params, Buffer):
        return Buffer(given(first.value, params.value))
    if isinstance(first, dict) and isinstance(params, dict) and set(first) == set(params):
        return {key: given(first[key], params[key]) for key in first}
    if type(first) is type(params) and isinstance(first, tuple | list) and len(first) == len(params):
        return type(first)(given(a, b) for a, b in zip(first, params, strict=True))
    raise TreeError(
        f"start: got parameters {show(params)}; expected {show(first)}. Are these the parameters of another network? "
        "Put None where they are to be drawn anew."
    )


def copied(tree: Any) -> Any:
    """The tree with arrays of its own, which no step takes over."""
    return jax.tree.map(lambda a: jnp.array(a, copy=True), tree)


def finite(tree: Any) -> Any:
    """Whether no floating leaf holds NaN or Inf, as one boolean array. Integers and keys always are."""
    checks = [jnp.isfinite(a).all() for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.stack(checks).all() if checks else jnp.ones((), bool)


def sound(old: Any, new: Any, params: Any = ()) -> Any:
    """Whether every number of `new` is finite, or what it was in `old`: a bias of −inf, a best loss of inf.

    What an optimizer keeps lies in trees like that of the parameters, so the k-th array of a shape is looked at with
    the k-th of every further tree: one pass over the memory of all that one parameter's update reads.
    """
    row = Counter(jnp.shape(p) for p in jax.tree.leaves(params))
    seen: Counter[Any] = Counter()
    together: dict[Any, Any] = {}
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if b is not a and jnp.issubdtype(b.dtype, jnp.inexact):
            place = jnp.shape(b), seen[jnp.shape(b)] % max(row[jnp.shape(b)], 1)
            seen[jnp.shape(b)] += 1
            well = jnp.isfinite(b) | (b == a)
            together[place] = together[place] & well if place in together else well
    return jnp.stack([well.all() for well in together.values()]).all() if together else jnp.ones((), bool)


def norm(tree: Any, dtype: Any = jnp.float32) -> Any:
    """The Euclidean norm of all leaves, in float32 at least; without any 0 in `dtype`. Finite where they all are."""
    squares = [jnp.square(wide(a)).sum() for a in jax.tree.leaves(tree)]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.sqrt(sum(squares, jnp.zeros((), dtype)))


def optimized(
    optimizer: optax.GradientTransformation, grads: Any, state: Any, params: Any, **extra: Any
) -> tuple[Any, Any]:
    """(params, state) after the optimizer's update, which is given what it asks for of `extra`; Buffers stay."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats, which "strict" forbids
        updates, state = optimizer.update(grads, state, trainable(params), **_asked(optimizer, extra))
        return apply_updates(params, updates), state


def _asked(optimizer, extra):
    """What of `extra` the update takes: what it names, and what optax hands through a chain if it takes anything."""
    names = inspect.signature(optimizer.update).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in names.values())
    return {k: v for k, v in extra.items() if k in names or (anything and k != "grad_fn")}


class Again:
    """The loss of one batch as functions of what is trained, for optimizers that look again: line searches, SAM.

    The buffers are those before the step, so that dropout draws what it drew. `used` tells whether one was called.
    """

    def __init__(self, net: Layer, loss: Layer, params: Any, x: Any, targets: tuple[Any, ...]):
        self.net, self.loss, self.fixed, self.x, self.targets = net, loss, buffers(params), x, targets
        self.used = False

    def value(self, trained: Any) -> Any:
        """The loss. `jax.grad` of it is the hand-written sweep."""
        self.used = True
        output, _ = as_function(self.net, has_aux=True)(merge(trained, self.fixed), self.x)
        return as_function(self.loss)((), (output, *self.targets))

    def gradient(self, trained: Any, _: Any = None) -> Any:
        """The gradient; SAM also passes the number of its turn."""
        self.used = True
        sweep = value_and_grad(self.net, self.loss, has_aux=True)
        return sweep(merge(trained, self.fixed), self.x, *self.targets)[1]

    def extra(self, value: Any, grads: Any) -> dict[str, Any]:
        """What optax's transformations may ask for beside the gradient, by the names that they use."""
        return {"value": value, "grad": grads, "value_fn": self.value, "grad_fn": self.gradient}


def take_step(
    net: Layer,
    loss: Layer,
    optimizer: optax.GradientTransformation,
    measures: dict[str, Measure],
    plan: Plan | None = None,
    sweep: Sweep | None = None,
    skips: int = 0,
) -> Any:
    """(state, left, x, *targets) -> (state, metrics), not compiled.

    `left` is how many unsound steps in a row may still be skipped, and comes back among the metrics. Below 0 nothing is
    moved any more. A step that is skipped is counted, and moves nothing else.
    """
    must_be_optimizer(net, optimizer)
    if sweep is not None and plan is not None:
        if "plan" not in inspect.signature(sweep.value_and_grad).parameters:
            raise LayerError(
                net,
                f"got both plan={plan!r} and sweep={sweep!r}; expected one of them, or a sweep that can be spread, "
                "jbp.private.Private. Leave one out.",
            )
        swept = sweep.value_and_grad(net, loss, plan=plan)  # pyright: ignore[reportCallIssue]
    elif plan is not None:
        swept = plan.value_and_grad(net, loss, bool(measures))
    else:
        swept = value_and_grad(net, loss, has_aux=True) if sweep is None else sweep.value_and_grad(net, loss)

    def run(state, left, x, *targets):
        _must_fit(net, optimizer, state)
        number = {} if sweep is None else {"step": state.steps}
        (value, aux), grads = swept(state.params, x, *targets, **number)
        again = Again(net, loss, state.params, x, targets)

        def moved():
            extra = again.extra(value, grads)
            if sweep is not None:  # which has its own gradient: nobody looks again, but at what it has beside
                beside = {name: found for name, found in aux._asdict().items() if name not in Aux._fields}
                extra = {"value": value, "grad": grads} | beside
            params, optimizer_state = optimized(optimizer, grads, state.optimizer, aux.params, **extra)
            return State(params, optimizer_state, state.steps + 1)

        new = moved()
        if shapes(new) != shapes(state):
            raise LayerError(
                net,
                f"got an optimizer that makes {show(new.optimizer)} of {show(state.optimizer)}; expected its state to "
                "keep shapes and dtypes. Cast the parameters to one dtype, or look at the optimizer's dtypes.",
            )
        length = norm(grads, value.dtype)
        good = (left >= 0) & finite((value, length)) & sound(state, new, trainable(state.params))
        left = jnp.where(good, skips, jnp.maximum(left, 0) - 1)
        metrics = {name: _measured(net, name, measure, aux.output, *targets) for name, measure in measures.items()}
        metrics |= {"loss": value, "norm": length, "finite": good, "left": left}
        stays = replace(state, steps=state.steps + (left >= 0).astype(state.steps.dtype)) if skips else state
        # On CPUs a cond, for the select of every array makes XLA hold old and new: measured, 48 MiB in place of 16. So
        # the update is written out twice, once for its soundness alone, unless it runs the network again. On
        # accelerators a select: there a cond stops the host in the middle of the step, and saves nothing.
        new = jax.lax.platform_dependent(
            cpu=lambda: jax.lax.cond(good, (lambda: new) if again.used else moved, lambda: stays),
            default=lambda: jax.tree.map(partial(jnp.where, good), new, stays),
        )
        return new if plan is None else jax.lax.with_sharding_constraint(new, plan.shardings(net, new, x)), metrics

    return run


def _measured(net, name, measure, *given):
    """What a measure gives, after a check that it is one number."""
    try:
        value = measure(*given)
    except Exception as error:
        error.add_note(f"in the measure {name} of {show(given)}")
        raise
    leaf = array(np.asarray(value) if isinstance(value, int | float) else value)
    if leaf is None or leaf.shape != ():
        raise LayerError(
            net, f"got {show(value)} from the measure {name}; expected one number. Take the mean inside the measure."
        )
    return value


def must_be_optimizer(net: Layer, optimizer: Any) -> None:
    """An error unless it has optax's two functions."""
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise LayerError(
            net,
            f"got the optimizer {getattr(optimizer, '__name__', None) or show(optimizer)}; expected an optax "
            "transformation. Write optax.adam(1e-3), for example.",
        )


def must_be_batch(net: Layer, batch: Any) -> None:
    """An error unless it is a tuple of arrays and trees of them."""
    bad = [a for a in jax.tree.leaves(batch) if not is_array(a) and not isinstance(a, int | float)]
    if not isinstance(batch, tuple | list) or not batch or bad:
        raise LayerError(
            net, f"got the batch {show(batch)}; expected a tuple (x, *targets) of arrays. Write [(x, target), ...]."
        )


def must_be_state(net: Layer, state: Any) -> None:
    """An error unless it is a State of arrays, with a number of steps."""
    if not isinstance(state, State):
        raise LayerError(
            net, f"got the state {show(state)}; expected a State. Make it with start(net, optimizer, key, x)."
        )
    leaf = array(np.asarray(state.steps) if isinstance(state.steps, int) else state.steps)
    bad = [a for a in jax.tree.leaves((state.params, state.optimizer)) if not is_array(a)]
    if bad or leaf is None or leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.integer):
        raise LayerError(
            net,
            f"got a state with parameters {show(state.params)}, optimizer {show(state.optimizer)} and steps "
            f"{show(state.steps)}; expected arrays, and a whole number of steps. "
            "Make it with start(net, optimizer, key, x).",
        )


def _must_fit(net, optimizer, state):
    """An error unless the state is one for this optimizer."""
    must_be_state(net, state)
    first = jax.eval_shape(lambda params: optimizer.init(trainable(params)), state.params)
    if shapes(first) != shapes(state.optimizer):
        raise LayerError(
            net,
            f"got the optimizer's state {show(state.optimizer)}; expected {show(first)}. "
            "Is it that of another optimizer or network? Make it with start(net, optimizer, key, x).",
        )


def shapes(tree: Any) -> Any:
    """The structure of a tree with the shapes and dtypes of its leaves, to compare."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(a), getattr(a, "dtype", type(a))) for a in leaves)


def given_away(state: Any) -> bool:
    """Whether a step has taken over arrays of this state."""
    return any(
        isinstance(a, jax.Array) and not isinstance(a, Tracer) and a.is_deleted() for a in jax.tree.leaves(state)
    )


@dataclass(frozen=True)
class Step:
    """f(state, x, *targets) -> (state, metrics): a compiled function, which says so if a state is used twice."""

    net: Layer
    compiled: Any

    def __call__(self, state: State, *batch: Any) -> tuple[State, Metrics]:
        must_be_state(self.net, state)
        must_be_batch(self.net, batch)
        try:
            return self.compiled(state, *batch)
        except (ValueError, RuntimeError) as error:
            if "deleted" in str(error) and given_away(state):
                raise spent(self.net) from error
            raise

    def lower(self, *args: Any) -> Any:
        """The program for these arguments, to compile ahead or to look at, as `jax.jit` has it."""
        return self.compiled.lower(*args)


def spent(net: Layer) -> LayerError:
    """The error for a state that was used twice."""
    return LayerError(
        net,
        "got a state whose arrays were deleted, for an earlier step took over its memory; expected one that no step "
        "has had. Go on with the state that came back, or keep a copy: jax.tree.map(jnp.copy, state).",
    )


def step(
    net: Layer,
    loss: Layer,
    optimizer: optax.GradientTransformation,
    *,
    plan: Plan | None = None,
    sweep: Sweep | None = None,
    **measures: Measure,
) -> Any:
    """f(state, x, *targets) -> (state, metrics), compiled. It takes the memory of the state that it is given.

    loss is a layer on (output, *targets). metrics has the loss, the `norm` of the gradient, the `measures`, functions
    of (output, *targets) such as `accuracy`, and `finite`. Where the loss, the norm, a new parameter, a buffer or the
    optimizer's new state is NaN or Inf, `finite` is false and the state comes back untouched, so that the cause can be
    looked for; `fit` does.

    Any optax transformation will do. One that asks for more than the gradient is given it: `value` (reduce_on_plateau,
    polyak_sgd), `grad` and `value_fn` (lbfgs and its line searches), `grad_fn` (sam in opaque mode). Evaluate what
    schedule_free has trained, as optax asks, with the average that it keeps:

        averaged = optax.contrib.schedule_free_eval_params(state.optimizer, trainable(state.params))
        y, _ = net.evaluation().forward(merge(averaged, buffers(state.params)), x)

    With a `sweep` another gradient is taken than that of backpropagation: `jbp.private.Private`, the rules of
    `jbp.credit`. An optimizer is then given no more than `value` and `grad` beside it.

    The same net, loss, optimizer and measures give the same compiled function, of which the last 16 are kept. Raises
    LayerError if the state is that of another optimizer, or was given away to a step before.

    >>> net, x, y = Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
    >>> loss, optimizer = MeanSquaredError(), optax.sgd(0.1)
    >>> state = jbp.train.start(net, optimizer, jax.random.key(0), x)
    >>> state, metrics = jbp.train.step(net, loss, optimizer)(state, x, y)
    >>> sorted(metrics)
    ['finite', 'loss', 'norm']
    """
    return Step(net, compiled(net, loss, optimizer, False, plan, sweep, 0, **measures))


def compiled(
    net: Layer,
    loss: Layer,
    optimizer: optax.GradientTransformation,
    chained: bool,
    plan: Plan | None = None,
    sweep: Sweep | None = None,
    skips: int = 0,
    **measures: Measure,
) -> Any:
    """`take_step`, compiled, from a cache; with `chained` it takes and gives `left` too."""
    for name, measure in measures.items():
        if not callable(measure):
            raise LayerError(
                net,
                f"got {name}={show(measure)} as a measure; expected a function of (output, *targets). "
                "Write accuracy=accuracy, for example.",
            )
    key = net, loss, optimizer, chained, plan, sweep, skips, tuple(measures.items())
    try:
        hash(key)
    except TypeError:  # an optimizer or a measure of somebody's that has no hash
        return _compiled.__wrapped__(*key)
    return _compiled(*key)


@lru_cache(maxsize=16)
def _compiled(net, loss, optimizer, chained, plan, sweep, skips, measures):
    run = take_step(net, loss, optimizer, dict(measures), plan, sweep, skips)

    def alone(state, x, *targets):
        state, metrics = run(state, jnp.zeros((), jnp.int32), x, *targets)
        return state, {name: value for name, value in metrics.items() if name != "left"}

    done = jax.jit(run if chained else alone, donate_argnums=0)
    return done if plan is None else Spread(net, plan, done, 1 + chained)


@dataclass(frozen=True)
class Spread:
    """A compiled step of a plan: state and batch are brought to where they are to lie, if they are not there."""

    net: Layer
    plan: Plan
    compiled: Any
    first: int  # where the batch begins among the arguments

    def placed(self, *args: Any) -> tuple[Any, ...]:
        """The arguments, spread."""
        state, *rest = args[: self.first]
        batch = self.plan.put(self.net, args[self.first :])
        there = set(self.plan.on().devices.flat)
        if isinstance(state.steps, jax.Array) and state.steps.sharding.device_set != there:
            state = jax.device_put(state, self.plan.shardings(self.net, state, batch[0]))
        return (state, *self.plan.everywhere(rest), *batch)

    def __call__(self, *args: Any) -> Any:
        with working(self.plan):
            return self.compiled(*self.placed(*args))

    def lower(self, *args: Any) -> Any:
        """The program for these arguments."""
        with working(self.plan):
            return self.compiled.lower(*self.placed(*args))
