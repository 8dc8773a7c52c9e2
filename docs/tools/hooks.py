"""What MkDocs calls while it builds: mathematics, the generated pages, and figures that follow light and dark.

Nothing that the browser fetches may come from elsewhere, which is looked for in every page.
"""

import os.path
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from docs.tools import generated, notebooks, recorded  # noqa: E402
from docs.tools.mathml import MathML  # noqa: E402

SVG = re.compile(r'<p><img alt="([^"]*)" src="(?:[^"]*/)?figures/([\w-]+\.svg)" ?/?></p>')
SHIM = "https://unpkg.com/iframe-worker/shim"  # the theme's, for search in pages opened from a file; ours is local
OUTSIDE = r"""["']?(?:https?:)?//[^>]*>"""
FETCHED = re.compile(
    rf"<(?:script|img|iframe|source|video)\b[^>]*\bsrc={OUTSIDE}"
    rf"|<link\b[^>]*\brel=.?(?:stylesheet|pre|icon)[^>]*\bhref={OUTSIDE}"
)
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
    for page, name in notebooks.pages().items():
        files.append(File.generated(config, f"notebooks/{name}", content=notebooks.made(page)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    made = generated.MADE | recorded.MADE
    if name := notebooks.pages().get(page.file.src_uri):
        link = os.path.relpath(f"notebooks/{name}", os.path.dirname(page.file.src_uri))
        markdown = re.sub(
            r"^(# .*)$",
            rf"\1\n\n[as a notebook]({link}){{ .notebook download }}",
            markdown,
            count=1,
            flags=re.MULTILINE,
        )
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
    return f'<figure class="plot">{text.strip()}<figcaption>{alt}.</figcaption></figure>'


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    return _local(output, page.url)


def on_post_template(output: str, *, template_name: str, **_: Any) -> str:
    return _local(output, template_name) if template_name.endswith(".html") else output


def _local(html: str, url: str) -> str:
    html = html.replace(SHIM, get_relative_url("assets/worker.js", url))
    if found := FETCHED.search(html):
        raise PluginError(f"{url} loads something from elsewhere: {found[0]}")
    return html
