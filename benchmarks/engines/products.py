"""All matrix products of a model, one pass after another: oneDNN's prepacked ones and our tile.

    python benchmarks/engines/products.py data/models/smollm2-135m-instruct --threads 1 2

The matrices are those that a decode step reads: fused where the compiled engine fuses them, random
values, bfloat16. Both take turns in one process for each number of threads. The last line of output
is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = (1, 8, 32)
WARMUPS, REPEATS = 2, 15


def shapes(config: dict[str, int]) -> list[tuple[int, int]]:
    """(outputs, inputs) of a Llama-like model's matrices, in the order of a step."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or width // heads
    layer = [
        ((heads + 2 * key_heads) * size, width),
        (width, heads * size),
        (2 * inner, width),
        (width, inner),
    ]
    return layer * config["num_hidden_layers"] + [(config["vocab_size"], width)]


def measure(folder: Path, threads: int) -> list[dict[str, float]]:
    """Milliseconds of a pass over all matrices, by the number of rows."""
    import torch

    from service.torch_host.compiled import batch
    from service.torch_host.compiled.formats.floats import BFLOAT16
    from service.torch_host.compiled.ops.linear import linear
    from service.torch_host.compiled.packing import pack
    from service.torch_host.compiled.program import Program

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    wanted = shapes(json.loads((folder / "config.json").read_text()))
    program = Program(BFLOAT16, max_tokens=max(ROWS), threads=threads)
    prepacked, inputs = [], {}
    for outputs, width in wanted:
        matrix = torch.randn(outputs, width).mul_(0.02).bfloat16()
        packed = pack(program, [matrix])
        linear(
            program,
            program.operand_buffer("in", width),
            packed,
            program.buffer(f"out {packed.outputs}", packed.outputs),
        )
        prepacked.append(torch.ops.mkldnn._reorder_linear_weight(matrix))  # noqa: SLF001
        inputs[width] = torch.randn(max(ROWS), width).bfloat16()
    program.finish()

    def products(rows: int) -> None:
        for weight, (_, width) in zip(prepacked, wanted, strict=True):
            torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - what inductor calls
                inputs[width][:rows], weight, None, "none", [], ""
            )

    def tiles(rows: int) -> None:
        program.head[batch.TOKENS] = rows
        program.run()

    table = []
    with torch.inference_mode():
        for rows in ROWS:
            onednn_ms, tile_ms = alternating(lambda n=rows: products(n), lambda n=rows: tiles(n))
            table.append({"rows": rows, "onednn_ms": onednn_ms, "tile_ms": tile_ms})
    return table


def alternating(*calls: Callable[[], None]) -> list[float]:
    """Median milliseconds of each call; they take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(WARMUPS + REPEATS):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            taken.append((time.perf_counter() - begin) * 1e3)
    return [round(statistics.median(taken[WARMUPS:]), 2) for taken in times]


def main() -> None:
    """Run a process for each number of threads and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.path.insert(0, str(ROOT))
        print(json.dumps(measure(options.folder, options.one)))
        return
    results = {}
    for threads in options.threads:
        environment = {
            "GOMP_SPINCOUNT": "20000",
            "THP_MEM_ALLOC_ENABLE": "1",
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
        }
        command = [sys.executable, __file__, str(options.folder), "--one", str(threads)]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        results[threads] = json.loads(output.stdout.splitlines()[-1])
        for row in results[threads]:
            print(
                f"{threads} threads, {row['rows']:2} rows: oneDNN {row['onednn_ms']:6.2f} ms, "
                f"tile {row['tile_ms']:6.2f} ms, {row['onednn_ms'] / row['tile_ms']:.2f} times"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
