"""Mathematics in Markdown as MathML, made when the site is built: `$x$` in a line, `$$ x $$` in a paragraph of its own.

Every browser of today shows MathML by itself, so a page needs no script and no font for it.
"""

import re
import xml.etree.ElementTree as ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

ElementTree.register_namespace("", "http://www.w3.org/1998/Math/MathML")


class Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str):  # noqa: N802 - the name is Markdown's
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class Block(BlockProcessor):
    def test(self, parent: ElementTree.Element, block: str) -> bool:
        return block.startswith("$$") and block.rstrip().endswith("$$")

    def run(self, parent: ElementTree.Element, blocks: list[str]) -> None:
        made = convert(blocks.pop(0).strip()[2:-2].strip(), display="block")
        shown = ElementTree.SubElement(parent, "div", {"class": "equation"})
        shown.text = self.parser.md.htmlStash.store(made)


class MathML(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name is Markdown's
        md.parser.blockprocessors.register(Block(md.parser), "mathml", 105)
        md.inlinePatterns.register(Inline(r"(?<![\\$\w])\$(?![\s$])([^$\n]+?)(?<![\s\\])\$(?!\w)", md), "mathml", 185)
