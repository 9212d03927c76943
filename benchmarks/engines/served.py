"""Compares servers over HTTP: the same chat requests to each, streams that begin together.

    python benchmarks/engines/served.py --server triptych transformers vllm

What a user sees: HTTP, templates, scheduling and detokenizing, which `run.py` leaves out.
Servers take turns (A B A B …), each started afresh and asked once before the clock runs. The rate
is that of all tokens but each stream's first, from the earliest first token to the latest last one.
The last line of output is one JSON document.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from contestants import THREAD_VARIABLES
from models import folder
from rich.console import Console
from rich.table import Table

CATALOGUE = """
id = "benchmark"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 4096
sources = [{{ kind = "folder", path = "{path}" }}]
"""
START_S = 600
QUESTION = "Write down the numbers from {first} to 3000 in words, one after the other."


class Server(NamedTuple):
    """How a server is started, and where it tells that it is ready."""

    command: list[str]
    environment: dict[str, str]
    ready: str
    model: str
    """The name that requests give."""


def server(name: str, port: int, scratch: Path, options: argparse.Namespace) -> Server:
    """A server by name. Raises SystemExit where its interpreter is not given."""
    path = str(folder(options.model))
    streams = str(max(options.streams))
    if name == "triptych":
        (scratch / "benchmark.toml").write_text(CATALOGUE.format(path=path))
        command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
        command += ["--models", str(scratch), "--preload", "benchmark"]
        command += ["--data-dir", str(scratch / "data")]
        return Server(command, {}, "/ready", "benchmark")
    python = _interpreter(name, options)
    if name == "transformers":
        command = [python, "-m", "transformers.cli.transformers", "serve", path]
        command += ["--continuous-batching", "--dtype", "bfloat16", "--port", str(port)]
        command += ["--cb-num-blocks", "1024", "--host", "127.0.0.1"]
        return Server(command, {"OMP_NUM_THREADS": str(options.threads)}, "/health", path)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: options.threads]))
    command = [python, "-m", "vllm.entrypoints.cli.main", "serve", path]
    command += ["--dtype", "bfloat16", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--max-model-len", "4096", "--max-num-seqs", streams]
    command += ["--no-enable-prefix-caching"]
    library = Path(python).parents[1] / "lib" / "libiomp5.so"
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if library.is_file():
        environment["LD_PRELOAD"] = str(library)
    return Server(command, environment, "/health", path)


def _interpreter(name: str, options: argparse.Namespace) -> str:
    pythons = {
        "triptych": sys.executable,
        "transformers": options.serve_python,
        "vllm": options.vllm_python,
    }
    python: str | None = pythons[name]
    if not python:
        raise SystemExit(f"{name} needs the path of an interpreter that has it; see --help")
    return python


@contextmanager
def running(started: Server, port: int, scratch: Path) -> Iterator[tuple[str, float]]:
    """The server's address and the seconds until it was ready."""
    shell = {
        key: value for key, value in os.environ.items() if not key.startswith(THREAD_VARIABLES)
    }
    address = f"http://127.0.0.1:{port}"
    begun = time.perf_counter()
    with (scratch / "log").open("w") as log:
        process = subprocess.Popen(
            started.command,
            stdout=log,
            stderr=log,
            env={**shell, "HF_HUB_OFFLINE": "1", **started.environment},
            start_new_session=True,
        )
    try:
        while not _is_ready(f"{address}{started.ready}"):
            if process.poll() is not None or time.perf_counter() - begun > START_S:
                raise SystemExit((scratch / "log").read_text()[-2000:])
            time.sleep(0.1)
        yield address, time.perf_counter() - begun
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # workers that outlive their parent
            os.killpg(process.pid, signal.SIGKILL)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


async def ask(client: httpx.AsyncClient, model: str, first: int, tokens: int) -> dict[str, float]:
    """One streamed answer: its tokens, when it was asked for, when it began and ended."""
    body = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION.format(first=first)}],
    }
    begun = time.perf_counter()
    stamps: list[float] = []
    answered = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in event["choices"]):
                stamps.append(time.perf_counter())
            if event.get("usage"):
                answered = event["usage"]["completion_tokens"]
    return {"tokens": answered, "asked": begun, "first": stamps[0], "last": stamps[-1]}


async def measure(address: str, model: str, streams: int, tokens: int) -> dict[str, float]:
    """Decode rate of all streams, and the median time to the first token."""
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        await ask(client, model, 1, 8)  # warm-up
        answers = await asyncio.gather(
            *(ask(client, model, stream + 1, tokens) for stream in range(streams))
        )
    tokens_total = sum(answer["tokens"] for answer in answers)
    last = max(answer["last"] for answer in answers)
    first = min(answer["first"] for answer in answers)
    waits = (answer["first"] - answer["asked"] for answer in answers)
    return {
        "tokens_per_s": (tokens_total - streams) / (last - first),
        "first_token_s": statistics.median(waits),
        "tokens": tokens_total,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Servers in turn, `--runs` times; medians and ratios."""
    options = _options()
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    starts: dict[str, list[float]] = {name: [] for name in options.server}
    for _ in range(options.runs):
        for name in options.server:
            with tempfile.TemporaryDirectory() as folder_name:
                scratch, port = Path(folder_name), _free_port()
                started = server(name, port, scratch, options)
                with running(started, port, scratch) as (address, start_s):
                    starts[name].append(start_s)
                    for streams in options.streams:
                        run = asyncio.run(measure(address, started.model, streams, options.tokens))
                        runs.setdefault((name, streams), []).append(run)
    rows = [
        {
            "streams": streams,
            "tokens_per_s": {name: _median(runs[name, streams], "tokens_per_s") for name in starts},
            "first_token_s": {
                name: _median(runs[name, streams], "first_token_s") for name in starts
            },
            "runs": {name: runs[name, streams] for name in starts},
        }
        for streams in options.streams
    ]
    Console().print(_table(rows, options.server))
    document = {
        "benchmark": "served",
        "model": options.model,
        "threads": options.threads,
        "versions": {name: _versions(name, options) for name in options.server},
        "start_s": {name: statistics.median(values) for name, values in starts.items()},
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def _versions(name: str, options: argparse.Namespace) -> dict[str, str]:
    """The versions of what a server computes with."""
    packages = ("torch", "transformers", *(["vllm-cpu"] if name == "vllm" else []))
    script = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run(
        [_interpreter(name, options), "-c", script, *packages],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(zip(packages, done.stdout.split(), strict=True))


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _table(rows: list[dict[str, Any]], servers: list[str]) -> Table:
    """Rates; in brackets, how many times as fast the first server is."""
    table = Table("streams", *servers, title="decode tokens/s over HTTP (time to the first token)")
    for row in rows:
        rates, waits = row["tokens_per_s"], row["first_token_s"]
        table.add_row(
            str(row["streams"]),
            *(
                f"{rates[name]:.0f} ×{rates[servers[0]] / rates[name]:.2f} ({waits[name]:.2f} s)"
                for name in servers
            ),
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["triptych", "transformers", "vllm"]
    parser.add_argument("--server", nargs="+", choices=names, default=names)
    parser.add_argument("--model", default="smollm2-135m", help="one with a chat template")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm-python", default=os.environ.get("TRIPTYCH_VLLM_PYTHON"))
    parser.add_argument(
        "--serve-python",
        default=os.environ.get("TRIPTYCH_SERVE_PYTHON"),
        help="a Python with transformers[serving] and accelerate",
    )
    parser.add_argument("--out", type=Path, help="write the JSON document here as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
