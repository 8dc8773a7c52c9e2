"""One thing to audit, held until it is audited: for lists of them, in tests, in files and across processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from verify.architectures.networks import draw_inputs
from verify.check import check
from verify.naming import catalogues, named
from verify.report.report import Report
from verify.subject.contract import Contract


@dataclass(frozen=True)
class Case:
    """What `verify.check` is to be called with. make() -> (f, example arguments, reference)."""

    name: str
    make: Callable[[], tuple[Any, tuple[Any, ...], Any]]
    seed: int = 0
    contract: Contract | None = None

    def check(self, level: str = "standard") -> Report:
        f, args, reference = self.make()
        return check(f, *args, reference=reference, seed=self.seed, level=level, contract=self.contract)


def case(
    f: Any,
    *example: Any,
    reference: Any = None,
    name: str = "",
    seed: int = 0,
    contract: Contract | None = None,
) -> Case:
    """f with one ordinary example: its arguments, or one text like "f32[4,8], i32[4]<8" for random ones.

    f and reference are functions, or say where one is: "package.module:name". contract is as of `check`.
    """
    known = f if isinstance(f, str) else getattr(f, "__name__", None) or repr(f)
    return Case(name or known, partial(_made, f, example, reference, seed), seed, contract)


def _made(f, example, reference, seed):
    if len(example) == 1 and isinstance(example[0], str):
        example = tuple(named.example(example[0], seed))
    there = lambda g: named.function(g) if isinstance(g, str) else g  # noqa: E731
    return there(f), tuple(example), there(reference)


def of_catalogue(name: str = "jbp") -> Iterator[Case]:
    """Each layer and loss of a catalogue at each of its inputs."""
    listed = catalogues.listed(name)
    for k, i in catalogues.cases(name):
        yield Case(f"{listed[k].layer!r}-{i}", partial(_of_catalogue, name, k, i))


def _of_catalogue(name, k, i):
    found = catalogues.listed(name)[k]
    return found.layer, (draw_inputs(found.inputs[i], np.random.default_rng(k), jnp.float32),), None


def audit_case(name: str, number: int, which: int, level: str) -> Report:
    """`check` of one case of a catalogue at one of its inputs: runs in any process."""
    catalogues.allow(name)  # which came from whoever runs this
    return Case(name, partial(_of_catalogue, name, number, which)).check(level)


def parametrize(*cases: Case | str) -> Any:
    """A decorator: the test runs once for each case, and its argument `audit` is bound to that one.

    @verify.parametrize(verify.case(softplus, "f32[4,8]", reference=plain))
    def test_gradients(audit):
        audit()  # fails with the report; also returns it

    A word stands for a whole catalogue: verify.parametrize("jbp").
    """
    import pytest

    listed = [c for some in cases for c in (of_catalogue(some) if isinstance(some, str) else (some,))]

    def decorate(test):
        test = pytest.mark.parametrize("audit", listed, ids=[c.name for c in listed], indirect=True)(test)
        return pytest.mark.verify(test)

    return decorate
