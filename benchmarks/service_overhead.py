"""CPU time that the service process spends per streamed token.

The echo engine answers at once, so everything that is counted is HTTP, serving, recording and SSE.
With `--remote` a second service stands before it, whose model is the first one's: the cost of a
token that another server generated. CPU time is read from /proc and not from the clock, so that
the client beside it does not count. The last line of output is one JSON document with the data.

    python benchmarks/service_overhead.py --streams 1 8 32
    python benchmarks/service_overhead.py --streams 1 8 32 --remote --itl-ms 20
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from running_service import RunningService, running_service

MODEL = """
id = "echo"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 65536
sources = []
"""
ECHO = """
engine = "echo"
[architecture]
itl_ms = {itl_ms}
"""
REMOTE = """
engine = "openai"
[remote]
base_url = "{base_url}/v1"
"""
START_S = 60
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def stream(client: httpx.AsyncClient, words: int) -> int:
    """Read one streamed answer and return its number of tokens."""
    body = {
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": words,
        "messages": [{"role": "user", "content": "word " * words}],
    }
    tokens = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and '"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return tokens


async def measure(base_url: str, pid: int, streams: int, words: int, repeats: int) -> dict:
    """CPU microseconds of the service per token at `streams` concurrent streams."""
    async with httpx.AsyncClient(base_url=base_url, timeout=120, limits=httpx.Limits()) as client:
        await asyncio.gather(*(stream(client, 32) for _ in range(streams)))  # warm-up
        before_s, begun = cpu_s(pid), time.perf_counter()
        tokens = 0
        for _ in range(repeats):
            tokens += sum(await asyncio.gather(*(stream(client, words) for _ in range(streams))))
        return {
            "streams": streams,
            "tokens": tokens,
            "cpu_us_per_token": (cpu_s(pid) - before_s) * 1e6 / tokens,
            "tokens_per_s": tokens / (time.perf_counter() - begun),
        }


@contextmanager
def service(model: str) -> Iterator[RunningService]:
    """A service with one loaded model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo.toml").write_text(MODEL + model)
        options = ["--models", name, "--data-dir", str(folder / "data"), "--preload", "echo"]
        with running_service(folder, *options, start_s=START_S) as running:
            yield running


def main() -> None:
    """Start the service, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--words", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--remote", action="store_true", help="a second service before the first")
    parser.add_argument("--itl-ms", type=float, default=0.0, help="pause between two tokens")
    options = parser.parse_args()

    with ExitStack() as stack:
        base_url, pid = stack.enter_context(service(ECHO.format(itl_ms=options.itl_ms)))
        if options.remote:
            base_url, pid = stack.enter_context(service(REMOTE.format(base_url=base_url)))
        rows = []
        for streams in options.streams:
            runs = [
                asyncio.run(measure(base_url, pid, streams, options.words, options.repeats))
                for _ in range(options.runs)
            ]
            rows.append(
                {
                    "streams": streams,
                    "cpu_us_per_token": statistics.median(r["cpu_us_per_token"] for r in runs),
                    "tokens_per_s": statistics.median(r["tokens_per_s"] for r in runs),
                    "runs": runs,
                }
            )

    engine = "another server" if options.remote else "echo engine"
    table = Table("streams", "CPU µs/token", "tokens/s", title=f"service overhead, {engine}")
    for row in rows:
        table.add_row(
            str(row["streams"]), f"{row['cpu_us_per_token']:.1f}", f"{row['tokens_per_s']:.0f}"
        )
    Console().print(table)
    print(json.dumps({"benchmark": "service_overhead", "rows": rows}))


if __name__ == "__main__":
    main()
