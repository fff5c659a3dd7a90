"""Drawing: the page as one HTML file that opens offline and can load nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from lossless._evaluate.text import printable

from . import charts
from .data import Page


def render(page: Page) -> str:
    """The page as HTML; whatever text came from data is escaped, in the markup and in the chart specifications."""
    environment = Environment(
        loader=PackageLoader(__package__ or "lossless._report"), autoescape=True, finalize=_finalize
    )
    scripts = [Markup(text) for text in (_bundle(), _part("page.js"))]  # Vega's and ours, not data
    return environment.get_template("page.html.j2").render(
        page=page,
        style=Markup(_part("page.css")),
        scripts=scripts,
        script_hashes=[_policy_hash(script) for script in scripts],
        charts=[[_json(charts.draw(chart)) for chart in panel.charts] for panel in page.panels],
    )


def _part(name: str) -> str:
    """A file beside the template."""
    return resources.files(__package__ or "lossless._report").joinpath("templates", name).read_text("utf-8")


def _finalize(value: Any) -> Any:
    """Text from data stays in its cell: bidirectional and control characters are shown as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed, in the version whose specifications altair writes."""
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    # Without a snippet it defines window.vegaEmbed; the type stub forgets that the snippet is optional.
    script: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy_hash(script: str) -> str:
    """The hash by which the content policy lets a script run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(spec: dict[str, Any]) -> Markup:
    """A specification inside <script type="application/json">, where only `<` could end the element."""
    text = json.dumps(spec, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
