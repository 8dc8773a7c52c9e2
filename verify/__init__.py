"""The auditor of hand-written backward passes.

report = verify.check(f, *example_args, reference=plain)
report.verdict  # "pass", "fail" or "inconclusive"
"""

from verify.check import check
from verify.report import AuditError, Canary, Finding, Report
from verify.subject import Pair, SubjectError, pair

__all__ = ["AuditError", "Canary", "Finding", "Pair", "Report", "SubjectError", "check", "pair"]
