"""Decode time a token by length of context, beside what reading the keys and values takes.

    python benchmarks/engines/contexts.py data/models/smollm2-135m-instruct MORE_FOLDERS

One stream, bfloat16. The contexts are reached by prefilling. The last line of output is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch  # noqa: E402

from model_registry.spec import ModelSpec, ResolvedModel  # noqa: E402
from service.torch_host.slot_model import SlotModel  # noqa: E402
from service.torch_host.weights.loading import load  # noqa: E402

STEPS = 24


def read_bandwidth() -> float:
    """Bytes a second of summing 512 MiB with all threads: the best of five."""
    memory = torch.ones(2**27)
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        memory.sum()
        best = max(best, memory.nbytes / (time.perf_counter() - begin))
    return best


def milliseconds(model: SlotModel, slot: int) -> float:
    """Median of a token's step."""
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        model.decode([slot], [7])
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def measure(folder: Path, contexts: list[int]) -> list[dict[str, object]]:
    """One model at each context."""
    spec = ModelSpec(
        id="measured",
        family="transformer",
        licence="",
        context_tokens=max(contexts) + 2 * STEPS,
        sources=(),
    )
    resolved = ResolvedModel(spec=spec, variant=None, path=str(folder), weights_sha256=None)
    model = load(resolved, slots=1, progress=lambda _: None)
    slot = model.take()
    assert slot is not None
    rows = []
    for context in contexts:
        model.prefill(slot, [9] * (context - model.length_tokens(slot)))
        taken = milliseconds(model, slot)
        state = model.state_bytes(slot)
        rows.append(
            {
                "model": folder.name,
                "context_tokens": context,
                "decode_ms": round(taken, 3),
                "attention_kv_bytes": state.attention_kv_bytes,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="+", type=Path)
    parser.add_argument("--contexts", nargs="+", type=int, default=[128, 1024, 4096, 16384])
    options = parser.parse_args()
    bandwidth = read_bandwidth()
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s")
    rows = []
    for folder in options.folder:
        for row in measure(folder, options.contexts):
            rows.append(row)
            reading = int(str(row["attention_kv_bytes"])) / bandwidth * 1e3
            print(
                f"{row['model']:28} {row['context_tokens']:6} tokens {row['decode_ms']:8.2f} ms, "
                f"of which keys and values read at bandwidth {reading:6.2f} ms",
                flush=True,
            )
    print(json.dumps({"bandwidth_bytes_per_s": bandwidth, "rows": rows}))


if __name__ == "__main__":
    main()
