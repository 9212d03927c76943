"""Compares engines on the same weights: prefill, decode, memory and start, beside the limits.

Each measurement is a fresh process that measures every point once; engines take turns (A B A B …)
and medians are reported, with the ratio of the first engine to each other one. The first process of
an engine and a model finds empty caches: its start is reported as the cold one, nothing else of it
is. The last line of output is one JSON document with the same data.

    python benchmarks/engines/run.py --model smollm2-135m --engine triptych transformers
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import contestants
from contestants import CONTESTANTS, HERE, Unavailable
from models import MODELS, folder
from rich.console import Console
from rich.table import Table

QUIET_LOAD = 0.3
"""Highest load average, a core, that a measurement begins under."""
QUIET_BUSY = 0.1
"""Largest part of the cores that others may use just before a process starts."""
PATIENCE_S = 120

LOCAL = ("out", "vllm_python", "llama_python")
"""Options that say where things lie on this machine."""

console = Console(stderr=True)


def main() -> None:
    """Run the comparison, print the tables, write the document."""
    options = _options()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > QUIET_LOAD and not options.force:
        raise SystemExit(
            f"load average {load:.2f} a core: others are computing; wait, or use --force"
        )
    limits = _limits(options)
    document: dict[str, Any] = {
        "benchmark": "engines",
        "machine": {**limits["machine"], "cpu": _cpu_name(), "cores": os.cpu_count()},
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": {key: value for key, value in vars(options).items() if key not in LOCAL},
        "limits": limits["models"],
        "results": [],
    }
    with tempfile.TemporaryDirectory(prefix="triptych-benchmark-") as caches:
        for model in options.model:
            document["results"] += _compare(model, Path(caches), options)
            if options.out:  # after every model, so that an interruption loses one
                options.out.write_text(json.dumps(document, indent=1) + "\n")
    wide = Console(width=28 + 20 * len(options.engine))
    for model in options.model:
        wide.print(table(model, document, options))
    print(json.dumps(document))


def _compare(model: str, caches: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All engines on one model in turn; one result an engine."""
    results = []
    for name in options.engine:
        cold = _run(name, model, caches, options, points=[])
        results.append(
            {
                "model": model,
                "engine": name,
                "weights": CONTESTANTS[name].weights,
                "failure": cold.get("failure"),
                "cold_first_token_s": cold.get("first_token_s"),
                "runs": [],
            }
        )
    points = [
        *("--prefill", *map(str, options.prefill)),
        *("--streams", *map(str, options.streams)),
        *("--contexts", *map(str, options.contexts)),
        *("--steps", str(options.steps), "--repeats", str(options.repeats)),
    ]
    for _ in range(options.runs):
        for result in results:
            if result["failure"] is None:
                run = _run(result["engine"], model, caches, options, points)
                result["failure"] = run.get("failure")
                result["runs"].append(run)
    for result in results:
        _summarize(result)
    return results


def _run(
    name: str, model: str, caches: Path, options: argparse.Namespace, points: list[str]
) -> dict[str, Any]:
    """One fresh process; its document, or why there is none."""
    console.print(f"{model}: {name}{'' if points else ', cold start'} …")
    try:
        command = contestants.command(name, model, options)
    except Unavailable as error:
        return {"failure": str(error)}
    environment = contestants.environment(name, caches / f"{model}-{name}", options.threads)
    _await_quiet(options)
    stolen = _stolen_s()
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *points],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=options.limit_s)
        except subprocess.TimeoutExpired:
            return {"failure": f"took longer than {options.limit_s} s"}
        finally:
            _end_session(process)
        log.seek(0)
        errors = log.read()
    lines = output.strip().splitlines()
    if process.returncode or not lines or not lines[-1].startswith("{"):
        failure = _cause(errors) or f"ended with status {process.returncode}"
        console.print(f"[red]{name} failed: {failure}", highlight=False)
        return {"failure": failure}
    document: dict[str, Any] = json.loads(lines[-1])
    seconds = time.perf_counter() - begun
    return document | {"seconds": seconds, "stolen_s": _stolen_s() - stolen}


def _cause(errors: str) -> str | None:
    """The last exception that a log names; of vLLM's processes, the one that ended the others."""
    named: list[str] = re.findall(r"((?:\w+\.)*\w+(?:Error|NotReady|Exit): .+)", errors)
    first_hand = [line for line in named if "EngineDead" not in line and "Engine core" not in line]
    return next(reversed(first_hand or named), None)


def _end_session(process: subprocess.Popen[str]) -> None:
    """End what the process has left behind: vLLM's workers outlive a parent that is killed."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _summarize(result: dict[str, Any]) -> None:
    """Medians over an engine's runs, point by point."""
    runs = [run for run in result["runs"] if "failure" not in run]
    result["prefill"] = _medians(runs, "prefill", ("tokens",))
    result["decode"] = _medians(runs, "decode", ("streams", "context_tokens"))
    if runs:
        result["first_token_s"] = statistics.median(run["first_token_s"] for run in runs)
        for key in ("check_answers", "versions", "settings"):
            result[key] = runs[-1][key]


def _medians(runs: list[dict[str, Any]], part: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for points in zip(*(run[part] for run in runs), strict=True):
        rates = [point["tokens_per_s"] for point in points]
        rows.append(
            {key: points[0][key] for key in keys}
            | {
                "tokens_per_s": statistics.median(rates),
                "tokens_per_s_runs": rates,
                "peak_rss_bytes": max(point["peak_rss_bytes"] for point in points),
            }
        )
    return rows


def table(model: str, document: dict[str, Any], options: argparse.Namespace) -> Table:
    """A model's rates; in brackets, how many times as fast the first engine is."""
    results = [result for result in document["results"] if result["model"] == model]
    first = results[0]
    limits = document["limits"][model]["formats"][first["weights"]]
    drawn = Table("tokens/s", "limit", *options.engine, title=model)
    for part, keys in (("prefill", ("tokens",)), ("decode", ("context_tokens", "streams"))):
        for limit in limits[part]:
            point = {key: limit[key] for key in keys}
            if point.get("streams", options.streams[0]) not in options.streams:
                continue
            label = f"prefill {point['tokens']}" if part == "prefill" else _decode_label(point)
            rates = [_find(result[part], point, "tokens_per_s") for result in results]
            drawn.add_row(label, f"{limit['tokens_per_s']:.0f}", *_cells(rates, "{:.0f}"))
    starts = [("first token, s", "first_token_s"), ("… with empty caches", "cold_first_token_s")]
    for label, key in starts:
        drawn.add_row(label, "", *_cells([result.get(key) for result in results], "{:.1f}", 1))
    peaks = [
        max((row["peak_rss_bytes"] / 2**20 for row in result["decode"]), default=None)
        for result in results
    ]
    drawn.add_row("peak memory, MiB", "", *_cells(peaks, "{:.0f}", 1))
    agreed = [_agreement(first, result) for result in results]
    drawn.add_row("equal tokens", "", *agreed)
    for result in results:
        if result["failure"]:
            drawn.caption = (drawn.caption or "") + f"{result['engine']}: {result['failure']}\n"
    return drawn


def _decode_label(point: dict[str, int]) -> str:
    return f"decode {point['streams']} × {point['context_tokens']}"


def _find(rows: list[dict[str, Any]], point: dict[str, int], key: str) -> float | None:
    for row in rows:
        if all(row[name] == value for name, value in point.items()):
            return float(row[key])
    return None


def _cells(values: list[float | None], form: str, power: int = -1) -> list[str]:
    """Numbers with ratios: of the first to another, or inversely where less is better."""
    cells = []
    for index, value in enumerate(values):
        if value is None:
            cells.append("–")
        elif index == 0 or not values[0]:
            cells.append(form.format(value))
        else:
            cells.append(f"{form.format(value)} (×{(value / values[0]) ** power:.2f})")
    return cells


def _agreement(first: dict[str, Any], other: dict[str, Any]) -> str:
    """How many tokens of the check answers two engines share."""
    pairs = [
        (one, two)
        for ours, theirs in zip(
            first.get("check_answers", []), other.get("check_answers", []), strict=False
        )
        for one, two in zip(ours, theirs, strict=True)
    ]
    return f"{sum(one == two for one, two in pairs)} of {len(pairs)}" if pairs else "–"


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    """What limits.py finds, at numbers of streams between those that are measured, too."""
    console.print("limits of the machine …")
    doublings = {2**power for power in range(max(options.streams).bit_length())}
    streams = sorted({*options.streams, *doublings})
    done = subprocess.run(
        [
            *(sys.executable, str(HERE / "limits.py"), "--model", *options.model),
            *("--threads", str(options.threads), "--streams", *map(str, streams)),
            *("--contexts", *map(str, options.contexts)),
            *("--prefill", *map(str, options.prefill)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
    )
    limits: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return limits


def _await_quiet(options: argparse.Namespace) -> None:
    """Wait until others leave the cores alone. Raises SystemExit if they do not, unless forced."""
    if options.force:
        return
    for _ in range(PATIENCE_S):
        before = _busy_s()
        time.sleep(1)
        if _busy_s() - before < QUIET_BUSY * (os.cpu_count() or 1):
            return
    raise SystemExit(f"others have been computing for {PATIENCE_S} s; use --force to go on")


def _busy_s() -> float:
    """Seconds that all cores have computed for anyone."""
    user, nice, system, _, _, irq, softirq, *_ = _processor_times()
    return user + nice + system + irq + softirq


def _stolen_s() -> float:
    """Seconds that the hypervisor has kept cores from us."""
    return _processor_times()[7]


def _processor_times() -> list[float]:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["smollm2-135m", "mamba-130m", "mamba2-130m", "falcon-h1-130m"]
    engines = ["triptych", "transformers", "vllm", "llama.cpp"]
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=models)
    parser.add_argument("--engine", nargs="+", choices=list(CONTESTANTS), default=engines)
    parser.add_argument("--prefill", nargs="+", type=int, default=[512, 4096], metavar="TOKENS")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--contexts", nargs="+", type=int, default=[64, 2048], metavar="TOKENS")
    parser.add_argument("--steps", type=int, default=64, help="decode steps that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="prompts that are timed a process")
    parser.add_argument("--runs", type=int, default=3, help="processes of each engine")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit-s", type=int, default=3600, help="longest that a process may take")
    parser.add_argument("--vllm-python", default=os.environ.get("TRIPTYCH_VLLM_PYTHON"))
    parser.add_argument("--llama-python", default=os.environ.get("TRIPTYCH_LLAMA_PYTHON"))
    parser.add_argument("--force", action="store_true", help="measure while others compute, too")
    parser.add_argument("--out", type=Path, help="write the JSON document here as well")
    options = parser.parse_args()
    for model in options.model:
        folder(model)
    return options


if __name__ == "__main__":
    main()
