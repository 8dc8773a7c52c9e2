"""What the auditor needs beside jax and numpy, asked for before anything else is imported."""

from importlib.util import find_spec

if missing := [name for name in ("hypothesis", "scipy", "threadpoolctl") if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"verify needs {', '.join(missing)}, which jbp alone does not: pip install 'jbp[verify]'", name=missing[0]
    )
