"""Compare the variants of some models: bytes, latencies, and bits per byte beside the parent.

    python benchmarks/variants.py --text wikitext2-test.txt.gz --data-dir data --rounds 3

Each variant of each model runs in a fresh process, through the torch engine's own loader and slots;
with several rounds variants take turns, and times are medians. `--text` is plain text or gzip, such
as WikiText-2's test set. Bits per byte are those of its first tokens, in windows that each begin
anew; the first token of a window is not predicted, its bytes are counted. Top-1 agreement is how
often variant and parent think the same token most likely. Prints Markdown; the last line of output
is JSON.
"""

import argparse
import gzip
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch.nn import functional  # noqa: E402

from model_registry.catalog import CatalogEntry, load_catalog  # noqa: E402
from model_registry.sources.locate import locate  # noqa: E402
from service.torch_host.slot_model import SlotModel  # noqa: E402
from service.torch_host.weights.loading import load  # noqa: E402

MODELS = ("smollm2-135m-instruct", "reference-transformer", "reference-ssm", "reference-hybrid")
STATE_TOKENS = 2048
PROMPT_TOKENS = 512
PROMPTS = 5
STEPS = 32
#: Beside these columns a row says which model it is of.
COLUMNS = {
    "variant": "variant",
    "weights_bytes": "weights, MB",
    "state_bytes": "state at 2k tokens, MB",
    "ttft_ms": "TTFT, ms",
    "tpot_ms": "TPOT, ms",
    "bits_per_byte": "bits per byte",
    "top1": "top-1 as the parent's",
    "load_s": "load, s",
    "peak_bytes": "peak memory, MB",
}


class Scored(NamedTuple):
    """Bits per byte and top-1 predictions of a model on a text."""

    bits_per_byte: float
    likeliest: list[int]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant in this process."""
    entry, variant = load_catalog(options.models).find(options.one)
    resolved = locate(entry, variant, options.data_dir / "models")
    begun = time.perf_counter()
    model = load(resolved, slots=1, progress=lambda _: None)
    loaded = time.perf_counter() - begun
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    token_ids, size_bytes = read_tokens(options, Path(resolved.path))
    prompt = token_ids[:PROMPT_TOKENS]
    first = statistics.median(time_to_first_token(model, prompt) for _ in range(PROMPTS))
    scored = score(model, token_ids, size_bytes, options.window)
    return {
        "weights_bytes": model.memory().weights_bytes,
        "state_bytes": state_bytes(model, min(STATE_TOKENS, resolved.spec.context_tokens)),
        "ttft_ms": first * 1e3,
        "tpot_ms": statistics.median(step_times(model, prompt)) * 1e3,
        "load_s": loaded,
        "peak_bytes": peak_bytes,
        "bits_per_byte": scored.bits_per_byte,
        "likeliest": scored.likeliest,
        "build": {
            "kernel_path": model.build.kernel_path,
            "weights_sha256": model.build.weights_sha256,
            "engine_version": model.build.engine_version,
        },
    }


def read_tokens(options: argparse.Namespace, folder: Path) -> tuple[list[int], int]:
    """First tokens of the text, and the number of UTF-8 bytes that they cover."""
    content = options.text.read_bytes()
    text = (gzip.decompress(content) if options.text.suffix == ".gz" else content).decode()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoding = tokenizer.encode(text[: 16 * options.tokens], add_special_tokens=False)
    if len(encoding.ids) < options.tokens:
        raise SystemExit(f"{options.text}: has fewer than {options.tokens} tokens")
    end = encoding.offsets[options.tokens - 1][1]
    return encoding.ids[: options.tokens], len(text[:end].encode())


def taken(model: SlotModel) -> int:
    """Take a slot of the model."""
    slot = model.take()
    assert slot is not None
    return slot


def time_to_first_token(model: SlotModel, prompt: Sequence[int]) -> float:
    """Seconds of a prefill with one sampled token."""
    slot = taken(model)
    begun = time.perf_counter()
    int(model.prefill(slot, prompt).argmax())
    seconds = time.perf_counter() - begun
    model.release(slot)
    return seconds


def step_times(model: SlotModel, prompt: Sequence[int]) -> list[float]:
    """Seconds of each decode step after a prompt, one stream."""
    slot = taken(model)
    token = int(model.prefill(slot, prompt).argmax())
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        token = int(model.decode([slot], [token])[0].argmax())
        times.append(time.perf_counter() - begun)
    model.release(slot)
    return times


def state_bytes(model: SlotModel, tokens: int) -> int:
    """Live state bytes of one sequence."""
    slot = taken(model)
    model.prefill(slot, [1] * tokens)
    state = model.state_bytes(slot)
    model.release(slot)
    parts = (
        state.attention_kv_bytes,
        state.window_kv_bytes,
        state.ssm_state_bytes,
        state.conv_state_bytes,
    )
    return sum(part or 0 for part in parts)


def score(model: SlotModel, token_ids: Sequence[int], size_bytes: int, window: int) -> Scored:
    """Score a text in windows."""
    nats, likeliest = 0.0, []
    for first in range(0, len(token_ids), window):
        part = token_ids[first : first + window]
        slot = taken(model)
        logits = model.prefill(slot, part, every_logit=True)
        model.release(slot)
        following = torch.tensor(part[1:])
        nats += float(functional.cross_entropy(logits[:-1], following, reduction="sum"))
        likeliest += logits.argmax(-1).tolist()
    return Scored(nats / math.log(2) / size_bytes, likeliest)


def torch_names(entry: CatalogEntry) -> list[str]:
    """A model and those of its variants that the torch engine serves without an adapter."""
    variants = entry.spec.variants.items()
    served = [
        name
        for name, variant in variants
        if (variant.engine or entry.spec.engine) == "torch" and not variant.adapter
    ]
    return [entry.spec.id, *(f"{entry.spec.id}:{name}" for name in served)]


def run(name: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Measure one variant in a fresh process."""
    command = [sys.executable, __file__, "--one", name, "--out", str(out)]
    command += ["--text", str(options.text), "--data-dir", str(options.data_dir)]
    command += ["--tokens", str(options.tokens), "--window", str(options.window)]
    command += [word for folder in options.models for word in ("--models", str(folder))]
    print(f"{name} …", file=sys.stderr, flush=True)
    subprocess.run(command, check=True)
    measured: dict[str, Any] = json.loads(out.read_text())
    return measured


def compared(rounds: Sequence[dict[str, Any]], parent: Sequence[int]) -> dict[str, Any]:
    """Medians of the rounds, and agreement with the parent."""
    times = ("ttft_ms", "tpot_ms", "load_s", "peak_bytes")
    likeliest = rounds[0]["likeliest"]
    same = sum(mine == theirs for mine, theirs in zip(likeliest, parent, strict=True))
    return {
        **{key: value for key, value in rounds[0].items() if key != "likeliest"},
        **{name: statistics.median(one[name] for one in rounds) for name in times},
        "top1": same / len(parent),
    }


def printed(column: str, value: object) -> str:
    """Format a number for the table."""
    match column, value:
        case "weights_bytes" | "state_bytes" | "peak_bytes", int() | float():
            return f"{value / 1e6:,.2f}"
        case "bits_per_byte", float():
            return f"{value:.4f}"
        case "top1", float():
            return f"{value:.1%}"
        case _, float():
            return f"{value:.2f}"
        case _:
            return str(value)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Render the results as a Markdown table."""
    print("| model | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|---|" + "--:|" * (len(COLUMNS) - 1))
    for row in rows:
        cells = (printed(column, row[column]) for column in COLUMNS)
        print(f"| {row['model']} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure one variant, or all of them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="*", default=MODELS, help="ids of the catalogue")
    parser.add_argument("--text", type=Path, required=True, help="plain text or gzip")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--models", type=Path, action="append", default=[])
    parser.add_argument("--tokens", type=int, default=4096, help="how much of the text is scored")
    parser.add_argument("--window", type=int, default=512, help="tokens that are scored together")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.out.write_text(json.dumps(measure(options)))
        return
    catalog = load_catalog(options.models)
    names = {model: torch_names(catalog.find(model)[0]) for model in options.model}
    measured = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name in (name for of_model in names.values() for name in of_model):
                measured[name].append(run(name, options, Path(folder) / "measured.json"))
    rows = []
    for model, of_model in names.items():
        parent = measured[model][0]["likeliest"]
        for name in of_model:
            label = name.partition(":")[2] or catalog.find(model)[0].spec.dtype
            rows.append({"model": model, "variant": label, **compared(measured[name], parent)})
    print_table(rows)
    print(
        json.dumps(
            {
                "text": options.text.name,
                "tokens": options.tokens,
                "window_tokens": options.window,
                "rounds": options.rounds,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
