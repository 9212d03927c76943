"""What every competitor is asked and how it is measured, with the standard library alone.

Competitors run under interpreters of their own, so this module imports nothing that one of them
could lack. A competitor implements `Engine` and ends with `measure(open_engine)`.
"""

import argparse
import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

#: Decode steps that run before the clock does.
WARMUP_STEPS = 2
#: Answers that are compared between engines, to see that all compute the same. They are many and
#: short, because a near tie that rounding decides changes all that follows it.
CHECK_PROMPTS, CHECK_PROMPT_TOKENS, CHECK_NEW_TOKENS = 16, 64, 2

Tokens = Sequence[int]


class Engine(Protocol):
    """One loaded model of one competitor."""

    versions: dict[str, str]
    settings: dict[str, Any]
    """What a reader must know to judge the numbers: threads, kernels, batch limits."""

    def greedy(self, prompt: Tokens, new_tokens: int) -> list[int]:
        """The most probable continuation; an end token does not end it."""

    def decode_s(self, prompts: Sequence[Tokens], steps: int) -> float:
        """Seconds of `steps` decode steps after the prompts and `WARMUP_STEPS`, all streams."""


def measure(
    open_engine: Callable[[argparse.Namespace], Engine],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Open the engine, measure every point, print one JSON line.

    Points of a longer context come later, so that memory which an engine keeps is not counted
    against a smaller one.
    """
    options = _read_options(add_options)
    with peak_memory() as loading:
        engine = open_engine(options)
        engine.greedy(prompt(CHECK_PROMPT_TOKENS, 0), 1)
        first_token_s = seconds_since_start()
    answers = [
        engine.greedy(prompt(CHECK_PROMPT_TOKENS, seed), CHECK_NEW_TOKENS)
        for seed in range(CHECK_PROMPTS)
    ]
    document = {
        "first_token_s": first_token_s,
        "first_token_peak_rss_bytes": loading[0],
        "check_answers": answers,
        "prefill": [_prefill(engine, tokens, options.repeats) for tokens in options.prefill],
        "decode": [
            _decode(engine, streams, context, options.steps)
            for context in sorted(options.contexts)
            for streams in sorted(options.streams)
        ],
        "versions": engine.versions,
        "settings": {"threads": options.threads, "dtype": options.dtype, **engine.settings},
    }
    print(json.dumps(document), flush=True)


def _prefill(engine: Engine, tokens: int, repeats: int) -> dict[str, Any]:
    """A lone prompt until its first token; the first of the repeats is not counted."""
    seconds = []
    with peak_memory() as peak:
        for repeat in range(repeats + 1):
            ids = prompt(tokens, repeat)
            begun = time.perf_counter()
            engine.greedy(ids, 1)
            seconds.append(time.perf_counter() - begun)
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / statistics.median(seconds[1:] or seconds),
        "seconds": seconds,
        "peak_rss_bytes": peak[0],
    }


def _decode(engine: Engine, streams: int, context: int, steps: int) -> dict[str, Any]:
    with peak_memory() as peak:
        seconds = engine.decode_s([prompt(context, stream) for stream in range(streams)], steps)
    return {
        "streams": streams,
        "context_tokens": context,
        "tokens_per_s": streams * steps / seconds,
        "peak_rss_bytes": peak[0],
    }


def prompt(tokens: int, seed: int) -> list[int]:
    """Random token ids that every vocabulary here has, none of them special."""
    return random.Random(seed).choices(range(100, 1000), k=tokens)


def seconds_since_start() -> float:
    """Seconds since this process was started, interpreter and imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Append the peak resident bytes of this process and its descendants in the block.

    Pages that several processes share count for each of them.
    """
    for pid in process_tree():
        (Path("/proc") / str(pid) / "clear_refs").write_text("5")  # resets the high-water mark
    peak: list[int] = []
    yield peak
    peak.append(sum(_peak_rss_bytes(pid) for pid in process_tree()))


def process_tree() -> list[int]:
    """This process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    tree = [os.getpid()]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _peak_rss_bytes(pid: int) -> int:
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _read_options(
    add_options: Callable[[argparse.ArgumentParser], None] | None,
) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="folder with config.json and safetensors, or a GGUF file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prefill", nargs="*", type=int, default=[], metavar="TOKENS")
    parser.add_argument("--streams", nargs="*", type=int, default=[])
    parser.add_argument("--contexts", nargs="*", type=int, default=[], metavar="TOKENS")
    parser.add_argument("--steps", type=int, default=64, help="decode steps that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="prompts that are timed")
    if add_options:
        add_options(parser)
    options = parser.parse_args()
    spare = 2 * max(options.streams, default=1) + WARMUP_STEPS + 16
    longest = max([CHECK_PROMPT_TOKENS + CHECK_NEW_TOKENS, *options.prefill, *options.contexts])
    options.max_streams = max(options.streams, default=1)
    options.max_tokens = longest + options.steps + spare
    return options
