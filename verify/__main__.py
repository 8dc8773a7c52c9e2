"""python -m verify: audits from the shell. Exit codes: 0 pass, 1 a disagreement was found, 2 could not run."""

import argparse
import os
import sys
from pathlib import Path

from verify import commands, outputs
from verify.architectures import CatalogueError
from verify.campaign import JournalError
from verify.check import LEVELS
from verify.command import CommandError
from verify.mutants import MutantsError
from verify.subject import SubjectError
from verify.tokens import TokenError

REFUSALS = CatalogueError, CommandError, JournalError, MutantsError, SubjectError, TokenError, outputs.OutputError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verify", description=__doc__)
    listed = parser.add_subparsers(dest="command", required=True)

    def add(run, words, *, jobs=False, level=None, seed="", reports=True):
        one = listed.add_parser(run.__name__, help=words, description=run.__doc__)
        one.set_defaults(run=run)
        if jobs:
            cores = os.cpu_count() or 1
            one.add_argument("--jobs", type=int, default=cores, help="processes (default: one a core)")
            names = "whose layers: a name under the entry points verify.catalogues (default %(default)s)"
            one.add_argument("--catalogue", default="jbp", help=names)
        if level:
            words = "quick leaves out other sizes and lower precisions (default %(default)s)"
            one.add_argument("--level", choices=LEVELS, default=level, help=words)
        if seed:
            one.add_argument("--seed", type=int, default=0, help=f"{seed} (default %(default)s)")
        words = f"write the reports there; may be given again. {', '.join(outputs.SUFFIXES)} say in which format"
        one.add_argument("--output", type=Path, action="append", default=[], metavar="FILE", help=words)
        if reports:
            words = "print the reports in this format, or write them in it whatever the file's name"
            one.add_argument("--format", choices=tuple(outputs.FORMATS), help=words)
        return one

    one = add(
        commands.function, "audit a function with a custom rule", level="standard", seed="of the example's values"
    )
    one.add_argument("name", help="package.module:function, or path/to/file.py:function")
    one.add_argument("--reference", help="its plain definition, package.module:function")
    one.add_argument("--example", required=True, help='its arguments, for example "f32[4,8], f32[8], i32[4]<8"')
    one = add(commands.scan, "audit all custom rules of a package", level="quick", seed="of the examples' values")
    one.add_argument("package", help="its name, for example optax")
    words = "module or file.py with a dict EXAMPLES: {'module:name': 'f32[4,8]' or arguments or verify.case(...)}"
    one.add_argument("--examples", default="", help=words)
    one = add(commands.layers, "audit every layer and loss of a catalogue", jobs=True, level="quick")
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="layers of these names alone")
    one = add(commands.networks, "audit random networks", jobs=True, seed="another seed draws other networks")
    one.add_argument("--count", type=int, default=300, help="how many networks (default %(default)s)")
    journal = {"type": Path, "metavar": "FILE", "help": "note what is done there, and go on from it"}
    one.add_argument("--journal", **journal)
    one.add_argument("--corpus", type=Path, metavar="FILE", help="add the tokens of what fails to this file")
    one = add(commands.mutants, "how many wrong layers are noticed", jobs=True, seed="of the choice", reports=False)
    one.add_argument("--only", nargs="+", default=[], metavar="LAYER", help="mutants of these layers alone")
    one.add_argument("--journal", **journal)
    one.add_argument("--count", type=int, help="so many of all mutants, chosen by the seed (default: all)")
    words = "a TOML file that lists the mutants that are no mistakes, each with a reason"
    one.add_argument("--equivalents", type=Path, metavar="FILE", help=words)
    one = listed.add_parser("replay", help="run what failed again", description=commands.replay.__doc__)
    one.set_defaults(run=commands.replay)
    one.add_argument("token", help="the word that the failing audit printed, or a file of such words")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (getattr(options, "count", None) or 1) < 1 or getattr(options, "jobs", 1) < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        if getattr(options, "format", "") is None and options.command != "mutants":
            for file in options.output:
                outputs.form_of(file)  # a name that will not do is said before the work, not after it
        return options.run(options)
    except REFUSALS as error:
        commands.errors.print(f"[bold red]could not run:[/] {error}", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
