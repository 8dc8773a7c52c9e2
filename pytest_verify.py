"""The pytest plugin of verify: the fixture `audit`, the marker `verify`, and the options of audits.

It stands outside of the package, so that pytest can load it in every run without importing jax. Tests that take `audit`
run in a process beside pytest's own: one that hangs is stopped, one that ends its process fails, the others go on.
"""

import os
import time

import pytest

_inside = False  # whether this is that other process
_pool = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("verify", "audits of backward passes")
    words = "quick leaves out other sizes and lower precisions (default: the marker's level, or standard)"
    group.addoption("--verify-level", choices=("quick", "standard"), help=words)
    words = "stop the test of an audit that takes longer, which fails then (default: %(default)g)"
    group.addoption("--verify-timeout", type=float, default=600.0, metavar="SECONDS", help=words)
    words = (
        "audit in pytest's own process, as with --pdb and under xdist: what an audit prints is shown, none is stopped"
    )
    group.addoption("--verify-here", action="store_true", help=words)


def pytest_configure(config):
    words = "verify(level=..., seed=...): an audit of a backward pass, and the options of its `audit`"
    config.addinivalue_line("markers", words)


def pytest_unconfigure(config):
    if pool := config.stash.get(_pool, None):
        pool.__exit__(None, None, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    config = item.config
    here = _inside or config.option.verify_here or _debugs(config)
    if here or hasattr(config, "workerinput") or "audit" not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _debugs(config):
    return getattr(config.option, "usepdb", False) or getattr(config.option, "trace", False)


def _reports(item):
    """What became of a test in the other process, phase by phase."""
    from verify.processes.safely import Failed, Pool

    config = item.config
    if _pool not in config.stash:
        config.stash[_pool] = Pool(timeout=config.option.verify_timeout, kept=True).__enter__()
    params, begun = config.invocation_params, time.monotonic()
    args = [str(arg) for arg in params.args], str(params.dir), str(item.path), item.nodeid
    found = config.stash[_pool].call(run_item, *args)
    if not isinstance(found, Failed):
        return [config.hook.pytest_report_from_serializable(config=config, data=data) for data in found]
    passed = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, "setup")
    words, duration = f"{item.nodeid}: {found}", time.monotonic() - begun
    return [passed, pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call", duration=duration)]


class _Inside:
    """A pytest session in the other process: its tests by file and name, and the reports of the one that runs."""

    def __init__(self, args, folder):
        from _pytest.config import _prepareconfig
        from _pytest.main import Session

        os.chdir(folder)
        self.config = _prepareconfig(args, [self])
        self.config._do_configure()
        self.session = Session.from_config(self.config)
        self.config.hook.pytest_sessionstart(session=self.session)
        self.items, self.reports = {}, []

    def pytest_runtest_logreport(self, report):
        self.reports.append(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def run(self, path, name):
        if path not in self.items:
            self.items[path] = {item.nodeid: item for item in self.session.perform_collect([path])}
        self.reports = []
        item = self.items[path][name]
        self.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.reports


_session = None


def run_item(args, folder, path, name):
    """The reports of one test, as data: called in the other process, where the session lasts."""
    global _inside, _session
    _inside = True
    _session = _session or _Inside(args, folder)
    return _session.run(path, name)


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
