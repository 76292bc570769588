"""``report.html``: the report of a conversion as one page that loads nothing, made of ``report.json`` alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgekd.report import words
from edgekd.report.sections import Ranges, Report
from edgekd.report.view import view

_FOLDER = "templates"


def render(report: Report, ranges: Ranges | None = None) -> str:
    """HTML with its style inside, without scripts; all that comes from users is escaped.

    Args:
        report: the content of ``report.json``.
        ranges: tensor → [least, greatest], as in ``ranges.json``; without them the page has no table of ranges.
    """
    style = resources.files("edgekd.report").joinpath(_FOLDER, "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template("report.html.j2")
    # The page's own policy lets in this one style and nothing else, whatever a label may hold.
    return page.render(**view(report, ranges), style=style, style_hash=f"sha256-{digest}").lstrip()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("edgekd.report", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=words.percent, number=words.whole, parts=_parts)
    return environment


def _parts(name: str) -> list[str]:
    """Where a line may break: after a separator."""
    return re.split(r"(?<=[/;:._])(?=[^/;:._])", name)
