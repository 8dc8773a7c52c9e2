"""Processes that hang, die, are killed, or end with their parent: told each time, and what is beside them goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verify.processes import safely
from verify.processes.safely import Failed, Pool
from verify.subject.subject import SubjectError

ROOT = Path(__file__).parents[2]


def act(what, file=""):
    """What code under audit may do: runs in a process of the pool."""
    if what == "exit":
        os._exit(0)
    if what == "leave":
        print("last words")
        sys.exit(0)
    if what == "hang":
        while True:
            pass
    if what == "killed once" and not Path(file).exists():
        Path(file).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise SubjectError("got nothing; expected something.")
    return what


def test_each_way_to_give_no_result_is_told_and_the_others_go_on(tmp_path):
    parts = [(w, str(tmp_path / "once")) for w in ("fine", "leave", "exit", "hang", "killed once", "again")]
    with Pool(1, timeout=5) as pool:
        found = {part[0]: result for part, result in pool.results(act, parts)}
        assert found["fine"] == "fine"
        assert found["again"] == "again"
        assert found["killed once"] == "killed once"  # by somebody: its part is done again
        assert found["exit"] == Failed("it ended its process with exit code 0", True)
        assert found["leave"].own
        assert "SystemExit: 0" in found["leave"].reason
        assert not found["hang"].own
        assert "no answer in 5 s" in found["hang"].reason
        with pytest.raises(SubjectError, match="expected something"):
            pool.call(act, "refuse")
        (left,) = pool.idle
    deadline = time.monotonic() + 60
    while left.process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left.process.exitcode is not None


PARENT = """
import os, sys, time
from verify.processes.safely import Pool

if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool.call(os.getpid), flush=True)
        pool.call(time.sleep, 600)
"""


def test_processes_end_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = int((parent.stdout or pytest.fail("no output")).readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid):
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()  # a zombie runs no more
    except OSError:
        return False


def test_what_a_call_prints_is_never_taken_for_that_of_the_next(monkeypatch):
    read = os.read

    def late(*given):
        some = read(*given)
        time.sleep(0.03)
        return some

    monkeypatch.setattr(safely.os, "read", late)
    with Pool(1, timeout=60) as pool:
        found = {part[0]: result for part, result in pool.results(act, [("leave", ""), ("fine", ""), ("exit", "")])}
    assert found["exit"] == Failed("it ended its process with exit code 0", True)
