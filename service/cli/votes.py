"""`triptych votes`: import ratings of a chat tool, and rank models by votes."""

import json
from pathlib import Path
from typing import Any, Final

import click
import httpx
from rich.console import Console
from rich.table import Table

from service.cli.running_service import unreachable, url_option
from service.core.votes.open_webui import trimmed

#: Feedbacks of one request: a trimmed one has about 1 KiB.
BATCH: Final = 10_000


@click.group()
def votes() -> None:
    """Import people's ratings, and rank models by votes on blind answers."""


@votes.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@url_option
def import_ratings(file: Path, url: str) -> None:
    """Import FILE, the feedback export of Open WebUI (Admin Panel, Evaluations, Feedbacks).

    Only ids, models and thumbs are sent, no text of a conversation. Importing again changes
    nothing.
    """
    try:
        feedbacks = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file} is not JSON: {error}") from error
    if not isinstance(feedbacks, list):
        raise click.ClickException(f"{file} is no feedback export of Open WebUI: not a list")
    short = [trimmed(feedback) for feedback in feedbacks]
    # Sorted, so that ratings of one chat are read together wherever a batch ends.
    short.sort(key=_chat)
    total: dict[str, Any] = {"added": 0, "replaced": 0, "known": 0}
    reasons: dict[str, int] = {}
    for batch in _batches(short):
        done = _call("POST", url, "/v1/votes/import", json=batch)
        for name in total:
            total[name] += done[name]
        for part in ("not_counted", "unused"):
            for reason, count in done[part].items():
                reasons[reason] = reasons.get(reason, 0) + count
    click.echo(
        f"{total['added']} votes added, {total['replaced']} replaced, {total['known']} known "
        "already"
    )
    for reason, count in sorted(reasons.items()):
        click.echo(f"{count} not used: {reason}")


@votes.command()
@click.option("--route", help="Only votes on answers of this blind route.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what the service answers.")
@url_option
def ratings(route: str | None, seed: int, *, as_json: bool, url: str) -> None:
    """Rank models by votes: Bradley-Terry strengths with bootstrap intervals."""
    found = _call(
        "GET", url, "/v1/votes/ratings", params={"seed": seed} | ({"route": route} if route else {})
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console()
    console.print(_table(found))
    for pair in found["pairs"]:
        if not pair["ranked"]:
            click.echo(f"cannot rank {pair['stronger']} and {pair['weaker']}: intervals overlap")
    for reason, count in found["not_counted"].items():
        click.echo(f"{count} votes not counted: {reason}")
    click.echo(found["method"])


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=None)
    table.add_column("model")
    for name in ("strength", "95 %", "votes", "wins", "losses", "ties", "both bad"):
        table.add_column(name, justify="right")
    for model in found["models"]:
        known = model["low"] is not None
        table.add_row(
            model["model"],
            f"{model['strength']:+.2f}",
            f"{model['low']:+.2f} to {model['high']:+.2f}" if known else "–",
            *(str(model[name]) for name in ("votes", "wins", "losses", "ties", "both_bad")),
        )
    return table


def _batches(feedbacks: list[object]) -> list[list[object]]:
    """Batches that end between chats; a list that is empty is one batch."""
    batches: list[list[object]] = [[]]
    for feedback in feedbacks:
        if len(batches[-1]) >= BATCH and _chat(feedback) != _chat(batches[-1][-1]):
            batches.append([])
        batches[-1].append(feedback)
    return batches


def _chat(feedback: object) -> str:
    meta = feedback.get("meta") if isinstance(feedback, dict) else None
    return str(meta.get("chat_id")) if isinstance(meta, dict) else ""


def _call(method: str, url: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 (httpx's)
    try:
        answer = httpx.request(method, url + path, timeout=120, **options)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    if answer.is_error:
        raise click.ClickException(f"{answer.status_code} from {url}{path}: {answer.text[:500]}")
    body: dict[str, Any] = answer.json()
    return body
