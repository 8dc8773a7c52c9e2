"""The pytest plugin of verify: the fixture `audit`, the marker `verify` and the option --verify-level.

It stands outside of the package, so that pytest can load it in every run without importing jax.
"""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("verify", "audits of backward passes")
    words = "quick leaves out other sizes and lower precisions (default: the marker's level, or standard)"
    group.addoption("--verify-level", choices=("quick", "standard"), help=words)


def pytest_configure(config):
    words = "verify(level=..., seed=...): an audit of a backward pass, and the options of its `audit`"
    config.addinivalue_line("markers", words)


@pytest.fixture
def audit(request):
    """audit(f, *example_args, reference=g) is verify.check, and fails the test with the report unless it passes.

    In a test under `verify.parametrize` it takes no arguments: the case is bound.
    """
    import verify

    marker = request.node.get_closest_marker("verify")
    options = dict(marker.kwargs) if marker else {}
    if level := request.config.getoption("verify_level"):
        options["level"] = level
    bound = getattr(request, "param", None)

    def run(*args, **more):
        __tracebackhide__ = True
        if bound is not None:
            report = bound.check(**{k: v for k, v in (options | more).items() if k == "level"})
        else:
            report = verify.check(*args, **(options | more))
        if report.verdict != "pass":
            pytest.fail(str(report), pytrace=False)
        return report

    return run
