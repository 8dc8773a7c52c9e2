"""PyTorch's own module tests said in jbp: the comparison can fail; and whole models whose weights are taken over."""

from typing import Any

import jax
import numpy as np
import pytest
from test_parity_table import reached, table_of_names

import jbp
from jbp import layers, recipes

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[parity]'")
comparison: Any = pytest.importorskip("benchmarks.parity.comparison")
database: Any = pytest.importorskip("benchmarks.parity.database")
says: Any = pytest.importorskip("benchmarks.parity.says")
nn = torch.nn
call = comparison.call


def test_every_name_of_pytorchs_in_the_table_of_names_is_there():
    found = [name for _, theirs in table_of_names() for name in theirs]
    assert len(found) >= 75
    places = nn, nn.utils.parametrizations
    assert not [n for n in found if not any(reached(place, n) for place in places)]


@pytest.fixture(autouse=True)
def _in_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_a_sample_is_compared_and_a_wrong_translation_is_found():
    sample = next(s for s in database.samples("bilinear") if s.module.bias is not None)
    right = says.SAYS[nn.Bilinear]
    assert comparison.compare(sample, right) == comparison.Compared(worst=pytest.approx(0, abs=1e-12))

    def swapped(m, x, z):
        w = m.weight.permute(1, 2, 0).flip(0)
        return call(layers.Bilinear(m.out_features), {"w": w, "b": m.bias}, (x, z))

    found = comparison.compare(sample, swapped)
    assert "output 0" in found.fault
    assert "gradient of weight" in found.fault


def test_a_gradient_that_is_lost_is_found():
    sample = next(s for s in database.samples("bilinear") if s.module.bias is not None)

    def lost(m, x, z):
        p = {"w": m.weight.permute(1, 2, 0), "b": m.bias.detach()}
        return call(layers.Bilinear(m.out_features), p, (x, z))

    found = comparison.compare(sample, lost)
    assert found.fault.startswith("gradient of bias")
    assert not found.theirs


def test_a_translation_may_not_compute():
    sample = next(iter(database.samples("softsign")))
    assert "computes" in comparison.compare(sample, lambda m, x: call(layers.Softsign(), (), x * 1.0)).unsaid


def test_a_fault_of_pytorchs_is_told_from_one_of_ours():
    """Its Hardsigmoid has the slope 1/6 rounded to float32, which differences of its own values show."""
    sample = next(iter(database.samples("hardsigmoid")))
    assert comparison.compare(sample, says.SAYS[nn.Hardsigmoid]).theirs.startswith("off from PyTorch's own values")

    class Steep(layers.HardSigmoid):
        def backward(self, params, residuals, dy, /):
            dx, delta = super().backward(params, residuals, dy)
            return dx * 1.001, delta

    found = comparison.compare(sample, lambda m, x: call(Steep(), (), x))
    assert found.fault
    assert not found.theirs


def agrees(model, net, params, x, to=lambda x: x, back=lambda y: y):
    """Outputs, and the gradient of every weight of the model and of x, for a random cotangent.

    `params` are the model's own tensors with their axes moved, so PyTorch carries our gradients back to the model's.
    """
    x = x.requires_grad_()
    theirs, ours = model(x), back(call(net, params, to(x), compiled=True))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    dy = torch.randn_like(theirs)
    leaves = [x, *model.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, leaves, dy) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    arrays = jax.tree.map(comparison.array, params)
    y, _ = net.forward(arrays, comparison.array(to(x)))
    np.testing.assert_allclose(back(torch.tensor(np.asarray(y))), theirs.detach(), rtol=1e-10, atol=1e-10)


def dense(m):
    return {"w": m.weight.T, "b": m.bias}


def test_weights_of_a_multilayer_perceptron():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3), nn.LogSoftmax(-1))
    net = jbp.Serial(layers.Dense(7), layers.GELU(), layers.Dense(3), layers.LogSoftmax())
    agrees(model, net, (dense(model[0]), (), dense(model[2]), ()), torch.randn(4, 5))


def test_weights_of_a_convolutional_network_with_its_running_statistics():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6 * 2 * 3, 4),
    )  # fmt: skip
    net = jbp.Serial(
        layers.Conv(6, 3, stride=2, padding=1, bias=False), layers.BatchNorm(unbiased=True), layers.ReLU(),
        layers.MaxPool(2), layers.Flatten(), layers.Dense(4),
    )  # fmt: skip
    conv, norm, *_, last = model

    def params():
        buffers = {"mean": norm.running_mean, "variance": norm.running_var, "steps": norm.num_batches_tracked}
        buffers = {name: jbp.Buffer(b.clone()) for name, b in buffers.items()}
        w = last.weight.reshape(4, 6, 2, 3).permute(2, 3, 1, 0).reshape(36, 4)  # channels are flattened last here
        return (
            {"w": conv.weight.permute(2, 3, 1, 0)}, {"g": norm.weight, "b": norm.bias} | buffers, (), (), (),
            {"w": w, "b": last.bias},
        )  # fmt: skip

    def to(x):
        return x.movedim(1, -1)

    before, x = params(), torch.randn(5, 3, 8, 12)
    agrees(model, net, before, x, to)  # in training: the model's statistics have moved on by its one call
    arrays = jax.tree.map(comparison.array, before)
    _, residuals = net.forward(arrays, comparison.array(to(x)))
    moved = net.advance(arrays, residuals)[1]
    np.testing.assert_allclose(moved["mean"].value, norm.running_mean, rtol=1e-12)
    np.testing.assert_allclose(moved["variance"].value, norm.running_var, rtol=1e-12)
    agrees(model.eval(), net.evaluation(), params(), x, to)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 5, batch_first=True)

    def forward(self, x):
        return self.gru(self.lstm(x)[0])[0]


def test_weights_of_recurrent_networks():
    torch.manual_seed(2)
    model = Recurrent()
    net = jbp.Serial(layers.Stack(layers.Bidirectional(layers.LSTM(4)), 2), layers.GRU(5))
    kinds = "weight_ih", "weight_hh", "bias_ih", "bias_hh"

    def gates(kind, m, name):
        return says.recurrent.weights(kind, *(getattr(m, f"{k}_{name}") for k in kinds))

    lstm = tuple(tuple(gates("LSTM", model.lstm, f"l{k}{way}") for way in ("", "_reverse")) for k in range(2))
    agrees(model, net, (lstm, gates("GRU", model.gru, "l0")), torch.randn(2, 6, 3))


@pytest.mark.parametrize("norm_first", [False, True])
def test_weights_of_a_transformer(norm_first):
    torch.manual_seed(3)
    one = nn.TransformerEncoderLayer(6, 2, 9, dropout=0.0, batch_first=True, norm_first=norm_first, activation="gelu")
    model = nn.TransformerEncoder(one, 2, nn.LayerNorm(6), enable_nested_tensor=False)
    net = recipes.transformer_encoder(
        6, 2, 2, 9, dropout=0.0, activation=layers.GELU(), norm_first=norm_first, norm=True
    )
    params = says.attention.stacked(says.attention.encoder_layer_weights, model.layers), says.attention.norm(model.norm)
    agrees(model, net, params, torch.randn(3, 5, 6))
