"""python -m verify: audits from the shell.

Exit codes: 0 all passed, 1 a mistake was found, 2 anything else (no verdict, a refusal, an interruption, a crash).
"""

import argparse
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from verify.architectures.further import EVERY
from verify.check import LEVELS
from verify.cli import commands, counts, shell
from verify.mutation.mutants import MutantsError
from verify.naming.catalogues import CatalogueError
from verify.naming.named import CommandError
from verify.naming.parse import ParseError
from verify.naming.tokens import TokenError
from verify.processes.guard import keep_interrupts
from verify.processes.journal import JournalError
from verify.report import outputs
from verify.report.escape import visible
from verify.subject.subject import SubjectError

REFUSALS = (
    CatalogueError, CommandError, JournalError, MutantsError, ParseError, SubjectError, TokenError, outputs.OutputError,
)  # fmt: skip
EXIT = {"pass": 0, "fail": 1}  # what is not listed is 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verify", description=__doc__)
    listed = parser.add_subparsers(dest="command", required=True)

    def add(run, words, *, jobs=False, level=None, seed="", reports=True, journal=True, timeout=600.0):
        one = listed.add_parser(run.__name__, help=words, description=run.__doc__)
        one.set_defaults(run=run, output=[], format=None)
        if jobs:
            cores = os.cpu_count() or 1
            one.add_argument("--jobs", type=_count, default=cores, help="processes (default: one a core)")
            names = (
                "whose layers: a name under the entry points verify.catalogues, or module:name (default %(default)s)"
            )
            one.add_argument("--catalogue", default="jbp", help=names)
        if level:
            words = "quick leaves out other sizes and lower precisions (default %(default)s)"
            one.add_argument("--level", choices=LEVELS, default=level, help=words)
        if seed:
            one.add_argument("--seed", type=_seed, default=0, help=f"{seed} (default %(default)s)")
        if journal:
            words = "note what is done there, and go on from it"
            one.add_argument("--journal", type=Path, metavar="FILE", help=words)
        words = f"write the reports there; may be given again. {', '.join(outputs.SUFFIXES)} say in which format"
        if reports or journal:
            one.add_argument("--output", type=Path, action="append", metavar="FILE", help=words)
        if reports:
            words = "print the reports in this format, or write them in it whatever the file's name"
            one.add_argument("--format", choices=tuple(outputs.FORMATS), help=words)
        words = "stop an audit, or a batch of them, that takes longer; it has no verdict then (default %(default)g)"
        one.add_argument("--timeout", type=_positive, default=timeout, metavar="SECONDS", help=words)
        words = "stop one that holds more memory (default: three quarters of what is free, shared by the processes)"
        one.add_argument("--memory", type=_positive, metavar="GIB", help=words)
        if run in (commands.function, commands.layers):
            one.add_argument("-v", "--verbose", action="store_true", help="list what was not counted")
        words = "audit in this very process, for debuggers: then code under audit may hang or end it"
        one.add_argument("--here", action="store_true", help=words)
        return one

    one = add(
        commands.function, "audit a function with a custom rule", level="standard", seed="of the example's values"
    )
    one.add_argument("name", help="package.module:function, or path/to/file.py:function")
    one.add_argument("--reference", help="its plain definition, package.module:function")
    one.add_argument("--example", required=True, help='its arguments, for example "f32[4,8], f32[8], i32[4]<8"')
    words = "what it promises, for example \"Contract({'scale': positive}, without=('twice',))\" (default: inferred)"
    one.add_argument("--contract", metavar="CONTRACT", help=words)
    one = add(commands.scan, "audit all custom rules of a package", level="quick", seed="of the examples' values")
    one.add_argument("package", help="its name, for example optax")
    words = "module or file.py with a dict EXAMPLES: {'module:name': 'f32[4,8]' or arguments or verify.case(...)}"
    one.add_argument("--examples", default="", help=words)
    one = add(commands.layers, "audit every layer and loss of a catalogue", jobs=True, level="quick")
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="layers of these names alone")
    one = add(
        counts.networks, "audit random networks", jobs=True, seed="another seed draws other networks", timeout=3600.0
    )
    one.add_argument("--count", type=_count, default=300, help="how many networks (default %(default)s)")
    words = "ask one network in N a question more: apart, vmap, per-example norms, ... (default %(default)s)"
    one.add_argument("--every", type=_count, default=EVERY, metavar="N", help=words)
    one.add_argument("--corpus", type=Path, metavar="FILE", help="add the tokens of what fails to this file")
    words = "say no more than how many disagree, and which"
    one.add_argument("-q", "--quiet", action="store_true", help=words)
    one.add_argument("-v", "--verbose", action="store_true", help="list the layers and forms, and which were not met")
    words = "how many wrong layers are noticed"
    one = add(counts.mutants, words, jobs=True, seed="of the choice", reports=False, timeout=3600.0)
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="mutants of these layers alone")
    one.add_argument("--count", type=_count, help="so many of all mutants, chosen by the seed (default: all)")
    words = "networks: ask random networks first, and say what only the layer by itself shows (default %(default)s)"
    one.add_argument("--by", choices=("layers", "networks"), default="layers", help=words)
    words = "a TOML file that lists the mutants that are no mistakes, each with a reason"
    one.add_argument("--equivalents", type=Path, metavar="FILE", help=words)
    one = add(commands.replay, "run what failed again", reports=False, journal=False)
    one.add_argument("token", help="the word that the failing audit printed, or a file of such words")
    words = "a module out of which tokens may import functions, and run them; may be given again"
    one.add_argument("--allow", action="append", default=[], metavar="MODULE", help=words)
    words = "why a report does not count a difference"
    one = listed.add_parser("explain", help=words, description=commands.explain.__doc__)
    one.set_defaults(run=commands.explain, output=[], format=None)
    one.add_argument("names", nargs="*", metavar="W01", help="the names in the report (default: all)")
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"got {number}; expected at least 1")
    return number


def _seed(text: str) -> int:
    if not 0 <= (number := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"got {number}; expected 0 to 2**32 - 1")
    return number


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < 1e9:
        raise argparse.ArgumentTypeError(f"got {number}; expected more than 0")
    return number


def main(arguments: list[str] | None = None) -> int:
    """One command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        verdict = options.run(options)
        sys.stdout.flush()  # where that fails, a full disk for example, the verdict has not arrived
    except REFUSALS as error:
        shell.say(shell.errors, ("could not run:", "bold red"), f" {error}")
    except KeyboardInterrupt:
        shell.say(shell.errors, ("interrupted", "bold red"))
    except BaseException as error:  # noqa: BLE001 - exit code 1 is for mistakes that were found, not for ours
        with suppress(Exception):
            print(visible("".join(traceback.format_exception(error))), file=sys.stderr)
    else:
        return EXIT.get(verdict, 2)
    return 2


def script() -> NoReturn:
    """The command `verify`."""
    keep_interrupts()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with no process left, no file half
    code = main()
    if code == 2:
        os._exit(2)  # without a last flush of what cannot be written, which would have an exit code of its own
    sys.exit(code)


if __name__ == "__main__":
    script()
