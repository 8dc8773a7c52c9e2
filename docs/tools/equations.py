"""For mkdocstrings: the equations at the head of a docstring in one block, each on a line of its own."""

from typing import Any

from griffe import Class, Extension, Object

from docs.tools.docstrings import laid_out, plain


class Equations(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)

    def on_class(self, *, cls: Class, **_: Any) -> None:
        if cls.docstring and cls.path.startswith("jbp."):
            cls.docstring.value = laid_out(cls.docstring.value)
