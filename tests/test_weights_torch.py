"""Weights of PyTorch: its modules, with numbers in them, and the same networks here give the same."""

import numpy as np
import pytest

from jbp import Serial, recipes, weights
from jbp.layers import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    Conv,
    ConvTranspose,
    Dense,
    Elman,
    Flatten,
    MaxPool,
    PReLU,
    Stack,
)

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("lenient")
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=shape).astype("float32")


def near(y, wanted):
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)


def of_torch(net, module, x, given=None, names=None):
    """Both on x, once PyTorch's module has weights that are not at their start."""
    with torch.no_grad():
        for p in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            p.copy_(torch.as_tensor(np.abs(numbers(*p.shape)) if p.dim() == 1 else numbers(*p.shape)))
        module.eval()
        wanted = module(torch.as_tensor(x if given is None else given))
    params = weights.from_torch(net, x, module.state_dict(), names)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    return net.evaluation()(params, x), wanted.numpy()


def test_an_image_network_of_torch():
    x = numbers(2, 6, 4, 2)
    net = Serial(
        Conv(4, groups=2), BatchNorm(unbiased=True), PReLU(), ConvTranspose(6, 2, stride=2, padding="VALID", groups=2),
        MaxPool(), Flatten(), Dense(5),
    )  # fmt: skip
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.PReLU(4),
        nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 6 * 4, 5),
    )  # fmt: skip
    near(*of_torch(net, module, x, np.moveaxis(x, -1, 1)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_stacks_of_torch(kind):
    layer = {"LSTM": LSTM, "GRU": GRU, "RNN": Elman}[kind](3)
    net = Stack(Bidirectional(layer), 2, dropout=0.1)
    module = getattr(nn, kind)(4, 3, 2, batch_first=True, bidirectional=True, dropout=0.1)
    near(*of_torch(net, module, numbers(2, 5, 4)))


def test_a_transformer_layer_of_torch():
    net = recipes.transformer_encoder(4, 2, 2, hidden=6)
    module = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2)
    x = numbers(2, 5, 4)
    theirs = {"0/0/0": "self_attn", "0/1": "norm1", "0/2/0": "linear1", "0/2/3": "linear2", "0/3": "norm2"}
    near(*of_torch(net, module, x, names={own: f"layers.{{}}.{name}" for own, name in theirs.items()}))


def test_a_lenet_of_torch():
    net, x = recipes.lenet(3, 4), numbers(2, 8, 12, 1)
    first = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(48, 3)
    near(*of_torch(net, nn.Sequential(*first, *second), x, np.moveaxis(x, -1, 1)))
