"""Page of a report: one HTML file that reads without scripts and needs no network.

Its content security policy allows no more than its own two scripts, by their hashes.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from service.core.experiments.report import Report
from service.serving.experiments.report.comparison_figures import comparison_figures
from service.serving.experiments.report.figures import figures
from service.serving.experiments.report.plots import Figure
from service.serving.experiments.report.sections import Section, sections

_FOLDER = Path(__file__).parent
_DRAW = """
for (const place of document.querySelectorAll("div[data-figure]")) {
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  Plotly.newPlot(place, figure.data, figure.layout, {displaylogo: false, responsive: true});
}
"""


def page(report: Report) -> str:
    """Return the page; whatever a model, a prompt or a machine is called is shown as text."""
    drawn = [*comparison_figures(report), *figures(report)]
    parts = sections(report)
    if any(figure.section == "drift" for figure in drawn):
        parts.append(Section(key="drift", title="Order of the run"))
    library = _plotly() if drawn else ""
    scripts = [script for script in (library, _DRAW) if drawn]
    return _template().render(
        report=report,
        sections=parts,
        figures=_by_section(drawn),
        library=Markup(library),  # noqa: S704 (a library's file, no input)
        draw=Markup(_DRAW if drawn else ""),  # noqa: S704 (the text above)
        policy=_policy(scripts),
        environment=json.dumps(report.environment, indent=2, default=str, ensure_ascii=False),
        data=_embedded(msgspec.to_builtins(report)),
    )


def _by_section(drawn: list[Figure]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for number, figure in enumerate(drawn):
        found.setdefault(figure.section, []).append(
            {
                "id": f"figure-{number}",
                "title": figure.title,
                "caption": figure.caption,
                "height": figure.layout["height"],
                "json": _embedded({"data": figure.data, "layout": figure.layout}),
            }
        )
    return found


def _embedded(value: object) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, default=str)  # ASCII: no line separators either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 (nothing of HTML is left in it)


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    hashes = hashes or "'none'"
    # Plotly sets styles of its elements, and draws its download as a blob.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # Browsers read line ends as \n before they hash a script.
    return str(get_plotlyjs()).replace("\r\n", "\n")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
