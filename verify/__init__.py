# pyright: strict
"""The auditor of hand-written backward passes.

One call audits one function at one example, another a random network of catalogued layers, valid by construction:

    report = verify.check(f, *example_args, reference=plain)
    report.verdict  # "pass", "fail" or "inconclusive"

    @hypothesis.given(verify.networks())
    def test(network):
        assert not verify.audit(network).disagrees
"""

import verify.needs  # noqa: F401  # pyright: ignore[reportUnusedImport] - an error that says what to install
from verify.architectures.comparison import Comparison, compare
from verify.architectures.judge import audit
from verify.architectures.locate import locate
from verify.architectures.networks import Network, networks
from verify.check import check
from verify.cli.cases import case, parametrize
from verify.report.report import AuditError, Canary, Finding, Report
from verify.subject.contract import (
    Constraint,
    Contract,
    ContractError,
    mask,
    negative,
    one_hot,
    ordered,
    positive,
    positive_definite,
    real,
    simplex,
    symmetric,
    unit_interval,
    unit_vector,
)
from verify.subject.integers import Integers, counts, index, lengths, permutation, segments
from verify.subject.subject import Pair, SubjectError, pair

__all__ = [
    "AuditError",
    "Canary",
    "Comparison",
    "Constraint",
    "Contract",
    "ContractError",
    "Finding",
    "Integers",
    "Network",
    "Pair",
    "Report",
    "SubjectError",
    "audit",
    "case",
    "check",
    "compare",
    "counts",
    "index",
    "lengths",
    "locate",
    "mask",
    "negative",
    "networks",
    "one_hot",
    "ordered",
    "pair",
    "parametrize",
    "permutation",
    "positive",
    "positive_definite",
    "real",
    "segments",
    "simplex",
    "symmetric",
    "unit_interval",
    "unit_vector",
]
