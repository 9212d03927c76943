"""`triptych compare`: send one prompt to several models and show the answers live."""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import click
import httpx
from rich.console import Console
from rich.live import Live

from service.cli.compare.view import Arm, columns, summary
from service.cli.running_service import refusal, unreachable, url_option
from service.core.sse import SseReader

#: Redraws of the columns: enough to look live, few enough to cost nothing.
FRAMES_PER_S = 12


@click.command()
@click.argument("prompt")
@click.option("-m", "--model", "models", multiple=True, help="Model to compare; give two to eight.")
@url_option
@click.option("--system", help="System message before the prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--seed", type=int, help="Sampling seed; equal seeds give equal answers.")
@click.option(
    "--mode",
    type=click.Choice(["isolated", "concurrent"]),
    default="isolated",
    show_default=True,
    help="isolated: one model after another, with nothing else running; concurrent: all at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON document.")
def compare(  # noqa: PLR0913 (one argument an option)
    prompt: str,
    *,
    models: tuple[str, ...],
    url: str,
    system: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    mode: str,
    as_json: bool,
) -> None:
    r"""Send PROMPT to several models and show answers and costs side by side.

    \b
    triptych compare "Find me a restaurant in San Jose." \
        -m reference-transformer -m reference-ssm -m reference-hybrid
    """
    if len(models) < 2:  # noqa: PLR2004 (a comparison takes two)
        raise click.UsageError("name at least two models, each with -m")
    messages = [{"role": "system", "content": system}] if system else []
    body = {
        "messages": [*messages, {"role": "user", "content": prompt}],
        "arms": [{"model": model} for model in models],
        "mode": mode,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "stream": True,
    }
    console = Console()
    try:
        comparison = show(_events(url, body), [Arm(model) for model in models], console, as_json)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    if as_json:
        click.echo(json.dumps(comparison))
    if any(arm["error"] for arm in comparison["arms"]):
        sys.exit(1)


def show(
    events: Iterator[dict[str, Any]], arms: list[Arm], console: Console, quiet: bool
) -> dict[str, Any]:
    """Draw the events of a comparison as they arrive; return the comparison."""
    drawn = Live(
        get_renderable=lambda: columns(arms),
        console=console,
        refresh_per_second=FRAMES_PER_S,
    )
    with nullcontext() if quiet else drawn:
        for event in events:
            match event["object"]:
                case "comparison.started":
                    arms[event["arm"]].start()
                case "comparison.delta":
                    arms[event["arm"]].extend(event["text"], event["tokens"])
                case "comparison.arm":
                    arms[event["arm"]].finish(event)
                case _:
                    break
        else:
            raise click.ClickException("the service ended the comparison without its result")
    if not quiet:
        console.print(summary(event))
    return event


def _events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stream `POST /v1/compare`."""
    with (
        httpx.Client(base_url=url, timeout=httpx.Timeout(10, read=None)) as client,
        client.stream("POST", "/v1/compare", json=body) as answer,
    ):
        if answer.is_error:
            answer.read()
            raise refusal(answer)
        reader = SseReader()
        for received in answer.iter_bytes():
            for data in reader.push(received):
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if "error" in event and "object" not in event:
                    raise click.ClickException(event["error"]["message"])
                yield event
