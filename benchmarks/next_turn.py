"""Measure the second turn of a chat with and without the prefix cache.

    python benchmarks/next_turn.py --models smollm2-135m-instruct reference-ssm --tokens 1000

For every repetition a conversation of its own is begun with a message of about `--tokens` tokens,
and answered. Then the second turn, all of it and a short question, is asked twice, in alternating
order: with the cache and with `prefix_cache: false`; nothing else runs. TTFT is the client's, from
sending to the first streamed text. Both answers are greedy and must be the same text. Prints
Markdown; the last line of output is JSON.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.running_service import running_service  # noqa: E402

MODELS = (
    "smollm2-135m-instruct",
    "reference-transformer",
    "reference-ssm",
    "reference-hybrid",
)
START_S = 300.0
WORDS = (
    *("the", "old", "town", "lies", "on", "a", "hill", "above", "river", "and", "its", "market"),
    *("opens", "early", "in", "morning", "when", "boats", "bring", "fruit", "fish", "flowers"),
    *("from", "villages", "along", "both", "banks", "of", "water", "as", "they", "always", "did"),
)
QUESTION = "And what happens there in the evening?"
COLUMNS = {
    "model": "model",
    "prompt_tokens": "prompt tokens",
    "cached_tokens": "restored",
    "without_ms": "TTFT without, ms",
    "with_ms": "TTFT with, ms",
    "ratio": "ratio of medians",
    "restore_ms": "of it the copy, ms",
    "snapshot_bytes": "stored by the first turn, MB",
    "same_text": "same text",
}


class Bench:
    """A running service, asked one request at a time."""

    def __init__(self, address: str, model: str, answer_tokens: int) -> None:
        self._http = httpx.Client(base_url=address, timeout=600)
        self._model = model
        self._answer_tokens = answer_tokens

    def text_of(self, tokens: int, seed: int) -> str:
        """Words for about so many tokens, of its own from the first word on."""
        drawn = random.Random(seed)
        words = [drawn.choice(WORDS) for _ in range(tokens)]
        reply = self._http.post(f"/m/{self._model}/tokenize", json={"prompt": " ".join(words)})
        reply.raise_for_status()
        return " ".join(words[: max(1, round(tokens * tokens / reply.json()["count"]))])

    def ask(self, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:  # noqa: ANN401
        """Stream an answer: its text, TTFT in milliseconds, and its record."""
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._answer_tokens,
            "stream": True,
            **fields,
        }
        began, first, text = time.perf_counter(), None, ""
        with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if not reply.is_success:
                raise SystemExit(reply.read().decode())
            request_id = reply.headers["x-request-id"]
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    piece = choice["delta"].get("content") or ""
                    if piece and first is None:
                        first = time.perf_counter()
                    text += piece
        if first is None:
            raise SystemExit(f"{self._model} answered without text")
        return {"text": text, "ttft_ms": (first - began) * 1e3, "record": self._record(request_id)}

    def _record(self, request_id: str) -> dict[str, Any]:
        while True:
            record = self._http.get(f"/v1/records/{request_id}").json()
            if record.get("phase") == "final":
                return record
            time.sleep(0.01)


def measure(bench: Bench, *, tokens: int, repetition: int) -> dict[str, Any]:
    """Measure one conversation: a first turn, and its second with and without the cache."""
    salt = uuid.uuid4().hex  # earlier repetitions have nothing to do with this one
    first = [{"role": "user", "content": bench.text_of(tokens, repetition)}]
    answer = bench.ask(first, cache_salt=salt)
    said = {"role": "assistant", "content": answer["text"]}
    second = [*first, said, {"role": "user", "content": QUESTION}]
    ways: list[dict[str, Any]] = [{"cache_salt": salt}, {"prefix_cache": False}]
    order = (0, 1) if repetition % 2 else (1, 0)
    found = {way: bench.ask(second, **ways[way]) for way in order}
    cached, whole = found[0], found[1]
    return {
        "prompt_tokens": cached["record"]["prompt_tokens"],
        "cached_tokens": cached["record"]["cached_tokens"],
        "cache_miss": cached["record"]["prefix"]["cache_miss"],
        "restore_ms": (cached["record"]["prefix"]["restore_ns"] or 0) / 1e6,
        "snapshot_bytes": answer["record"]["state"]["snapshot_bytes"],
        "with_ms": cached["ttft_ms"],
        "without_ms": whole["ttft_ms"],
        "same_text": cached["text"] == whole["text"],
    }


def summary(model: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions."""
    names = ("prompt_tokens", "cached_tokens", "restore_ms", "snapshot_bytes", "with_ms")
    row: dict[str, Any] = {"model": model}
    row |= {
        name: statistics.median(trial[name] for trial in trials) for name in (*names, "without_ms")
    }
    row["ratio"] = row["without_ms"] / row["with_ms"]
    row["same_text"] = all(trial["same_text"] for trial in trials)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [" | ".join(COLUMNS.values()), " | ".join("---" for _ in COLUMNS)]
    for row in rows:
        shown = {**row, "snapshot_bytes": row["snapshot_bytes"] / 1e6}
        cells = [shown[name] for name in COLUMNS]
        lines.append(
            " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--data-dir", type=Path, help="of pulled models; default: a new folder")
    parser.add_argument("--tokens", type=int, default=1000, help="of the first message")
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or Path(folder)
        words = ["--data-dir", str(data_dir)]
        words += [word for model in options.models for word in ("--preload", model)]
        with running_service(Path(folder), *words, start_s=START_S) as service:
            for model in options.models:
                bench = Bench(service.address, model, options.answer_tokens)
                measure(bench, tokens=options.tokens, repetition=0)  # kernels compile
                trials = [
                    measure(bench, tokens=options.tokens, repetition=1 + number)
                    for number in range(options.repetitions)
                ]
                results[model] = trials
                rows.append(summary(model, trials))
                print(rows[-1], file=sys.stderr)
    print(table(rows))
    print(json.dumps({"tokens": options.tokens, "trials": results}))


if __name__ == "__main__":
    main()
