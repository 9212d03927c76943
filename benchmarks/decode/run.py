"""Decode tokens/s of the torch engine beside its competitors, on the same weights, in one run.

Decode is bound by memory bandwidth at few streams and by arithmetic at many, so the rates are
measured at several. Each measurement is a fresh process; competitors take turns (A B A B ...), and
the median is reported with the ratio to the first competitor. The last line of output is one JSON
document with the same data.

    python benchmarks/decode/run.py --model smollm2-135m-instruct --streams 1 8 32
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
COMPETITORS = ("transformers_generate", "triptych_torch")
TRIO = ("reference-transformer", "reference-ssm", "reference-hybrid")


def model_path(model: str, data_dir: str) -> str:
    """The local folder of a catalogue model, as `triptych models show` tells it."""
    command = [sys.executable, "-m", "service", "models", "show", model, "--json"]
    shown = subprocess.run(
        [*command, "--data-dir", data_dir], check=True, capture_output=True, text=True
    )
    path = json.loads(shown.stdout)["path"]
    if not path:
        raise SystemExit(f"{model} is not here; run: triptych models pull {model}")
    return path


def measure(competitor: str, path: str, streams: int, options: argparse.Namespace) -> dict:
    """One fresh process; its last line is JSON."""
    command = [sys.executable, str(HERE / f"{competitor}.py"), path, "--streams", str(streams)]
    command += ["--prompt-tokens", str(options.prompt_tokens)]
    command += ["--new-tokens", str(options.new_tokens), "--dtype", options.dtype]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(options.threads)},
    )
    if done.returncode:
        raise SystemExit(f"{competitor} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(model: str, streams: int, options: argparse.Namespace) -> dict:
    """Competitors in turn, `--runs` times; medians and ratios."""
    path = model_path(model, options.data_dir)
    rates: dict[str, list[float]] = {name: [] for name in COMPETITORS}
    details: dict[str, dict] = {}
    for _ in range(options.runs):
        for name in COMPETITORS:
            details[name] = measure(name, path, streams, options)
            rates[name].append(details[name]["decode_tokens_per_s"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "model": model,
        "streams": streams,
        "decode_tokens_per_s": medians,
        "all_runs": rates,
        "ratio": medians["triptych_torch"] / medians["transformers_generate"],
        "versions": details[COMPETITORS[0]]["versions"],
    }


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["smollm2-135m-instruct", *TRIO])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--out", type=Path, help="write the JSON document here as well")
    options = parser.parse_args()

    console = Console(stderr=True)
    table = Table("model", "streams", *COMPETITORS, "ratio", title="decode tokens/s, median")
    rows = []
    for model in options.model:
        for streams in options.streams:
            console.print(f"measuring {model} at {streams} streams ...")
            row = compare(model, streams, options)
            rows.append(row)
            cells = [f"{row['decode_tokens_per_s'][name]:.0f}" for name in COMPETITORS]
            table.add_row(model, str(streams), *cells, f"{row['ratio']:.2f}")
    Console().print(table)
    document = {
        "benchmark": "decode",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "threads": options.threads,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
