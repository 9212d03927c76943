"""Decode of every architecture type beside plain transformers: small random models, bfloat16.

    python benchmarks/engines/architectures.py

Both run in this process, in turn, on the same weights; each model is the test suite's tiny one made
wider by `--scale`, which keeps all its kinds of layers. The last line of output is JSON.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "service" / "engines" / "torch")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import tiny_models  # noqa: E402
import torch  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from service.torch_host.compiled.model import CompiledModel  # noqa: E402

WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "mamba_d_ssm",
    "mamba_dt_rank",
    "mamba_n_heads",
    "mamba_num_heads",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "n_mamba_heads",
    "num_attention_heads",
    "num_heads",
    "num_key_value_heads",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
)
PROMPT_TOKENS = 64
STEPS = 24


def widened(name: str, scale: int) -> dict[str, object]:
    """What makes a tiny model's config `scale` times as wide."""
    config = tiny_models.config(name).to_dict()
    own = {**tiny_models._COMMON, **tiny_models._OPTIONS[name]}  # noqa: SLF001 - the suite's models
    changes = {key: config[key] * scale for key in WIDTHS if key in own}
    return {**changes, "vocab_size": 8192, "max_position_embeddings": 1024}


@torch.inference_mode()
def transformers_step(network: torch.nn.Module, streams: int) -> Callable[[], None]:
    """A step of transformers' own greedy decode after a prompt."""
    config = network.config
    argument = (
        "cache_params"
        if config.model_type in ("mamba", "falcon_mamba", "mamba2")
        else "past_key_values"
    )
    cache = DynamicCache(config=config)
    ids = torch.arange(3, 3 + PROMPT_TOKENS).repeat(streams, 1)
    network(ids, use_cache=True, logits_to_keep=1, **{argument: cache})
    last = ids[:, -1:]
    seen = PROMPT_TOKENS

    def step() -> None:
        nonlocal seen
        positions = torch.full((streams, 1), seen)
        extra = {} if argument == "cache_params" else {"position_ids": positions}
        network(last, use_cache=True, logits_to_keep=1, **{argument: cache}, **extra).logits.argmax(
            -1
        )
        seen += 1

    return step


def compiled_step(model: CompiledModel, streams: int) -> Callable[[], None]:
    """A step of the compiled program after the same prompt."""
    slots = [model.take() for _ in range(streams)]
    for slot in slots:
        model.prefill(slot, list(range(3, 3 + PROMPT_TOKENS)))

    def step() -> None:
        model.decode(slots, [3 + PROMPT_TOKENS - 1] * streams).argmax(-1)

    return step


@torch.inference_mode()
def milliseconds(step: Callable[[], None]) -> float:
    """Median duration of a step."""
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[STEPS // 4 :]) * 1e3


def measure(name: str, scale: int, threads: int) -> dict[str, object]:
    """Both engines at 1 and 8 streams."""
    network = tiny_models.network(name, dtype=torch.bfloat16, **widened(name, scale))
    parameters = sum(p.numel() for p in network.parameters())
    found: dict[str, object] = {"model": name, "parameters": parameters}
    plain = {streams: milliseconds(transformers_step(network, streams)) for streams in (1, 8)}
    model = tiny_models.compiled(network, name, slots=9, threads=threads)
    ours = {streams: milliseconds(compiled_step(model, streams)) for streams in (1, 8)}
    for streams in (1, 8):
        found[f"transformers_{streams}_ms"] = round(plain[streams], 3)
        found[f"triptych_{streams}_ms"] = round(ours[streams], 3)
    found["ratio"] = round(math.sqrt(plain[1] / ours[1] * plain[8] / ours[8]), 2)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", nargs="+", default=list(tiny_models.NAMES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.model:
        row = measure(name, options.scale, options.threads)
        rows.append(row)
        print(
            f"{name:26} {row['parameters'] / 1e6:6.1f} M  "
            f"1: {row['transformers_1_ms']:8.2f} → {row['triptych_1_ms']:6.2f} ms   "
            f"8: {row['transformers_8_ms']:8.2f} → {row['triptych_8_ms']:6.2f} ms   "
            f"×{row['ratio']}",
            flush=True,
        )
    print(json.dumps({"threads": options.threads, "scale": options.scale, "rows": rows}))


if __name__ == "__main__":
    main()
