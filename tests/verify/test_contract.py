"""What a function promises: declared, or inferred and said; what lies outside is not tried, what lies inside counts."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from corpus import common, entry
from verify import Contract, ContractError
from verify.naming import tokens
from verify.naming.parse import ParseError
from verify.subject.contract import NAMED, Constraint

pytestmark = pytest.mark.usefixtures("lenient")


def square_root():
    """Right above zero alone: below, the rule gives 0 where the definition, of |x|, has a slope."""
    plain = lambda x: jnp.sqrt(jnp.abs(x))  # noqa: E731
    f = common.rule(plain, lambda x: (plain(x), x), lambda x, d: (jnp.where(x > 0, d * 0.5 / plain(x), 0),))
    return f, plain


@pytest.mark.parametrize(("contract", "verdict"), [(Contract({"x": verify.positive}), "pass"), (None, "fail")])
def test_nothing_is_tried_outside_of_what_is_declared(contract, verdict):
    f, plain = square_root()
    x = jnp.array([[0.5, 2.0, -1.0], [1.0, 3.0, 0.2]])
    x = jnp.abs(x) if contract else x
    report = verify.check(f, x, reference=plain, level="quick", contract=contract)
    assert report.verdict == verdict, str(report)


def test_what_is_assumed_of_the_example_is_said_and_what_is_declared_counts():
    f, plain = square_root()
    x = jnp.array([[0.5, 2.0, 1.0], [1.0, 3.0, 0.2]])
    report = verify.check(f, x, reference=plain, level="quick")
    assert "assumed of your example: x: nothing below zero (say otherwise with contract=)" in str(report)
    assert str(report).splitlines()[1].strip().startswith("error") or report.verdict == "pass"
    for wider in (Contract({"x": verify.real}), Contract(strict=True)):
        wide = verify.check(f, x, reference=plain, level="quick", contract=wider)
        assert wide.verdict == "fail", str(wide)
        assert "assumed" not in str(wide)


def test_laws_sizes_and_dtypes_that_are_not_promised():
    f, plain, args = entry("second_derivative_stopped").make()
    report = verify.check(f, *args, reference=plain, contract=Contract(without=("twice",), sizes=False, dtypes=()))
    assert report.verdict == "pass", str(report)
    assert "twice: not promised" in report.tried["skipped"]
    assert report.tried["dtypes"] == ["float64"]
    assert len(report.tried["shapes"]) == 1


def test_a_contract_that_does_not_fit_says_so():
    f, plain, args = entry("a_threshold_for_each_channel").make()
    check = lambda contract: verify.check(f, *args, reference=plain, contract=contract)  # noqa: E731
    with pytest.raises(ContractError, match=r"got a contract of \['y'\]; expected some of \['x', 't'\]"):
        check(Contract({"y": verify.real}))
    with pytest.raises(ContractError, match="got an example whose x is not what its contract says: nothing below zero"):
        check(Contract({"x": verify.positive}))
    with pytest.raises(ContractError, match=r"without \['thrice'\]; expected some of structure, dense"):
        check(Contract(without=("thrice",)))
    for bad in ({"x": "positive"}, {"x": 1}):
        with pytest.raises(ContractError, match="expected one of real, positive"):
            Contract(bad)
    with pytest.raises(ContractError, match="expected True or False"):
        Contract(sizes=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", NAMED)
def test_each_constraint_is_what_it_says(name):
    x = NAMED[name].keep(common.example(4, 4) + 0.3)
    assert NAMED[name].takes(x)
    shown = Constraint.of(x)
    inferred = {"real": "any numbers", "ordered": "any numbers", "unit_interval": "nothing below zero"}
    assert inferred.get(name, str(NAMED[name]).split(",")[0]) in str(shown)
    bad = {"unit_vector": 2 * x, "positive": -x - 1, "negative": 1 - x, "ordered": x[:, ::-1]}
    worse = bad.get(name, None if name in ("real", "symmetric") else x - 5.5)
    assert worse is None or not NAMED[name].takes(worse)


def test_a_contract_is_a_program_that_a_token_and_a_shell_read():
    contract = Contract({"t": verify.positive}, ranks=False, without=("twice",))
    assert tokens.contracted(repr(contract)) == contract
    assert tokens.contracted("Contract({'t': positive}, ranks=False, without=('twice',))") == contract
    with pytest.raises(ParseError, match="expected a contract"):
        tokens.contracted("positive")


@pytest.mark.parametrize("constraint", NAMED.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3, 3), *product((0, 1, 3), repeat=2)], ids=str)
def test_numbers_of_any_shape_are_brought_where_they_live(constraint, shape):
    """Sizes take axes away, and rows with them: what is known of rows is then known of nothing."""
    kept = constraint.keep(np.random.default_rng(0).normal(size=shape))
    assert kept.shape == shape
    assert constraint.takes(kept)


def in_fours(x):
    """Sums of four neighbours; what is left over counts with the last."""
    whole = x.shape[-1] // 4 * 4
    return jnp.sin(x[..., :whole].reshape(*x.shape[:-1], -1, 4).sum(-1)).sum() + jnp.sin(x[..., whole:]).sum()


def forgets_what_is_left():
    f = jax.custom_vjp(in_fours)

    def back(x, dy):
        whole = x.shape[-1] // 4 * 4
        d = jnp.cos(x[..., :whole].reshape(*x.shape[:-1], -1, 4).sum(-1))
        return (dy * jnp.pad(jnp.repeat(d, 4, -1), ((0, 0), (0, x.shape[-1] - whole))),)

    f.defvjp(lambda x: (in_fours(x), x), back)
    return f


@pytest.mark.parametrize(
    ("axes", "verdict"),
    [({}, "fail"), ({("x", -1): 4}, "pass"), ({("x", 1): None}, "pass"), ({("x", 0): None}, "fail")],
)
def test_an_axis_keeps_its_size_or_is_a_multiple(axes, verdict):
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    report = verify.check(forgets_what_is_left(), x, reference=in_fours, contract=Contract(axes=axes, ranks=False))
    assert report.verdict == verdict, str(report)
    found = {int(s.split(",")[-1].strip(" ]")) for s in report.tried["shapes"]}
    if axes == {("x", -1): 4}:
        assert len(found) > 2
        assert all(n % 4 == 0 for n in found)
    if axes == {("x", 1): None}:
        assert found == {8}


def test_axes_that_there_are_not_are_refused():
    for axes, words in (({("y", 0): 4}, "contract of"), ({("x", 2): 4}, "got axis 2")):
        with pytest.raises(ContractError, match=words):
            verify.check(forgets_what_is_left(), np.ones((3, 8)), reference=in_fours, contract=Contract(axes=axes))
    with pytest.raises(ContractError, match="got axes of"):
        Contract(axes={("x", 0): 0})
