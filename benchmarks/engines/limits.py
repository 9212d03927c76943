"""What the machine allows: measured bandwidth and matrix rates, and the token rates they bound.

    python benchmarks/engines/limits.py --model smollm2-135m --streams 1 8 32

A decode step must read the weights once, read the keys and values of every stream, and read and
write every recurrent state. Its arithmetic is two operations a weight and token, the products of
attention, and a multiply-add into and one out of every element of recurrent state. No engine can be
faster than the slower of the two at the machine's rates (Williams et al. 2009, the roofline), but
where weights or states stay in the cache between steps. The last line of output is a JSON document.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from models import MODELS, folder

from model_registry.architecture import Attention, read_layers
from model_registry.footprint import predict

READ_BYTES = 768 * 2**20
#: Sides of the square matrices that are multiplied; the fastest counts.
MATRICES = (1024, 2048, 3072)
#: Bytes of a weight, and the rate that its products run at; Q8_0 and int8 alike but for the scales.
FORMATS = {"bfloat16": (2, "bfloat16"), "int8": (1, "int8")}
STATE_OPERATIONS = 4


def measure_machine(threads: int, repeats: int = 25) -> dict[str, Any]:
    """Bytes and operations a second, the best of the repeats."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    memory = torch.ones(READ_BYTES // 4)
    rates = {"read_bytes_per_s": READ_BYTES / _best_s(memory.sum, repeats)}
    del memory
    for side in MATRICES:
        left, right = torch.randn(2, side, side)
        small_left, small_right = (matrix.mul(30).to(torch.int8) for matrix in (left, right))
        products = {
            "float32": partial(torch.mm, left, right),
            "bfloat16": partial(torch.mm, left.bfloat16(), right.bfloat16()),
            "int8": partial(torch._int_mm, small_left, small_right),  # noqa: SLF001 - the only one
        }
        for kind, product in products.items():
            rate = 2 * side**3 / _best_s(product, repeats)
            rates[f"{kind}_ops_per_s"] = max(rates.get(f"{kind}_ops_per_s", 0), rate)
    return {"threads": threads, "cache_bytes": _last_cache_bytes(), **rates}


def _best_s(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def _last_cache_bytes() -> int:
    """Bytes of the largest cache of the first core; 0 if the system does not tell."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * (2**20 if text.endswith("M") else 2**10))
    return max(sizes)


def model_limits(
    config: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    streams: list[int],
    contexts: list[int],
    prefill: list[int],
) -> dict[str, Any]:
    """Bounds of one model for each weight format."""
    mix = read_layers(config)
    embedding = config["vocab_size"] * config["hidden_size"]
    tied = config.get("tie_word_embeddings", True)
    matrices = mix.parameters - (0 if tied else embedding)  # a lookup reads a row
    limits: dict[str, Any] = {
        "parameters": mix.parameters,
        "in_cache": 2 * matrices < machine["cache_bytes"],
        "formats": {},
    }
    state_elements = sum(
        math.prod(layer.recurrent.state_shape)
        for layer in mix.layers
        if layer.recurrent and layer.recurrent.state_shape
    )
    query_width = _query_width(config, [layer.attention for layer in mix.layers])

    def step_s(tokens: int, weights: int, kind: str, seen: float) -> float:
        """Seconds of arithmetic for tokens that attend over `seen` others."""
        operations = 2 * weights + 4 * seen * query_width + STATE_OPERATIONS * state_elements
        rate: float = machine[f"{FORMATS[kind][1]}_ops_per_s"]
        return tokens * operations / rate

    for kind, (weight_bytes, _) in FORMATS.items():
        rows = []
        for context in contexts:
            state = predict(config, context_tokens=context)
            moved = state.state_bytes + state.ssm_state_bytes + state.conv_state_bytes
            for count in streams:
                read_bytes = matrices * weight_bytes + count * moved
                read_s = read_bytes / machine["read_bytes_per_s"]
                compute_s = step_s(count, matrices, kind, context)
                rows.append(
                    {
                        "streams": count,
                        "context_tokens": context,
                        "step_bytes": read_bytes,
                        "bound": "bytes" if read_s > compute_s else "operations",
                        "tokens_per_s": count / max(read_s, compute_s),
                    }
                )
        prompts = [
            {
                "tokens": tokens,
                # A prompt needs the logits of its last token only.
                "tokens_per_s": tokens / step_s(tokens, matrices - embedding, kind, tokens / 2),
            }
            for tokens in prefill
        ]
        limits["formats"][kind] = {"decode": rows, "prefill": prompts}
    return limits


def _query_width(config: Mapping[str, Any], attention: list[Attention | None]) -> int:
    """Query heads times head dimension, over all layers."""
    layers = [layer for layer in attention if layer]
    heads: int = config.get("num_attention_heads", 0)
    return sum(layer.head_dim for layer in layers) * heads


def main() -> None:
    """Measure the machine, print the limits of the models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--streams", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--contexts", nargs="*", type=int, default=[64, 2048])
    parser.add_argument("--prefill", nargs="*", type=int, default=[512, 4096])
    options = parser.parse_args()
    from transformers import AutoConfig

    machine = measure_machine(options.threads)
    models = {}
    for model in options.model:
        config = AutoConfig.from_pretrained(folder(model), local_files_only=True).to_dict()
        models[model] = model_limits(
            config,
            machine,
            streams=options.streams,
            contexts=options.contexts,
            prefill=options.prefill,
        )
    print(json.dumps({"machine": machine, "models": models}))


if __name__ == "__main__":
    main()
