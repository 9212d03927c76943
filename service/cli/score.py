"""`triptych score`: log-probability and bits per byte of texts by several models."""

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from service.cli.running_service import refusal, unreachable, url_option
from service.core.errors import InvalidRequest
from service.core.probes.minimal_pairs import MinimalPair, judged, pair_results, read_pairs
from service.core.probes.minimal_pairs import texts_of as sentences_of
from service.core.scores.score import TextScore, summed

#: A request's share of the texts: far below the service's largest body and number of texts.
TEXTS_AT_ONCE: Final = 256
BYTES_AT_ONCE: Final = 256 * 1024


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-m", "--model", "models", multiple=True, required=True, help="Model that scores.")
@click.option("--jsonl", is_flag=True, help="FILE has one JSON object a line, with `text`.")
@click.option("--pairs", is_flag=True, help="FILE has minimal pairs, as BLiMP's JSON Lines.")
@click.option("--window-tokens", type=click.IntRange(min=2), help="Longest window in tokens.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one JSON document.")
def score(
    file: Path,
    *,
    models: tuple[str, ...],
    jsonl: bool,
    pairs: bool,
    window_tokens: int | None,
    url: str,
    as_json: bool,
) -> None:
    r"""Score FILE, a text (or .gz), by each model: bits per byte, comparable across tokenizers.

    \b
    triptych score text.txt -m reference-transformer -m reference-ssm
    triptych score --pairs blimp.jsonl -m reference-hybrid
    """
    minimal = _pairs(file) if pairs else ()
    texts = sentences_of(minimal) if pairs else _texts(file, jsonl=jsonl)
    answer: dict[str, Any] | None = None
    try:
        for batch in _batches(texts):
            asked = {"models": models, "texts": batch, "window_tokens": window_tokens}
            answer = _joined(answer, _ask(url, asked))
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    assert answer is not None  # there is a text
    for model in answer["models"]:
        if pairs and model["error"] is None:
            model["pairs"] = _judge(minimal, model["texts"])
    if as_json:
        click.echo(json.dumps(answer))
    else:
        console = Console()
        console.print(_pair_table(answer) if pairs else _table(answer))
        for model in answer["models"]:
            if model["error"]:
                console.print(f"{model['model']}: {model['error']['message']}", style="red")
    if any(model["error"] for model in answer["models"]):
        sys.exit(1)


def _content(file: Path) -> str:
    try:
        read = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return read.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from error


def _pairs(file: Path) -> tuple[MinimalPair, ...]:
    try:
        found = read_pairs(_content(file).split("\n"))
    except InvalidRequest as error:
        raise click.ClickException(f"{file}: {error}") from error
    if not found:
        raise click.ClickException(f"{file}: there are no pairs in it")
    return found


def _texts(file: Path, *, jsonl: bool) -> tuple[str, ...]:
    content = _content(file)
    texts = (content,)
    if jsonl:
        lines = [line for line in content.split("\n") if line.strip()]
        try:
            texts = tuple(msgspec.json.decode(line, type=dict[str, Any])["text"] for line in lines)
        except (msgspec.DecodeError, KeyError) as error:
            raise click.ClickException(f"{file}: each line has a `text`: {error}") from error
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise click.ClickException(f"{file}: there is an empty text in it, or none")
    return texts


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Split texts into requests of few enough texts and bytes; a text is never cut here."""
    batch: list[str] = []
    size_bytes = 0
    for text in texts:
        text_bytes = len(text.encode())
        if batch and (len(batch) == TEXTS_AT_ONCE or size_bytes + text_bytes > BYTES_AT_ONCE):
            yield batch
            batch, size_bytes = [], 0
        batch.append(text)
        size_bytes += text_bytes
    yield batch


def _ask(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(
        f"{url.rstrip('/')}/v1/score", json=asked, timeout=httpx.Timeout(10, read=None)
    )
    if answer.is_error:
        raise refusal(answer)
    found: dict[str, Any] = answer.json()
    return found


def _joined(so_far: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """Add the texts of another request; a model that failed once has failed."""
    if so_far is None:
        return more
    for ours, theirs in zip(so_far["models"], more["models"], strict=True):
        ours["error"] = ours["error"] or theirs["error"]
        ours["texts"] += theirs["texts"]
        if ours["error"]:
            ours["texts"], ours["total"] = [], None
        else:
            ours["total"] = msgspec.to_builtins(summed(_scores(ours["texts"])))
    first = so_far["models"][0]
    for ours in so_far["models"][1:]:
        ours["difference"] = None
        if ours["total"] and first["total"]:
            ours["difference"] = {
                "texts": [
                    a["bits_per_byte"] - b["bits_per_byte"]
                    for a, b in zip(ours["texts"], first["texts"], strict=True)
                ],
                "total": ours["total"]["bits_per_byte"] - first["total"]["bits_per_byte"],
            }
    return so_far


def _scores(texts: list[dict[str, Any]]) -> list[TextScore]:
    return msgspec.convert(texts, list[TextScore])


def _judge(pairs: Sequence[MinimalPair], texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.to_builtins(pair_results(pairs, judged(_scores(texts))))
    return found


def _table(answer: dict[str, Any]) -> Table:
    """Tabulate totals by model."""
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    for name in ("bits/byte", "to first", "log p", "bytes", "tokens", "windows"):
        table.add_column(name, justify="right")
    for model in answer["models"]:
        total = model["total"]
        if total is None:
            table.add_row(model["model"], *["–"] * 6)
            continue
        difference = model["difference"]
        table.add_row(
            model["model"],
            f"{total['bits_per_byte']:.4f}",
            f"{difference['total']:+.4f}" if difference else "–",
            f"{total['log_probability']:,.1f}",
            f"{total['bytes']:,}",
            f"{total['tokens']:,}",
            f"{total['windows']:,}",
        )
    return table


def _pair_table(answer: dict[str, Any]) -> Table:
    """Tabulate accuracy by group and model."""
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    table.add_column("pairs", justify="right")
    judging = [model for model in answer["models"] if "pairs" in model]
    for model in judging:
        table.add_column(model["model"], justify="right")
    for results in zip(*(model["pairs"] for model in judging), strict=True):
        table.add_row(
            results[0]["group"] or "all pairs",
            str(results[0]["pairs"]),
            *(f"{result['accuracy']:.1%}" for result in results),
        )
    return table
