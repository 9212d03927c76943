"""Throughput of one vLLM process, asked directly and through Triptych.

    python benchmarks/vllm_overhead.py --vllm-python .venv-vllm/bin/python

One service is started with one model on vLLM. Its vLLM is asked over its own UNIX socket, and
through the service's HTTP address, in turns (A B A B …), by the same client, with the same
streamed chat requests, `--streams` of them at once, each followed by the next. Rates are of
completion tokens, from the first request to the last answer. The last line of output is one JSON
document.
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from httpx_aiohttp import AiohttpTransport
from rich.console import Console
from rich.table import Table
from running_service import running_service

START_S = 1200
QUESTION = "Write down the numbers from {first} to 3000 in words, one after the other."
WAYS = ("direct", "triptych")


class Served(NamedTuple):
    """A running service, and the vLLM behind it."""

    address: str
    socket: Path
    model: str

    def client(self, way: str) -> httpx.AsyncClient:
        """HTTP client of vLLM itself, or of the service in front of it."""
        direct = way == "direct"
        return httpx.AsyncClient(
            transport=AiohttpTransport(
                uds=str(self.socket) if direct else None, limits=httpx.Limits(max_connections=0)
            ),
            base_url="http://vllm" if direct else self.address,
            timeout=600,
        )


@contextmanager
def served(options: argparse.Namespace) -> Iterator[Served]:
    """Start a service and wait until its model answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = [
            f"slots = {max(options.streams)}",
            f'preload = ["{options.model}"]',
            f'data_dir = "{folder / "data"}"',
            "[vllm]",
            f'python = "{Path(options.vllm_python).absolute()}"',
            f"kv_cache_bytes = {options.cache_mib << 20}",
            f"max_context_tokens = {options.context_tokens}",
            f"threads = {options.threads}",
            f"compile = {'false' if options.eager else 'true'}",
        ]
        (folder / "triptych.toml").write_text("\n".join(settings))
        if options.models_dir:
            (folder / "data").mkdir()
            (folder / "data" / "models").symlink_to(options.models_dir.absolute())
        config = ["--config", str(folder / "triptych.toml")]
        with running_service(folder, *config, start_s=START_S) as service:
            (socket,) = (folder / "data" / "run").glob("vllm-*.sock")
            yield Served(service.address, socket, options.model)


async def ask(client: httpx.AsyncClient, model: str, first: int, tokens: int) -> tuple[int, float]:
    """Read one streamed answer: number of tokens, and TTFT in seconds."""
    body = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": QUESTION.format(first=first)}],
    }
    begun, began_s, last = time.perf_counter(), 0.0, b""
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            began_s = began_s or time.perf_counter() - begun
            last = last[-4000:] + piece
    usage = re.search(rb'"completion_tokens":\s*(\d+)', last[last.rfind(b'"usage"') :])
    assert usage is not None, last[-500:]
    return int(usage[1]), began_s


async def measure(where: Served, way: str, streams: int, options: argparse.Namespace) -> Any:  # noqa: ANN401
    """Tokens per second of `streams` closed-loop clients."""
    async with where.client(way) as client:

        async def one(number: int) -> list[tuple[int, float]]:
            return [
                await ask(client, where.model, number * 100 + turn, options.tokens)
                for turn in range(options.turns)
            ]

        await asyncio.gather(*(ask(client, where.model, n, 8) for n in range(streams)))  # warm-up
        begun = time.perf_counter()
        answers = list(chain.from_iterable(await asyncio.gather(*map(one, range(streams)))))
        seconds = time.perf_counter() - begun
    tokens = sum(answer[0] for answer in answers)
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "first_piece_s": statistics.median(answer[1] for answer in answers),
    }


def compare(where: Served, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians and ratios by number of streams; direct and proxied rounds alternate."""
    rows = []
    for streams in options.streams:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(asyncio.run(measure(where, way, streams, options)))
        rates, begins = (
            {way: statistics.median(run[name] for run in runs[way]) for way in WAYS}
            for name in ("tokens_per_s", "first_piece_s")
        )
        pairs = zip(runs["direct"], runs["triptych"], strict=True)
        rows.append(
            {
                "streams": streams,
                "tokens_per_s": rates,
                "first_piece_s": begins,
                "ratio": rates["triptych"] / rates["direct"],
                "ratios": [ours["tokens_per_s"] / theirs["tokens_per_s"] for theirs, ours in pairs],
                "runs": runs,
            }
        )
    return rows


def main() -> None:
    """Start, measure, print."""
    options = _options()
    with served(options) as where:
        rows = compare(where, options)
    table = Table("streams", "direct tokens/s", "through Triptych", "ratio", "each round")
    for row in rows:
        table.add_row(
            str(row["streams"]),
            *(f"{row['tokens_per_s'][way]:.1f}" for way in WAYS),
            f"{row['ratio']:.3f}",
            " ".join(f"{ratio:.3f}" for ratio in row["ratios"]),
        )
    Console().print(table)
    document = {
        "benchmark": "vllm_overhead",
        "model": options.model,
        "compiled": not options.eager,
        "tokens": options.tokens,
        "turns": options.turns,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python")
    parser.add_argument("--model", default="smollm2-135m-instruct:vllm")
    parser.add_argument("--models-dir", type=Path, help="pulled models, for example data/models")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="length of an answer")
    parser.add_argument("--turns", type=int, default=2, help="answers of a stream in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache-mib", type=int, default=2048)
    parser.add_argument("--context-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
