"""The auditor under faults: `python -m tests.storm kills --count 100 --seed 1`, and so on, with a table of counts each.

Exit code 0 only if nothing went wrong.
"""

import argparse
import sys
import time

from tests.storm import told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    listed = parser.add_subparsers(dest="storm", required=True)
    for name, count, words in (
        ("kills", 100, "campaigns killed, starved and disturbed, and taken up again"),
        ("hostile", 0, "code under audit that hangs, ends its process, lies: from the shell, in a scan, under pytest"),
        ("tokens", 2000, "forged and mutated tokens and journals"),
        ("texts", 2000, "texts of strangers through every report, and their readers' parsers"),
        ("trainings", 100, "trainings killed at random moments, which take up their saves"),
        ("layouts", 0, "one checkpoint taken up on many meshes, each of which has the same losses"),
        ("plans", 100, "a step of random networks under random plans beside one on one device"),
        ("spread", 0, "every layer and loss over devices that share its examples: what each of them does"),
        ("long", 0, "many audits and networks in one process"),
    ):
        one = listed.add_parser(name, help=words, description=words)
        if count:
            one.add_argument("--count", type=int, default=count, help="how many (default %(default)s)")
        one.add_argument("--seed", type=int, default=0)
        if name == "long":
            one.add_argument("--audits", type=int, default=500)
            one.add_argument("--networks", type=int, default=50_000)
    options = parser.parse_args()
    begun, tried = time.monotonic(), []
    for one in _storm(options):
        tried.append(one)
        if options.storm in ("kills", "hostile", "trainings", "layouts", "plans", "spread", "long"):
            print(f"{'wrong' if one.wrong else 'well'}  {one.kind}: {one.what}", *one.wrong, sep="\n    ", flush=True)
    text, well = told.table(tried)
    print(f"{text} ({options.storm}, seed {options.seed}, {time.monotonic() - begun:.0f} s)")
    return int(not well)


def _storm(options):
    if options.storm == "kills":
        from tests.storm.kills import kills

        return kills(options.count, options.seed)
    if options.storm == "hostile":
        from tests.storm.hostile import hostile

        return hostile()
    if options.storm == "tokens":
        from tests.storm.tokens import tokens

        return tokens(options.count, options.seed)
    if options.storm == "texts":
        from tests.storm.texts import texts

        return texts(options.count, options.seed)
    if options.storm == "trainings":
        from tests.storm.trainings import trainings

        return trainings(options.count, options.seed)
    if options.storm == "layouts":
        from tests.storm.layouts import layouts

        return layouts()
    if options.storm == "plans":
        from tests.storm.plans import plans

        return plans(options.count, options.seed)
    if options.storm == "spread":
        from tests.storm.spread import spread

        return spread()
    from tests.storm.long import long

    return long(options.audits, options.networks, options.seed)


if __name__ == "__main__":
    sys.exit(main())
