"""What MkDocs calls while it builds: mathematics, the generated pages, and figures that follow light and dark."""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from docs.tools import generated, recorded  # noqa: E402
from docs.tools.mathml import MathML  # noqa: E402

SVG = re.compile(r'<p><img alt="([^"]*)" src="(?:[^"]*/)?figures/([\w-]+\.svg)" ?/?></p>')
PICTURES = {"benchmarks.png": "benchmarks/results/cpu.png", "floor.png": "benchmarks/verify/results/floor.png"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config["markdown_extensions"].append(MathML())
    modules = [{title: path} for title, path, _ in generated.api()]
    families = len(generated.families())
    for section in config["nav"] or ():
        if "API" in section:
            section["API"] += [*modules[:-families], {"Layers by family": modules[-families:]}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for _, path, text in generated.api():
        files.append(File.generated(config, path, content=text))
    for name, path in PICTURES.items():
        files.append(File.generated(config, f"figures/{name}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    made = generated.MADE | recorded.MADE
    return re.sub(r"<!-- made: (\w+) -->", lambda m: made[m[1]](), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """SVG figures as part of the page, so that they take its colours."""
    return SVG.sub(lambda m: _inlined(m[1], ROOT / "docs" / "figures" / m[2]), html)


def _inlined(alt: str, path: Path) -> str:
    text = path.read_text()
    text = re.sub(r"<style>@media.*?</style>", "", text, flags=re.DOTALL)  # the page's colours, not the system's
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{path.stem}-", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
    return f'<figure class="plot">{text.strip()}</figure>'
