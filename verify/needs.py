"""What comes before anything else is imported: whether the auditor's packages are there, and Ctrl-C meanwhile."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

if missing := [name for name in ("hypothesis", "scipy", "threadpoolctl") if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"verify needs {', '.join(missing)}, which jbp alone does not: pip install 'jbp[verify]'", name=missing[0]
    )


def _stop(number: int, frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(2)


# The command takes a second to import, in which there is nothing to put in order yet: `__main__` takes over after.
if ("-m", "verify") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) or Path(sys.argv[0]).stem == "verify":
    signal.signal(signal.SIGINT, _stop)
