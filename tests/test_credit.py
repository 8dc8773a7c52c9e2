"""Rules of credit against their definitions in plain jax, where they are backpropagation, and that they learn.

Each check can fail: `test_a_planted_fault_is_found` puts a mistake into the rule, and the same check must see it.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_near, cotangent, draw, parameters
from sklearn.datasets import load_digits

import jbp.credit.energy
import jbp.credit.evolution
import jbp.credit.targets
import verify
from jbp import Buffer, Estimator, LayerError, Repeat, Residual, Serial, buffers, merge, trainable, value_and_grad
from jbp.cases import f
from jbp.credit import (
    DirectFeedbackAlignment,
    EachOutput,
    EquilibriumPropagation,
    EvolutionStrategy,
    FeedbackAlignment,
    ForwardForward,
    KolenPollack,
    LocalLosses,
    PredictiveCoding,
    SignSymmetry,
    TargetPropagation,
    WeightMirror,
    angle,
    feedback_alignment,
    kolen_pollack,
    labelled,
    plain,
    ranked,
    sign_symmetry,
    transported,
    weight_mirror,
)
from jbp.credit.rule import cut
from jbp.errors import TreeError
from jbp.layers import (
    GRU,
    LSTM,
    AveragePool,
    Bidirectional,
    Conv,
    Dense,
    Dropout,
    Elman,
    Flatten,
    Identity,
    LSTMCell,
    MaxPool,
    Recurrent,
    ReLU,
    Tanh,
)
from jbp.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from jbp.readers import per_example
from jbp.train import accuracy, fit, start

LOSS, KEY = SoftmaxCrossEntropy(), jax.random.key(0)

# The definitions below know three networks, written out in plain jax: weights are lists of (w, b), one a block.

DENSE = Serial(Dense(4), Tanh(), Dense(6), Tanh(), Dense(3))
CONV = Serial(Conv(2), Tanh(), Conv(3, (2, 2), padding="VALID"), Tanh(), Flatten(), Dense(3))
TIMES = Serial(Elman(4), Elman(2), Dense(3))
SPECS = {DENSE: f(5, 3), CONV: f(2, 4, 3, 1), TIMES: f(2, 4, 3)}
STARTS = {DENSE: (0, 2, 4), CONV: (0, 2, 5), TIMES: (0, 1, 2)}


def convolved(x, w, padding):
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def affine(p, x):
    return x @ p["w"] + jnp.broadcast_to(p["b"], (*x.shape[:-1], p["b"].size))


def elman(p, x):
    h, hs = jnp.zeros((x.shape[0], p["u"].shape[0])), []
    for t in range(x.shape[1]):
        h = jnp.tanh(affine(p, x[:, t]) + h @ p["u"])
        hs.append(h)
    return jnp.stack(hs, 1)


def on_maps(padding):
    return lambda p, x: jnp.tanh(convolved(x, p["w"], padding) + p["b"].reshape(1, 1, 1, -1))


BLOCKS = {
    DENSE: (lambda p, x: jnp.tanh(affine(p, x)),) * 2 + (affine,),
    CONV: (on_maps("SAME"), on_maps("VALID"), lambda p, x: affine(p, x.reshape(x.shape[0], -1))),
    TIMES: (elman, elman, affine),
}


def weights(net, params):
    return [params[k] for k in STARTS[net]]


def up(net, ws, x):
    """h_0, ..., h_n"""
    return list(itertools.accumulate(zip(BLOCKS[net], ws, strict=True), lambda h, b: b[0](b[1], h), initial=x))


def setting(net, rule):
    """(the rule's network, parameters, x, dy, h_0 ... h_n, weights)"""
    layer, x = rule(net), draw(SPECS[net])
    params = parameters(layer, x)
    ws = weights(net, plain(params))
    h = up(net, ws, x)
    return layer, params, x, cotangent(h[-1]), h, ws


def pulled(layer, params, x, dy):
    _, residuals = layer.forward(params, x)
    dx, grads = layer.pull(params, residuals, dy)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable(params))
    return dx, grads


def backpropagated(net, ws, x, dy):
    return jax.grad(lambda ws: (up(net, ws, x)[-1] * dy).sum())(ws)


def locally(net, ws, h, errors):
    """The gradients of Σ ⟨error_l, f_l(h_{l−1})⟩, h_{l−1} and the errors held."""
    rows = zip(BLOCKS[net], ws, h[:-1], errors, strict=True)
    return [jax.grad(lambda w, b=b, v=v, e=e: (b(w, v) * e).sum())(w) for b, w, v, e in rows]


def spread(e, b, h):
    """The error of the output by B at h: all of an example, or the last axis of each step."""
    w = b["w"] if isinstance(b, dict) else b[1]["w"]
    if e.shape[:-1] == h.shape[:-1]:
        return e @ w
    return (e.reshape(e.shape[0], -1) @ w).reshape(h.shape)


@jax.custom_vjp
def carry(x, w, b):
    return x @ w


carry.defvjp(
    lambda x, w, b: (x @ w, (x, b)),
    lambda r, dy: (dy @ r[1].T, r[0].T @ dy, jnp.zeros_like(r[1])),
)


@jax.custom_vjp
def carry_map(x, w, b):
    return convolved(x, w, "SAME")


def _carried_map(r, dy):
    x, w, b = r
    dx = jax.vjp(lambda x: convolved(x, b, "SAME"), x)[1](dy)[0]
    return dx, jax.vjp(lambda w: convolved(x, w, "SAME"), w)[1](dy)[0], jnp.zeros_like(b)


carry_map.defvjp(lambda x, w, b: (convolved(x, w, "SAME"), (x, w, b)), _carried_map)


def lstm(p, x, b):
    h = c = jnp.zeros((x.shape[0], p["u"].shape[0]))
    hs = []
    for t in range(x.shape[1]):
        z = carry(x[:, t], p["w"], b["w"]) + carry(h, p["u"], b["u"])
        i, g, o, n = jnp.split(z + jnp.broadcast_to(p["b"], z.shape), 4, -1)
        c = jax.nn.sigmoid(g) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        hs.append(h)
    return jnp.stack(hs, 1)


CARRIED = {
    Dense(3): (f(5, 4), lambda p, x, b: carry(x, p["w"], b["w"]) + jnp.broadcast_to(p["b"], (5, 3))),
    Conv(2, (3, 2)): (f(2, 4, 3, 2), lambda p, x, b: carry_map(x, p["w"], b["w"]) + p["b"].reshape(1, 1, 1, -1)),
    LSTM(2): (f(3, 4, 2), lstm),
}


def carried(rule, feedback):
    """The rule around each kind of layer, beside a definition whose every product has another backward pass."""
    for layer, (spec, definition) in CARRIED.items():
        net, x = rule(layer), draw(spec)
        params = parameters(net, x)
        dy = cotangent(jax.eval_shape(lambda p, net=net, x=x: net.forward(p, x)[0], params))
        dx, grads = pulled(net, params, x, dy)
        b = feedback(params)
        wanted = jax.grad(lambda p, x, d=definition, b=b, dy=dy: (d(p, x, b) * dy).sum(), (0, 1))(params["layer"], x)
        assert_near((grads["layer"], dx), wanted, 1e-11)


def check_feedback_alignment():
    carried(FeedbackAlignment, lambda params: params["feedback"].value)


def check_uniform_signs():
    def feedback(params):
        return {k: np.sign(w) * np.sqrt(np.mean(np.square(w))) for k, w in params["layer"].items()}

    carried(SignSymmetry, feedback)


def check_drawn_signs():
    """B is read off the errors of an identity: signs those of W, sizes half-normal, drawn again in each step or not."""
    for magnitude, again in (("batch", True), ("fixed", False)):
        layer, x = SignSymmetry(Dense(60, bias=False), magnitude), jnp.ones((60, 50))
        params = layer.init(KEY, x)
        _, residuals = layer.forward(params, x)
        w = np.asarray(params["layer"]["w"])
        b = np.asarray(pulled(layer, params, x, jnp.eye(60))[0]).T
        size = np.abs(b) / np.sqrt(np.mean(w**2))
        np.testing.assert_array_equal(np.sign(b), np.sign(w))
        assert abs(size.mean() - np.sqrt(2 / np.pi)) < 0.04  # 3000 numbers, a standard deviation of 0.6
        assert abs((size**2).mean() - 1) < 0.1
        assert abs(np.corrcoef(size.ravel(), np.abs(w).ravel())[0, 1]) < 0.08
        after = layer.advance(params, residuals)
        other = np.asarray(pulled(layer, after, x, jnp.eye(60))[0]).T
        assert (np.abs(other - b).max() > 0.1) == again


def check_kolen_pollack():
    carried(KolenPollack, lambda params: params["feedback"])
    net, x = KolenPollack(Dense(3)), draw(f(5, 4))
    params, dy, optimizer = parameters(net, x), draw(f(5, 3)), optax.adamw(0.1, weight_decay=0.5)
    before, state = params["feedback"]["w"] - params["layer"]["w"], optimizer.init(params)
    for n in range(1, 4):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(pulled(net, params, x, dy * n)[1], state, params)
        params = optax.apply_updates(params, updates)
        now = params["feedback"]["w"] - params["layer"]["w"]
        np.testing.assert_allclose(now, before * (1 - 0.1 * 0.5) ** n, rtol=1e-10)


def check_weight_mirror():
    carried_by = {"feedback": lambda params: params["feedback"].value["weights"]}
    layers = {Dense(3): f(4000, 4), Conv(4, 2, 2, groups=2): f(40, 9, 8, 2), Conv(2, (3, 3)): f(40, 8, 9, 1)}
    for layer, spec in layers.items():
        net, x = WeightMirror(layer, 1.0), draw(spec)
        params = parameters(net, x)
        _, residuals = net.forward(params, x)
        found = carried_by["feedback"](net.advance(params, residuals))["w"]
        assert abs(found - params["layer"]["w"]).max() < 0.2  # the mean of some thousand products, each about 1
        half = WeightMirror(layer, 0.5).advance(params, residuals)
        wanted = (found + carried_by["feedback"](params)["w"]) / 2
        np.testing.assert_allclose(carried_by["feedback"](half)["w"], wanted, rtol=1e-12)


def check_direct():
    for net in BLOCKS:
        layer, params, x, dy, h, ws = setting(net, DirectFeedbackAlignment)
        feedback = params["feedback"].value
        errors = [*(spread(dy, b, v) for b, v in zip(feedback, h[1:-1], strict=True)), dy]
        grads = pulled(layer, params, x, dy)[1]
        assert_near(weights(net, grads["layer"]), locally(net, ws, h, errors), 1e-11)


def inverse(g, v, like):
    (p, *_), shape = (g, like.shape)
    p = p if isinstance(p, dict) else p[1]
    return (
        jnp.tanh(affine(p, v))
        if v.shape[:-1] == shape[:-1]
        else jnp.tanh(affine(p, v.reshape(v.shape[0], -1))).reshape(shape)
    )


def check_targets():
    for net in BLOCKS:
        layer, params, x, dy, h, ws = setting(net, lambda net: TargetPropagation(net, 0.7, 0.0))
        g = params["feedback"]["inverses"][0]  # of the second of three blocks
        step = 0.7 * x.shape[0]
        last = jax.vjp(partial(BLOCKS[net][2], ws[2]), h[2])[1](dy)[0]
        second = h[2] - step * last
        first = h[1] + inverse(g, second, h[1]) - inverse(g, h[2], h[1])
        errors = [(h[1] - first) / step, (h[2] - second) / step, dy]
        grads = pulled(layer, params, x, dy)[1]
        assert_near(weights(net, grads["layer"]), locally(net, ws, h, errors), 1e-11)

        def missed(g, h=h):
            return 0.5 * jnp.square(inverse(g, h[2], h[1]) - h[1]).sum() / h[1].shape[0]

        assert_near(grads["feedback"]["inverses"][0], jax.grad(missed)(g), 1e-11)


def check_predictive_coding():
    for net in BLOCKS:
        layer, params, x, dy, h, ws = setting(net, lambda net: PredictiveCoding(net, 4, 0.2, 0.5))
        step = 0.5 * x.shape[0]

        def energy(ws, hidden, net=net, x=x, h=h, dy=dy, step=step):
            values = [x, *hidden, h[-1] - step * dy]
            rows = zip(BLOCKS[net], ws, values[:-1], values[1:], strict=True)
            return sum(0.5 * jnp.square(v - b(w, u)).sum() for b, w, u, v in rows)

        hidden = h[1:-1]
        for _ in range(4):
            down = jax.grad(energy, 1)(ws, hidden)
            hidden = [v - 0.2 * d for v, d in zip(hidden, down, strict=True)]
        wanted = jax.grad(lambda ws, hidden=hidden, f=energy, step=step: f(ws, hidden) / step)(ws)
        assert_near(weights(net, pulled(layer, params, x, dy)[1]), wanted, 1e-11)


def primitive(net, ws, states):
    """Φ = Σ ⟨s_l, f_l(s_{l−1})⟩, f_l without its activation."""
    flat = states[2].reshape(states[2].shape[0], -1) if net == CONV else states[2]
    made = (
        (convolved(states[0], ws[0]["w"], "SAME"), convolved(states[1], ws[1]["w"], "VALID"), flat @ ws[2]["w"])
        if net == CONV
        else [s @ w["w"] for s, w in zip(states, ws, strict=False)]
    )
    rows = zip(made, ws, states[1:], strict=True)
    return sum((s * (z + w["b"].reshape(*(1,) * (z.ndim - 1), -1))).sum() for z, w, s in rows)


def settled(net, ws, states, push, steps):
    for _, k in itertools.product(range(steps), (1, 2, 3)):
        heard = jax.grad(lambda s, k=k, now=states: primitive(net, ws, [*now[:k], s, *now[k + 1 :]]))(states[k])
        states = [*states[:k], jnp.tanh(heard) if k < 3 else heard + push, *states[k + 1 :]]
    return states


def check_equilibrium():
    for net in (DENSE, CONV):
        layer, params, x, dy, h, ws = setting(net, lambda net: EquilibriumPropagation(net, 3, 0.2))
        free = settled(net, ws, [x, *(jnp.zeros_like(v) for v in h[1:])], 0.0, 3)
        np.testing.assert_allclose(layer.forward(params, x)[0], free[-1], rtol=1e-12)
        step = 0.2 * x.shape[0]
        low, high = (jax.grad(primitive, 1)(net, ws, settled(net, ws, free, p * dy, 3)) for p in (step, -step))
        wanted = jax.tree.map(lambda a, b, step=step: (a - b) / (2 * step), low, high)
        assert_near(weights(net, pulled(layer, params, x, dy)[1]), wanted, 1e-10)


def check_local_losses():
    for net in BLOCKS:
        layer, params, x, _, h, ws = setting(net, LocalLosses)
        target = draw(f(*h[-1].shape), seed=5)
        grads = value_and_grad(layer, EachOutput(MeanSquaredError()))(params, x, target)[1]

        def loss(ws, heads, net=net, h=h, target=target):
            made = [b(w, v) for b, w, v in zip(BLOCKS[net], ws, h[:-1], strict=True)]  # h held: nothing goes down
            outputs = [spread(v, g, target) + _bias(g, target) for v, g in zip(made[:-1], heads, strict=True)]
            return sum(jnp.square(y - target).mean() for y in (*outputs, made[-1]))

        wanted = jax.grad(loss, (0, 1))(ws, params["feedback"])
        assert_near((weights(net, grads["layer"]), grads["feedback"]), wanted, 1e-11)


def _bias(g, like):
    b = g["b"] if isinstance(g, dict) else g[1]["b"]
    return jnp.broadcast_to(b, like.shape)


def check_forward_forward():
    for net in BLOCKS:
        layer, params, x, *_ = setting(net, lambda net: ForwardForward(net, 0.7))
        ws, real = weights(net, params), jnp.eye(3)[jnp.arange(x.shape[0]) % 3]

        def goodness(ws, net=net, x=x):
            found = []
            for k, (b, w) in enumerate(zip(BLOCKS[net], ws, strict=True)):
                axes = tuple(range(1, x.ndim))
                x = x / jnp.sqrt((x * x).mean(axes, keepdims=True) + 1e-6) if k else x
                x = b(w, jax.lax.stop_gradient(x))
                found.append((x * x).mean(tuple(range(1, x.ndim))) - 0.7)
            return jnp.stack(found, -1)

        def loss(ws, goodness=goodness, real=real):
            g = goodness(ws)
            return (jnp.log1p(jnp.exp(-g)) * real + jnp.log1p(jnp.exp(g)) * (1 - real)).mean()

        grads = value_and_grad(layer, BinaryCrossEntropy())(params, x, real)[1]
        np.testing.assert_allclose(layer.forward(params, x)[0], goodness(ws), rtol=1e-11)
        assert_near(weights(net, grads), jax.grad(loss)(ws), 1e-11)


def check_evolution():
    """With as many pairs as it likes the mean is the gradient; of a few it is told by their number."""
    layer, x, dy = EvolutionStrategy(Serial(Dense(2), Tanh()), 3000, 0.05), draw(f(4, 2)), draw(f(4, 2), seed=3)
    params = parameters(layer, x)
    grads = jax.jit(lambda p: pulled(layer, p, x, dy)[1])(params)
    true = jax.grad(lambda p: (jnp.tanh(affine(p, x)) * dy).sum())(params["layer"][0])
    assert angle(grads["layer"][0], true) < 6  # arctan √(6 weights / 3000 pairs) = 2.6°
    lengths = [jnp.linalg.norm(jnp.concatenate([v.ravel() for v in jax.tree.leaves(t)])) for t in (grads, true)]
    assert abs(lengths[0] / lengths[1] - 1) < 0.1
    assert (
        grads["layer"][0]["w"]
        != pulled(layer, layer.advance(params, layer.forward(params, x)[1]), x, dy)[1]["layer"][0]["w"]
    ).all()


CHECKS = (
    check_feedback_alignment,
    check_uniform_signs,
    check_drawn_signs,
    check_kolen_pollack,
    check_weight_mirror,
    check_direct,
    check_targets,
    check_predictive_coding,
    check_equilibrium,
    check_local_losses,
    check_forward_forward,
    check_evolution,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_rule_is_its_definition(check):
    check()


def negative(method):
    return lambda *given: jax.tree.map(lambda v: -v, method(*given))


FAULTS = (
    (check_feedback_alignment, FeedbackAlignment, "_sent", lambda _: lambda self, params: params["layer"]),
    (
        check_uniform_signs,
        SignSymmetry,
        "_sent",
        lambda _: lambda self, params: jax.tree.map(jnp.sign, params["layer"]),
    ),
    (check_drawn_signs, SignSymmetry, "_sent", negative),
    (check_drawn_signs, SignSymmetry, "advance", lambda _: lambda self, params, residuals: params),
    (check_kolen_pollack, KolenPollack, "_sent", lambda _: lambda self, params: params["layer"]),
    (
        check_kolen_pollack,
        KolenPollack,
        "_whole",
        lambda _: lambda self, g: {"layer": g, "feedback": negative(dict)(g)},
    ),
    (check_weight_mirror, WeightMirror, "advance", lambda _: lambda self, params, residuals: params),
    (check_direct, DirectFeedbackAlignment, "_sent", negative),
    (check_targets, TargetPropagation, "_learned", negative),
    (check_targets, jbp.credit.targets, "example_error", lambda right: lambda *now: 2 * right(*now)),
    (check_predictive_coding, jbp.credit.energy, "example_error", lambda right: lambda *now: 2 * right(*now)),
    (check_equilibrium, jbp.credit.energy, "example_error", lambda right: lambda *now: 2 * right(*now)),
    (check_local_losses, LocalLosses, "gradient", negative),
    (check_forward_forward, ForwardForward, "_passed", lambda _: lambda self, h: h),
    (check_evolution, jbp.credit.evolution, "normal_like", lambda right: lambda *now: jax.tree.map(abs, right(*now))),
)


@pytest.mark.parametrize(
    ("check", "home", "name", "wrong"), FAULTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_fault_is_found(check, home, name, wrong, monkeypatch):
    monkeypatch.setattr(home, name, wrong(getattr(home, name)))
    with pytest.raises(AssertionError):
        check()


def of_backpropagation(rule, net, prepare=lambda params: params):
    """The rule's gradient is that of backpropagation, for parameters that are prepared."""
    layer, params, x, dy, *_ = setting(net, rule)
    params = prepare(params)
    wanted = backpropagated(net, weights(net, plain(params)), x, dy)
    got = weights(net, plain(pulled(layer, params, x, dy)[1]))
    assert_near(got, wanted, 1e-10, floor=1e-3)


def one_size(params):
    """Weights of ±0.4: signs are all that there is to them."""
    return jax.tree.map(lambda w: jnp.where(w >= 0, 0.4, -0.4) if w.ndim > 1 else w, params)


@pytest.mark.parametrize("net", BLOCKS, ids=["dense", "conv", "time"])
def test_where_a_rule_is_backpropagation(net):
    for rule in (feedback_alignment, kolen_pollack):
        of_backpropagation(rule, net, transported)
    if net != TIMES:
        of_backpropagation(weight_mirror, net, transported)
    of_backpropagation(sign_symmetry, net, lambda p: merge(one_size(trainable(p)), buffers(p)))
    of_backpropagation(lambda net: PredictiveCoding(net, 3, 1.0, 5.0, fixed=True), net)


def test_the_direct_way_of_a_linear_network_is_backpropagation_by_the_product_of_what_is_above():
    net, x, dy = Serial(Dense(4), Dense(3), Dense(2)), draw(f(5, 3)), draw(f(5, 2))
    layer = DirectFeedbackAlignment(net)
    params = parameters(layer, x)
    w = [p["w"] for p in params["layer"]]
    params["feedback"] = Buffer(({"w": (w[1] @ w[2]).T}, {"w": w[2].T}))
    _, residuals = net.forward(params["layer"], x)
    assert_near(pulled(layer, params, x, dy)[1]["layer"], net.pull(params["layer"], residuals, dy)[1], 1e-12)


def test_settled_predictions_send_back_the_error_that_the_values_have_not_taken_up():
    """Of a linear network in closed form: F is least where the output's error is (I + Σ JᵀJ)⁻¹ of what it was."""
    net, x, dy = Serial(Dense(4), Dense(3), Dense(2)), draw(f(5, 3)), draw(f(5, 2))
    layer = PredictiveCoding(net, 2000, 0.05, 1e-6)
    params = parameters(layer, x)
    _, second, third = [p["w"] for p in params]
    taken = jnp.eye(2) + third.T @ third + (second @ third).T @ (second @ third)
    _, residuals = net.forward(params, x)
    wanted = net.pull(params, residuals, dy @ jnp.linalg.inv(taken))[1]
    assert_near(pulled(layer, params, x, dy)[1], wanted, 1e-5)


def rotation(n):
    return jnp.linalg.qr(jax.random.normal(jax.random.key(n), (4, 4)))[0]


@pytest.mark.parametrize("orthogonal", [True, False])
def test_targets_by_exact_inverses_are_backpropagation_where_those_are_the_transposes(orthogonal):
    """And where they are not, the error is carried by the inverse of each Jacobian: a Gauss–Newton step."""
    net, x, dy = Serial(*[Dense(4, bias=False)] * 4), draw(f(5, 4)), draw(f(5, 4))
    layer = TargetPropagation(net, activation=Identity())
    ws = [rotation(n) + (0 if orthogonal else 0.3 * jnp.eye(4)) for n in range(4)]
    params = parameters(layer, x)
    inverses = tuple(({"w": jnp.linalg.inv(w), "b": jnp.zeros(4)}, ()) for w in ws[1:3])
    params |= {"layer": tuple({"w": w} for w in ws)}
    params["feedback"] |= {"inverses": inverses}
    errors = [dy @ ws[3].T, dy]
    for w in (ws[2], ws[1]):
        errors.insert(0, errors[0] @ (w.T if orthogonal else jnp.linalg.inv(w)))
    h = list(itertools.accumulate(ws[:3], jnp.matmul, initial=x))
    wanted = [v.T @ e for v, e in zip(h, errors, strict=True)]
    grads = pulled(layer, params, x, dy)[1]
    assert_near([g["w"] for g in grads["layer"]], wanted, 1e-11)
    exact = jax.tree.leaves(grads["feedback"]["inverses"])
    assert max(abs(g).max() for g in exact) < 1e-12  # nothing left to learn, whatever the noise


def test_learned_inverses_come_to_invert():
    net, x = TargetPropagation(Serial(Dense(4), Tanh(), Dense(8), Tanh(), Dense(2)), noise=0.1), draw(f(40, 3))
    params = parameters(net, x)
    h = net.forward(params, x)[1][1]

    def missed(params):
        p = params["feedback"]["inverses"][0][0]
        return float(jnp.square(jnp.tanh(affine(p, h[2])) - h[1]).mean())

    @jax.jit
    def step(params):
        _, residuals = net.forward(params, x)
        grads = net.pull(params, residuals, jnp.zeros((40, 2)))[1]
        assert jax.tree.structure(grads) == jax.tree.structure(trainable(params))
        moved = jax.tree.map(lambda p, g: p - 0.3 * g, trainable(params), grads)
        return net.advance(merge(moved, buffers(params)), residuals)

    before = missed(params)
    for _ in range(300):
        params = step(params)
    assert missed(params) < before / 20


@pytest.mark.parametrize("net", [DENSE, CONV], ids=["dense", "conv"])
def test_a_small_nudge_of_an_equilibrium_gives_the_gradient_at_it(net):
    """Against jax.grad through the settling itself, written out in plain jax."""
    layer, params, x, dy, h, _ = setting(net, lambda net: EquilibriumPropagation(net, 60, 1e-4))
    small = jax.tree.map(lambda w: 0.3 * w, params)
    ws = weights(net, small)

    def loss(ws):
        states = [x, *(jnp.zeros_like(v) for v in h[1:])]
        return (settled(net, ws, states, 0.0, 12)[-1] * dy).sum()

    with jax.disable_jit(False):
        wanted = jax.jit(jax.grad(loss))(ws)
    assert_near(weights(net, pulled(layer, small, x, dy)[1]), wanted, 1e-5)


def test_an_evolution_around_network_and_loss_needs_no_derivative_of_the_loss():
    from jbp import Parallel
    from jbp.layers import Add, StraightThroughRound

    objective = Serial(Parallel(Dense(1), Identity()), MeanSquaredError())
    layer, x, t = (
        EvolutionStrategy(Serial(objective, StraightThroughRound()), 400, 0.5),
        9 * draw(f(8, 2)),
        draw(f(8, 1)),
    )
    params = parameters(layer, (x, t))
    (value, _), grads = value_and_grad(layer, Add(), has_aux=True)(params, (x, t))
    p = params["layer"][0][0][0]
    true = jax.grad(lambda p: jnp.square(affine(p, x) - t).mean())(p)
    assert value == round(float(value))
    assert angle(grads["layer"][0][0][0], true) < 20


def test_the_auditor_measures_what_moves_by_finite_steps_of_the_error(monkeypatch):
    net, x = PredictiveCoding(Serial(Dense(3), Tanh(), Dense(2)), 2), draw(f(2, 3), dtype="float32")
    report = verify.check(net, x, level="quick")
    assert report.verdict == "pass", str(report)
    assert {"dense", "linear"} <= {finding.law for finding in report.findings}
    monkeypatch.setattr(PredictiveCoding, "estimator", True)
    assert {finding.law for finding in verify.check(net, x, level="quick").errors} == {"linear"}


def test_rules_are_layers_and_compose():
    inside = Serial(
        Flatten(), Dense(8), Tanh(), Repeat(Residual(Serial(Tanh(), Dense(8))), 2), Dense(6), Tanh(), Dense(3)
    )
    x, target = draw(f(4, 3, 2)), jnp.array([0, 1, 2, 1])
    for rule in (DirectFeedbackAlignment, LocalLosses):
        for way in (feedback_alignment, sign_symmetry, kolen_pollack, weight_mirror):
            net, other = rule(way(inside)), way(rule(inside))
            assert isinstance(net, Estimator)
            assert net == other
            assert plain(net) == inside
            assert way(net) == net
            params = net.init(KEY, x)
            loss = EachOutput(LOSS) if rule is LocalLosses else LOSS
            run = value_and_grad(net, loss, has_aux=True)
            (_, aux), grads = jax.eval_shape(run, params, x, target)
            assert jax.tree.structure(grads) == jax.tree.structure(trainable(params))
            assert jax.tree.structure(aux.params) == jax.tree.structure(params)
            assert jax.tree.structure(plain(params)) == jax.tree.structure(inside.init(KEY, x))
    still = LocalLosses(weight_mirror(inside)).evaluation()
    params = LocalLosses(weight_mirror(inside)).init(KEY, x)
    np.testing.assert_allclose(still.forward(params, x)[0], inside.forward(plain(params), x)[0], rtol=1e-12)
    assert jax.tree.structure(value_and_grad(still, LOSS)(params, x, target)[1]) == jax.tree.structure(
        trainable(params)
    )


def test_recurrent_layers_are_taken_with_their_loops():
    x = draw(f(2, 4, 3))
    for net in (Serial(GRU(2), LSTM(2)), Recurrent(LSTMCell(2)), Bidirectional(Elman(2))):
        for rule in (feedback_alignment, sign_symmetry):
            layer = rule(net)
            params = parameters(layer, x)
            ours = transported(params) if rule is feedback_alignment else params
            dx, grads = pulled(layer, ours, x, cotangent(net.forward(plain(params), x)[0]))
            assert dx.shape == x.shape
            y, residuals = net.forward(plain(params), x)
            true = net.pull(plain(params), residuals, cotangent(y))
            if rule is feedback_alignment:
                assert_near((dx, plain(grads)), true, 1e-12)
            else:
                assert abs(dx - true[0]).max() > 1e-3
    assert repr(feedback_alignment(Recurrent(LSTMCell(2)))) == "FeedbackAlignment(Recurrent(LSTMCell(2)))"
    assert weight_mirror(Serial(LSTM(2), Dense(2))) == Serial(LSTM(2), WeightMirror(Dense(2)))


@pytest.mark.parametrize(
    ("net", "cuts"),
    [
        (Serial(Dense(2), Tanh(), Dense(2), Dense(2)), [0, 2, 3]),
        (Serial(Flatten(), Dense(2), Tanh(), Dropout(0.5), Dense(2), Dropout(0.5)), [0, 3]),
        (Serial(Conv(2), ReLU(), MaxPool(), Conv(2), AveragePool(), Tanh(), Flatten(), Dense(2), Tanh()), [0, 2, 6]),
        (Serial(Residual(Dense(2)), Dense(2), Tanh(), Tanh()), [0, 1]),
        (Serial(Tanh()), [0]),
        (Serial(), [0]),
    ],
    ids=repr,
)
def test_where_blocks_begin(net, cuts):
    assert cut(net) == cuts


def test_every_example_has_its_own_gradient_by_any_rule():
    """What the readers have of a layer they have of these: the mean of the examples' parts is the gradient."""
    net, x, label = Serial(Dense(4), Tanh(), Dense(3)), draw(f(5, 2)), jnp.arange(5) % 3
    for rule in (DirectFeedbackAlignment, PredictiveCoding):
        layer = rule(net)
        params = parameters(layer, x)
        whole = value_and_grad(layer, LOSS)(params, x, label)[1]
        assert_near(per_example(layer, LOSS)(params, x, label).weighted(jnp.full(5, 0.2)), whole, 1e-12)


def test_an_error_names_the_place_in_the_network_and_not_in_the_block():
    for rule in (PredictiveCoding, ForwardForward):
        net = rule(Serial(Dense(4), Tanh(), Dense(3), Tanh(), Dense(2)))
        params = net.init(KEY, draw(f(2, 3)))
        with pytest.raises(LayerError, match=rf"^{rule.__name__}\.Serial\[2\]: Dense\(3\): got 'w'"):
            net.forward((*params[:2], params[4], *params[3:]), draw(f(2, 3)))


def test_names_of_layers_stay():
    net = PredictiveCoding(Serial(first=Dense(3), act=Tanh(), last=Dense(2)))
    params = net.init(KEY, draw(f(2, 3)))
    assert list(params) == ["first", "act", "last"]
    assert set(pulled(net, params, draw(f(2, 3)), draw(f(2, 2)))[1]) == set(params)


def test_no_examples_at_all():
    for rule in (DirectFeedbackAlignment, PredictiveCoding, TargetPropagation, EquilibriumPropagation, ForwardForward):
        net = rule(DENSE)
        params = net.init(KEY, draw(f(0, 3)))
        y, residuals = net.forward(params, draw(f(0, 3)))
        grads = net.pull(params, residuals, y)[1]
        assert not any(np.any(g) for g in jax.tree.leaves(grads))
        net.advance(params, residuals)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: WeightMirror(LSTM(2)), r"got LSTM\(2\); expected a Dense or a Conv. Write FeedbackAlignment"),  # pyright: ignore
        (lambda: PredictiveCoding(Dense(2)), "expected a Serial"),  # pyright: ignore
        (
            lambda: DirectFeedbackAlignment(Serial(LSTM(2, return_state=True))).init(KEY, draw(f(2, 3, 4))),
            "got .* from a block; expected one array with the batch in front. Put the rule",
        ),
        (
            lambda: EachOutput(LOSS).forward((), (draw(f(2, 3)), jnp.array([0, 1]))),
            "expected .*the outputs a tuple. Pass",
        ),
        (
            lambda: LocalLosses(DENSE).forward(((),) * 5, draw(f(2, 3))),
            "expected a dict with 'layer' and 'feedback'. Make",
        ),
        (lambda: labelled(draw(f(2, 3)), jnp.array([0, 1]), 4), "expected 4 numbers or more in each example. Join"),
        (lambda: EvolutionStrategy(Dense(2), 0), "got pairs=0; expected a whole number, 1 or more"),
        (lambda: SignSymmetry(Dense(2), "odd"), "got magnitude='odd'; expected 'uniform', 'batch' or 'fixed'"),  # pyright: ignore
    ],
)
def test_what_does_not_fit_is_told(act, says):
    with pytest.raises((LayerError, TreeError), match=says):
        act()


def test_parameters_of_the_network_without_feedback_are_refused():
    net = Serial(Tanh(), FeedbackAlignment(Dense(2)))
    with pytest.raises(LayerError, match=r"^Serial\[1\]: FeedbackAlignment\(Dense\(2\)\): got parameters"):
        net.forward(((), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}), jnp.ones((1, 3)))


def test_angles_are_in_degrees():
    a, b = {"w": jnp.array([1.0, 0.0]), "k": None}, {"w": jnp.array([0.0, 2.0]), "k": None}
    np.testing.assert_allclose([angle(a, a), angle(a, b), angle(a, jax.tree.map(jnp.negative, a))], [0, 90, 180])


def test_labels_are_written_into_x_and_ranked():
    x = labelled(jnp.full((2, 2, 3), 7.0), jnp.array([2, 0]), 3)
    np.testing.assert_array_equal(x.reshape(2, 6), [[0, 0, 1, 7, 7, 7], [1, 0, 0, 7, 7, 7]])
    net = ForwardForward(Serial(Dense(3, bias=False), ReLU()))
    scores = ranked(net, ({"w": jnp.diag(jnp.array([1.0, 3.0, 2.0]))}, ()), jnp.zeros((1, 3)), 3)
    np.testing.assert_allclose(scores + 1, [[1 / 3, 9 / 3, 4 / 3]])


DIGITS = Serial(Dense(64), Tanh(), Dense(64), Tanh(), Dense(10))
LEARNERS = {  # a bar of the angle each, some degrees above what it comes to
    "uSF": (sign_symmetry(DIGITS), 35),
    "DFA": (DirectFeedbackAlignment(DIGITS), 75),
    "mirror": (weight_mirror(DIGITS), 25),
    "feedback alignment": (feedback_alignment(DIGITS), 72),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_digits_and_comes_to_point_along_the_true_gradient(name):
    net, degrees = LEARNERS[name]
    images, labels = load_digits(return_X_y=True)
    x, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    optimizer = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))
    state = start(net, optimizer, KEY, x)
    ours, true = (jax.jit(value_and_grad(n, LOSS, has_aux=True)) for n in (net, DIGITS))

    def lowest(params):
        """The angle in the first layer, which has its error through all the others."""
        batch = x[:500], labels[:500]
        return float(angle(plain(ours(params, *batch)[1])[0], true(plain(params), *batch)[1][0]))

    before = lowest(state.params)
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(1300), (6, 1)), axis=1).reshape(-1, 50)
    state, _ = fit(net, LOSS, optimizer, state, ((x[r], labels[r]) for r in rows))
    reached = accuracy(net.forward(state.params, x[1300:])[0], labels[1300:])
    after = lowest(state.params)
    print(f"{name}: angle {before:.0f}° → {after:.0f}°, held-out accuracy {reached:.1%}")
    assert reached > 0.85
    assert after < degrees
