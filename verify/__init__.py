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
from verify.architectures import Network, networks
from verify.cases import case, parametrize
from verify.check import check
from verify.comparison import Comparison, compare
from verify.contract import (
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
from verify.judge import audit
from verify.locate import locate
from verify.report import AuditError, Canary, Finding, Report
from verify.subject import Pair, SubjectError, pair

__all__ = [
    "AuditError",
    "Canary",
    "Comparison",
    "Constraint",
    "Contract",
    "ContractError",
    "Finding",
    "Network",
    "Pair",
    "Report",
    "SubjectError",
    "audit",
    "case",
    "check",
    "compare",
    "locate",
    "mask",
    "negative",
    "networks",
    "one_hot",
    "ordered",
    "pair",
    "parametrize",
    "positive",
    "positive_definite",
    "real",
    "simplex",
    "symmetric",
    "unit_interval",
    "unit_vector",
]
