"""An entry of the corpus, audited against its plain definition at its example."""

import verify
from corpus import entry


def audit(name: str, level: str = "standard", **options) -> verify.Report:
    f, plain, args = entry(name).make()
    return verify.check(f, *args, reference=plain, level=level, **options)
