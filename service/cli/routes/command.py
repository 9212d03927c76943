"""`triptych routes`: list and show routes, explain decisions, compare arms."""

import json
from typing import Any
from urllib.parse import quote

import click
import httpx
from rich.console import Console, RenderableType

from service.cli.routes.view import arms_table, comparisons_table, explanation, listing
from service.cli.running_service import refusal, unreachable, url_option

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_TIMEOUT_S = 60


@click.group()
def routes() -> None:
    """Show the routes of a running service, and explain what they decided."""


@routes.command("list")
@_json
@url_option
def list_(*, as_json: bool, url: str) -> None:
    """List all routes with their policies and models."""
    found = _get(url, "/v1/routes")
    _print(found, as_json, lambda: [listing(found["data"])])


@routes.command()
@click.argument("route_id", metavar="ID")
@url_option
def show(route_id: str, *, url: str) -> None:
    """Show a route's definition, as JSON that PUT /v1/routes/ID takes."""
    found = _get(url, f"/v1/routes/{quote(route_id, safe='')}")
    click.echo(json.dumps(found["route"], indent=2))
    if found["error"]:
        click.echo(f"it cannot be used: {found['error']}", err=True)


@routes.command()
@click.argument("request_id")
@_json
@url_option
def explain(request_id: str, *, as_json: bool, url: str) -> None:
    """Explain which model answered a request and why, and compute the decision again."""
    found = _get(url, f"/v1/records/{quote(request_id, safe='')}/route")
    _print(found, as_json, lambda: explanation(found))
    if found["same"] is False:
        raise click.ClickException("the decision that is computed now is not the recorded one")


@routes.command()
@click.argument("route_id", metavar="ID")
@click.option("--since", help="Begin of the period: RFC 3339 with an offset.")
@click.option("--until", help="End of the period.")
@_json
@url_option
def stats(route_id: str, *, since: str | None, until: str | None, as_json: bool, url: str) -> None:
    """Show what each arm's requests cost, and whether the arms differ."""
    period = {name: at for name, at in (("since", since), ("until", until)) if at is not None}
    found = _get(url, f"/v1/routes/{quote(route_id, safe='')}/stats", period)

    def drawn() -> list[RenderableType]:
        compared = [comparisons_table(found["comparisons"])] if found["comparisons"] else []
        return [arms_table(found["arms"]), *compared, *(f"Note: {n}." for n in found["notes"])]

    _print(found, as_json, drawn)


def _print(found: dict[str, Any], as_json: bool, drawn: Any) -> None:  # noqa: ANN401
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = Console()
    for each in drawn():
        console.print(each, highlight=False)


def _get(url: str, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        answer = httpx.get(f"{url}{path}", params=query, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    if answer.is_error:
        raise refusal(answer)
    try:
        found: dict[str, Any] = answer.json()
    except ValueError:
        raise refusal(answer) from None
    return found
