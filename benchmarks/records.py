"""The record log at length: summaries, pages and exports of a million rows, and a chat beside them.

Rows are written through the store that the service uses, into the data folder of a real
`triptych serve` with the echo engine. Peak memory is the process's high-water mark above its idle
size. For the chat, summaries are asked for again and again by clients that hang up after 0.3 s. The
last line of output is one JSON document with the same data.

    python benchmarks/records.py
    python benchmarks/records.py --rows 100000 --no-export
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from running_service import RunningService, running_service

from service.core.events import ModelBuild, StateBytes
from service.core.ids import uuid7
from service.core.metrics import percentile
from service.core.record import RequestRecord
from service.storage import open_store

MODEL = """
id = "echo"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 65536
sources = []
engine = "echo"
[architecture]
itl_ms = {itl_ms}
"""
START_S = 60
BATCH_ROWS = 5000
FAMILIES = {"reference-transformer": "transformer", "reference-ssm": "ssm", "mixed": "hybrid"}
STATUSES = ["ok"] * 19 + ["cancelled"]
MIB = 2**20


def record(number: int, at_ns: int, draw: random.Random) -> RequestRecord:
    """A plausible request: one of three models, 19 of 20 answered whole."""
    model, family = list(FAMILIES.items())[number % 3]
    tokens = draw.randint(1, 400)
    queued_ns = number * 1000 + draw.randint(10_000, 1_000_000)
    scheduled_ns = queued_ns + int(draw.expovariate(1 / 3e6))
    first_ns = scheduled_ns + int(draw.lognormvariate(17, 1))
    last_ns = first_ns + int((tokens - 1) * draw.lognormvariate(15.5, 0.3))
    return RequestRecord(
        request_id=f"req-{uuid7()}",
        phase="final",
        status=draw.choice(STATUSES),
        endpoint="chat",
        stream=True,
        requested_model=model,
        model=model,
        family=family,
        route="direct",
        route_reason="named by the request",
        finish_reason="stop",
        verified=True,
        accepted_at_ns=at_ns,
        accepted_ns=number * 1000,
        queued_ns=queued_ns,
        scheduled_ns=scheduled_ns,
        first_ns=first_ns,
        last_ns=last_ns,
        closed_ns=last_ns + 100_000,
        itl_p50_ns=5_000_000,
        itl_p95_ns=6_000_000,
        itl_p99_ns=7_000_000,
        itl_max_ns=9_000_000,
        prompt_tokens=2 * tokens,
        cached_tokens=0,
        completion_tokens=tokens,
        completion_bytes=4 * tokens,
        state=StateBytes(
            attention_kv_bytes=4096 * tokens,
            window_kv_bytes=0,
            ssm_state_bytes=1_000_000,
            conv_state_bytes=30_000,
            reserved_bytes=2_000_000,
        ),
        co_scheduled=3,
        build=ModelBuild(
            weights_sha256="a" * 64,
            dtype="bfloat16",
            quantization=None,
            engine="torch",
            engine_version="1",
            device="cpu",
            kernel_path="compiled",
            state_source="measured",
        ),
        sampling={"temperature": 0.0},
    )


def fill(file: Path, rows: int) -> dict:
    """Write the rows and pack them."""
    draw, at_ns = random.Random(0), 1_795_000_000_000_000_000
    begun = time.perf_counter()
    with closing(open_store(f"sqlite:///{file}")) as store:
        for begin in range(0, rows, BATCH_ROWS):
            batch = []
            for number in range(begin, min(rows, begin + BATCH_ROWS)):
                at_ns += draw.randint(1_000_000, 200_000_000)
                batch.append(record(number, at_ns, draw))
            store.write(batch)
        written_s = time.perf_counter() - begun
        while store.compact():
            pass
    return {
        "rows": rows,
        "write_s": written_s,
        "pack_s": time.perf_counter() - begun - written_s,
        "file_bytes": file.stat().st_size,
    }


def status_bytes(pid: int, name: str) -> int:
    """A size in /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measured(
    service: RunningService, idle_bytes: int, repeats: int, ask: Callable[[httpx.Client], int]
) -> dict:
    """Median time, the answer's bytes, and the most memory above what the service had at first."""
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")  # the mark begins anew
    times_s = []
    with httpx.Client(base_url=service.address, timeout=600) as client:
        for _ in range(repeats):
            begun = time.perf_counter()
            answer_bytes = ask(client)
            times_s.append(time.perf_counter() - begun)
    return {
        "median_s": statistics.median(times_s),
        "times_s": times_s,
        "answer_bytes": answer_bytes,
        "peak_above_idle_bytes": status_bytes(service.pid, "VmHWM") - idle_bytes,
    }


def get(path: str) -> Callable[[httpx.Client], int]:
    """Reads an answer to its end, without keeping it."""

    def ask(client: httpx.Client) -> int:
        with client.stream("GET", path) as answer:
            answer.raise_for_status()
            return sum(map(len, answer.iter_bytes()))

    return ask


def pages(count: int) -> Callable[[httpx.Client], int]:
    """Follows cursors."""

    def ask(client: httpx.Client) -> int:
        size, cursor = 0, None
        for _ in range(count):
            query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            answer = client.get("/v1/records", params=query).raise_for_status()
            size, cursor = size + len(answer.content), answer.json()["next_cursor"]
            if cursor is None:
                break
        return size

    return ask


def chat_gaps_ms(address: str, words: int) -> list[float]:
    """Milliseconds between the chunks of one streamed answer."""
    body = {
        "model": "echo",
        "stream": True,
        "max_tokens": words,
        "messages": [{"role": "user", "content": "word " * words}],
    }
    with (
        httpx.Client(base_url=address, timeout=120) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        answer.raise_for_status()
        stamps = [time.perf_counter() for line in answer.iter_lines() if line.startswith("data: {")]
    return [(after - before) * 1e3 for before, after in itertools.pairwise(stamps)]


async def abandon(address: str, summaries: int, patience_s: float) -> Counter[str]:
    """Ask for summaries and hang up; how they ended."""
    ends: Counter[str] = Counter()

    async def one(client: httpx.AsyncClient) -> None:
        try:
            answer = await client.get("/v1/records/summary")
            ends[str(answer.status_code)] += 1
            if not answer.is_success:
                await asyncio.sleep(patience_s)
        except httpx.TimeoutException:
            ends["abandoned"] += 1

    async with httpx.AsyncClient(base_url=address, timeout=patience_s, verify=False) as client:
        await asyncio.gather(*(one(client) for _ in range(summaries)))
    return ends


def beside_a_chat(service: RunningService, words: int, summaries: int, at_once: int) -> dict:
    """Gaps of a chat alone, and beside summaries that are abandoned."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client:
        client.submit(chat_gaps_ms, service.address, 32).result()  # warm-up
        alone = client.submit(chat_gaps_ms, service.address, words).result()
        beside: list[float] = []
        ends: Counter[str] = Counter()
        while ends.total() < summaries:
            chat = client.submit(chat_gaps_ms, service.address, words)
            while not chat.done() and ends.total() < summaries:
                ends += asyncio.run(abandon(service.address, at_once, 0.3))
            beside += chat.result()
    return {
        "summaries": dict(ends),
        "alone": {share: percentile(alone, share) for share in (0.5, 0.99, 1.0)},
        "beside": {share: percentile(beside, share) for share in (0.5, 0.99, 1.0)},
    }


def main() -> None:
    """Fill, serve, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--summaries", type=int, default=100, help="abandoned beside the chat")
    parser.add_argument("--at-once", type=int, default=4, help="of them at one time")
    parser.add_argument("--itl-ms", type=float, default=10.0, help="of the echo engine")
    parser.add_argument("--words", type=int, default=512, help="of each chat")
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()

    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo.toml").write_text(MODEL.format(itl_ms=options.itl_ms))
        (folder / "data").mkdir()
        filled = fill(folder / "data" / "records.db", options.rows)
        console.print(
            f"{filled['rows']:,} rows written in {filled['write_s']:.0f} s and packed in "
            f"{filled['pack_s']:.0f} s: {filled['file_bytes'] / MIB:.0f} MiB"
        )
        serve = ["--models", name, "--data-dir", str(folder / "data"), "--preload", "echo"]
        with running_service(folder, *serve, start_s=START_S) as service:
            asks = {
                "summary": (options.repeats, get("/v1/records/summary")),
                "summary, window=1h": (options.repeats, get("/v1/records/summary?window=1h")),
                "summary of one model": (
                    options.repeats,
                    get("/v1/records/summary?model=reference-ssm"),
                ),
                "page of 100": (options.repeats, get("/v1/records?limit=100")),
                "50 pages of 100": (options.repeats, pages(50)),
            }
            if options.export:
                asks |= {
                    f"export as {form}": (1, get(f"/v1/records/export?format={form}"))
                    for form in ("jsonl", "csv", "parquet")
                }
            idle_bytes = status_bytes(service.pid, "VmRSS")
            rows = {name: measured(service, idle_bytes, *ask) for name, ask in asks.items()}
            chat = beside_a_chat(service, options.words, options.summaries, options.at_once)

    table = Table("read", "median s", "answer MiB", "peak above idle MiB", title="records")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['median_s']:.3f}",
            f"{row['answer_bytes'] / MIB:.2f}",
            f"{row['peak_above_idle_bytes'] / MIB:.0f}",
        )
    console.print(table)
    table = Table("gap between chunks", "p50 ms", "p99 ms", "max ms", title="a chat beside them")
    for name in ("alone", "beside"):
        table.add_row(name, *(f"{value:.2f}" for value in chat[name].values()))
    console.print(table, chat["summaries"])
    print(json.dumps({"benchmark": "records", "filled": filled, "reads": rows, "chat": chat}))


if __name__ == "__main__":
    main()
