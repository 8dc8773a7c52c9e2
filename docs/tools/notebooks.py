"""Pages as Jupyter notebooks: text in cells of Markdown, programs in cells of code. The page is the one source.

python -m docs.tools.notebooks FOLDER
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
PROGRAM = re.compile(r"^```python\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)
SITE_ONLY = re.compile(r"^(?:!\[|<).*\n?", re.MULTILINE)  # figures, markers and elements of the page
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!http)[^)]*\)")  # to another page


def notebook(markdown: str) -> dict[str, Any]:
    cells = []
    for k, part in enumerate(PROGRAM.split(markdown)):
        program = k % 2 == 1
        text = part.strip() if program else LINK.sub(r"\1", SITE_ONLY.sub("", part)).strip()
        if text:
            cell = {"cell_type": "code" if program else "markdown", "id": f"cell-{len(cells)}", "metadata": {}}
            cell["source"] = text.splitlines(keepends=True)
            cells.append(cell | ({"execution_count": None, "outputs": []} if program else {}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def pages() -> dict[str, str]:
    """The notebook's name of each page that has one: those that show how to do something, by programs."""
    found = [DOCS / "getting-started.md", *sorted(DOCS.glob("tutorial/*.md")), *sorted(DOCS.glob("how-to/*.md"))]
    names = [str(page.relative_to(DOCS)) for page in found if PROGRAM.search(page.read_text())]
    return {name: name.removesuffix(".md").replace("/", "-") + ".ipynb" for name in names}


def made(page: str) -> str:
    """The notebook of a page, as the text of a file."""
    return json.dumps(notebook((DOCS / page).read_text()), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for page, name in pages().items():
        (folder / name).write_text(made(page))
        print(folder / name)
