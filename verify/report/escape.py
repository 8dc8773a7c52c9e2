"""Strangers' texts, made fit to be shown: names, messages and paths may hold anything at all.

Whatever a terminal, a page or a parser would take for more than a letter is written out: an escape character as
backslash x1b, half of a surrogate pair as backslash ud800. Markup of the format itself is that format's to escape.
"""

import html as _html


def visible(text: object) -> str:
    """The text with its control characters, and others that have no shape of their own, written out as in Python."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def line(text: object) -> str:
    """The same in one line: what comes after a line break must not pass for a line of ours."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def html(text: object) -> str:
    """The text for the inside of an HTML element or attribute."""
    return _html.escape(visible(text))
