"""The samples by which PyTorch tests its modules: constructor arguments, inputs, and whether it is training.

Two lists, both inside `torch.testing`: `module_db`, and the older tests of `common_nn`, many of which call a function
of `torch.nn.functional`; such a call is recorded and said as the module of that function. Samples that expect an error
are in neither. Seeds are fixed for each module; parameters and buffers are drawn, so that no test passes by zeros.
"""

import copy
import functools
import inspect
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.testing._internal import common_modules, common_nn

FUNCTIONS = {
    "poisson_nll_loss": nn.PoissonNLLLoss,
    "binary_cross_entropy": nn.BCELoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "kl_div": nn.KLDivLoss,
    "l1_loss": nn.L1Loss,
    "mse_loss": nn.MSELoss,
    "nll_loss": nn.NLLLoss,
    "smooth_l1_loss": nn.SmoothL1Loss,
    "huber_loss": nn.HuberLoss,
    "multilabel_margin_loss": nn.MultiLabelMarginLoss,
    "hinge_embedding_loss": nn.HingeEmbeddingLoss,
    "soft_margin_loss": nn.SoftMarginLoss,
    "multilabel_soft_margin_loss": nn.MultiLabelSoftMarginLoss,
    "multi_margin_loss": nn.MultiMarginLoss,
    "interpolate": nn.Upsample,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
}


@dataclass
class Sample:
    """One call. `run(*inputs, **named)` is PyTorch's; `module` holds its configuration and its parameters."""

    name: str
    source: str
    module: nn.Module
    inputs: tuple
    named: dict[str, Any]
    words: str
    run: Callable

    def key(self) -> tuple:
        """What makes two samples one: module, arguments, shapes, training."""
        return self.name, self.words, self.module.training


def samples(only: str = "") -> Iterator[Sample]:
    """Every sample whose module's name the pattern `only` is found in, in any case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for made in (_of_module_db, _of_common_nn):
            yield from made(re.compile(only, re.IGNORECASE).search)


def _seed(name):
    torch.manual_seed(zlib.crc32(name.encode()))


def _drawn(module, training):
    """The module with its parameters and buffers moved off zeros and ones, in a fixed mode."""
    with torch.no_grad():
        for p in module.parameters():
            p += torch.randn_like(p) / 4
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn_like(b))
            elif name.endswith("running_var"):
                b.copy_(torch.rand_like(b) + 0.5)
    return module.train(training)


def _of_module_db(only):
    for info in common_modules.module_db:
        name = info.module_cls.__name__
        if not only(name):
            continue
        for training in (True, False) if info.train_and_eval_differ else (True,):
            _seed(name)
            asked = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
            )
            for one in asked:
                made, called = one.constructor_input, one.forward_input
                inputs, named = _leaves(called.args), _leaves(called.kwargs)
                module = info.module_cls(*made.args, **made.kwargs).to(torch.float64)
                words = f"({_words(made.args, made.kwargs)}) of ({_words(inputs, named)})"
                if info.is_lazy:
                    module(*inputs, **named)  # makes the parameters
                module = _drawn(module, training)
                yield Sample(name, "module_db", module, inputs, named, words, copy.deepcopy(module))


def _of_common_nn(only):
    listed = [
        *((d, common_nn.NewModuleTest) for d in common_nn.module_tests),
        *((d, common_nn.NewModuleTest) for d in common_nn.get_new_module_tests()),
        *((d, common_nn.CriterionTest) for d in common_nn.criterion_tests),
    ]
    for given, kind in listed:
        given = dict(given)
        if "constructor" not in given:
            given["constructor"] = getattr(nn, given.pop("module_name"))
        _seed(repr(sorted(k for k in given if isinstance(given[k], str))) + str(given.get("fullname")))
        test = kind(**given)
        args = test.constructor_args
        module = test.constructor(*args)
        inputs = test._get_input()
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        if kind is common_nn.CriterionTest:
            inputs = (*inputs, test._get_target())
        inputs = tuple(_double(x) for x in inputs)
        if any(x.is_complex() for x in inputs):
            continue  # jbp has real numbers only; PyTorch's list for float64 has none of these
        if type(module).__name__ == "FunctionalModule":
            yield from _function(given, module, inputs, only)
            continue
        name = type(module).__name__
        if only(name):
            training = not isinstance(module, nn.RReLU)  # its slopes are random in training
            module = _drawn(module.to(torch.float64), training)
            words = f"{_plain(module)} of ({_words(inputs, {})})"
            yield Sample(name, "common_nn", module, inputs, {}, words, copy.deepcopy(module))


def _function(given, module, inputs, only):
    """The sample of a test that wraps a function: what it calls of torch.nn.functional, as the module of that name."""
    fn, kwargs = (inspect.getclosurevars(type(module).forward).nonlocals[n] for n in ("fn", "kwargs"))
    calls = []

    def recorder(function):
        @functools.wraps(function)
        def record(*args, **kwargs):
            calls.append((function, args, kwargs))
            return function(*args, **kwargs)

        return record

    if fn.__module__ == "torch.nn.functional":
        calls.append((fn, inputs, kwargs))
    else:
        patched: Any = {n: recorder(getattr(nn.functional, n)) for n in FUNCTIONS}
        with mock.patch.multiple(nn.functional, **patched):
            fn(*inputs, **kwargs)
    function, args, kwargs = calls[0]
    cls = FUNCTIONS[function.__name__]
    if not only(cls.__name__):
        return
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    fields = inspect.signature(cls).parameters
    options = {n: v for n, v in bound.items() if n in fields}
    inputs = tuple(v for n, v in bound.items() if torch.is_tensor(v) and n not in options)
    words = f"({_words((), options)}) of ({_words(inputs, {})})"
    others = {n: v for n, v in bound.items() if not any(v is x for x in inputs)}
    run = functools.partial(_called, function, tuple(bound), others)
    yield Sample(cls.__name__, "common_nn", cls(**options).to(torch.float64), inputs, {}, words, run)


def _called(function, names, others, *inputs):
    left = list(inputs)
    return function(**{n: others[n] if n in others else left.pop(0) for n in names})


def _leaves(tree: Any) -> Any:
    """Tensors of their own, from which gradients are asked."""
    if torch.is_tensor(tree):
        return tree.detach().clone().requires_grad_(tree.is_floating_point() and tree.requires_grad)
    if isinstance(tree, dict):
        return {name: _leaves(v) for name, v in tree.items()}
    return type(tree)(map(_leaves, tree)) if isinstance(tree, tuple | list) else tree


def _double(x):
    if not torch.is_tensor(x):
        return x
    x = x.detach().double() if x.is_floating_point() else x.detach()
    return x.requires_grad_(x.is_floating_point())


def _plain(module):
    return " ".join(f"{module!r}".split())


def _words(args, kwargs):
    """Arguments in short, tensors by their shape."""
    named = [f"{n}={_word(v)}" for n, v in kwargs.items() if n not in ("device", "dtype")]
    return ", ".join([*map(_word, args), *named])


def _word(v):
    if torch.is_tensor(v):
        kind = {torch.float64: "", torch.bool: "bool", torch.int64: "int"}.get(v.dtype, str(v.dtype).split(".")[-1])
        return f"{kind}[{', '.join(map(str, v.shape))}]"
    if isinstance(v, tuple | list):
        return f"({', '.join(map(_word, v))})"
    if isinstance(v, nn.Module):
        return _plain(v)
    return getattr(v, "__name__", None) or repr(v)
