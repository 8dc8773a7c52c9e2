"""What a contract says of integers: drawn inside of it, tried at its ends, and held against the rule there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from verify import Contract, ContractError, Integers, counts, index, lengths, permutation, segments
from verify.naming.tokens import contracted

pytestmark = pytest.mark.usefixtures("lenient")
RNG = np.random.default_rng(0)
SCORES, LABELS = RNG.normal(size=(6, 5)).astype("float32"), np.array([0, 3, 1, 4, 2, 2])

DOMAINS = {
    "index": (index("x", 1, special=(-100,)), (7,)),
    "lengths": (lengths("x", 1, least=1), (3, 2)),
    "segments": (segments(4), (9,)),
    "segments of an axis": (segments(("x", 0)), (9,)),
    "counts": (counts("x", 0), (4,)),
    "permutation": (permutation, (6,)),
    "permutations": (permutation, (2, 6)),
    "a range": (Integers(-2, 3), (5,)),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_what_is_drawn_and_every_corner_is_inside(name):
    domain, shape = DOMAINS[name]
    size = {("x", 0): 6, ("x", 1): 5}.__getitem__
    every = [domain.draw(shape, size, RNG) for _ in range(20)]
    every += [x for _, x in domain.corners(shape, size)]
    assert all(x.shape == shape for x in every)
    assert all(domain.takes(x, size) for x in every)
    assert not domain.takes(np.full(shape, 99), size)
    again = contracted(repr(Contract({"ids": domain})))
    assert again.arguments["ids"] == domain


def test_the_ends_are_among_the_corners():
    size = {("x", 1): 5}.__getitem__
    seen = {int(n) for _, x in index("x", 1, special=(-1,)).corners((3,), size) for n in x.ravel()}
    assert {-1, 0, 4} <= seen
    assert {5} <= {int(n) for _, x in lengths("x", 1).corners((3,), size) for n in x.ravel()}
    shares = [x for _, x in counts("x", 1).corners((3,), size)]
    assert all(x.sum() == 5 and (x == 0).any() for x in shares)


def entropy(scores, labels):
    """−log softmax at the label, 0 for the label −7."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(scores), jnp.maximum(labels, 0)[:, None], 1)[:, 0]
    return jnp.where(labels == -7, 0, -picked).sum()


def ruled(ignores):
    f = jax.custom_vjp(entropy)

    def back(kept, dy):
        scores, labels = kept
        d = jax.nn.softmax(scores) - jax.nn.one_hot(labels, scores.shape[1], dtype=scores.dtype)
        return dy * (jnp.where((labels == -7)[:, None], 0, d) if ignores else d), None

    f.defvjp(lambda *args: (entropy(*args), args), back)
    return f


def audited(f, domain):
    return verify.check(f, SCORES, LABELS, reference=entropy, level="quick", contract=Contract({"labels": domain}))


def test_a_special_label_is_tried_where_it_is_declared():
    domain = index("scores", -1, special=(-7,))
    assert audited(ruled(ignores=True), domain).verdict == "pass"
    report = audited(ruled(ignores=False), domain)
    assert report.verdict == "fail"
    # not promised and not shown by the example: outside of what is held against it
    assert audited(ruled(ignores=False), index("scores", -1)).verdict == "pass"


def test_nothing_outside_is_tried():
    seen = []

    def noting(scores, labels):
        jax.debug.callback(lambda n: seen.append(np.asarray(n)), labels)
        return entropy(scores, labels)

    verify.check(
        noting, SCORES, LABELS % 3 + 1, reference=entropy, contract=Contract({"labels": Integers(1, 4)}), level="quick"
    )
    assert seen
    assert {int(n) for x in seen for n in x.ravel()} <= {1, 2, 3}


def test_lengths_follow_the_axis_at_other_sizes():
    def masked(x, n):
        return jnp.where(jnp.arange(x.shape[1])[None] < n[:, None], jnp.sin(x), 0).sum(1)

    f = jax.custom_vjp(masked)

    def back(kept, dy):
        x, n = kept
        full = (n == x.shape[1])[:, None]  # wrong where all of a row counts
        on = jnp.arange(x.shape[1])[None] < n[:, None]
        return jnp.where(on & ~full, jnp.cos(x) * dy[:, None], 0), None

    f.defvjp(lambda *args: (masked(*args), args), back)
    contract = Contract({"n": lengths("x", 1)})
    report = verify.check(f, SCORES, np.array([1, 2, 3, 2, 1, 3]), reference=masked, contract=contract, level="quick")
    assert report.verdict == "fail"


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        (Contract({"labels": Integers(0, 4)}), "not what its contract says"),
        (Contract({"labels": verify.real}), "expected what lives among integers"),
        (Contract({"scores": index("labels", 0)}), "expected what lives among floats"),
        (Contract({"labels": index("logits", 1)}), r"contract of \['logits'\]"),
        (Contract({"labels": index("scores", 2)}), "got axis 2 of scores"),
        (Contract({"label": index("scores", 1)}), r"contract of \['label'\]"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(contract, words):
    def run():
        return verify.check(ruled(True), SCORES, LABELS, reference=entropy, level="quick", contract=contract)

    with pytest.raises(ContractError, match=words):
        run()
