"""The policy `cheapest` against each of its arms alone, on the same prompts of mixed length.

A real `triptych serve` has one route over the reference trio. Every length is asked for once of the
route and once of each arm, in random order, so that what drifts meets all alike; each prompt
begins differently, so that none reuses another's state. What a request cost is in its record:
latency end to end, bytes of its state, energy where it was measured. Lengths are log-uniform, as
chat prompts nearly are. A request whose cost misses an objective counts as a miss of its arm; the
best single arm is the one with the fewest misses, and of those the cheapest. The last line of
output is one JSON document with the same data.

    python benchmarks/cheapest_route.py --minimize memory
    python benchmarks/cheapest_route.py --requests 50 --minimize latency --ttft-ms 100
"""

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from running_service import running_service

from service.core.experiments.texts import synthetic_text

TRIO = ("reference-transformer", "reference-ssm", "reference-hybrid")
ROUTE = "cheapest"
START_S = 300
TIMEOUT_S = 300
STATE = ("attention_kv_bytes", "window_kv_bytes", "ssm_state_bytes", "conv_state_bytes")
#: Tokens a word of the synthetic texts has with the trio's vocabulary, roughly.
TOKENS_PER_WORD = 1.9
WARM_UP_LENGTHS = 8


def configuration(options: argparse.Namespace) -> str:
    """The configuration of the service: one route over all arms."""
    objectives = {
        "ttft_ms": options.ttft_ms,
        "tpot_ms": options.tpot_ms,
        "e2e_ms": options.e2e_ms,
    }
    lines = [f"{name} = {value}" for name, value in objectives.items() if value is not None]
    arms = ", ".join(f'{{ model = "{model}" }}' for model in options.models)
    return "\n".join([
        f"preload = {json.dumps(options.models)}",
        f"[routes.{ROUTE}]",
        'policy = "cheapest"',
        f'minimize = "{options.minimize}"',
        f"explore = {options.explore}",
        f"arms = [{arms}]",
        f"[routes.{ROUTE}.objectives]",
        *lines,
    ])  # fmt: skip


def lengths(options: argparse.Namespace) -> list[int]:
    """Log-uniform prompt lengths in tokens, the same for the same seed."""
    draw = random.Random(options.seed)
    low, high = math.log(options.shortest), math.log(options.longest)
    return [round(math.exp(draw.uniform(low, high))) for _ in range(options.requests)]


def ask(client: httpx.Client, model: str, tokens: int, name: str, answer_tokens: int) -> dict:
    """Send a prompt of about *tokens* tokens; return the record of the request."""
    text = f"{name}: {synthetic_text(name, max(1, round(tokens / TOKENS_PER_WORD)))}"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    answer = client.post("/v1/chat/completions", json=body)
    record: dict = client.get(f"/v1/records/{answer.headers['x-request-id']}").json()
    return record


def costs(record: dict[str, Any]) -> dict[str, float | None]:
    """What a request cost; None where unknown."""
    state = [record["state"][name] for name in STATE]
    return {
        "latency": record["metrics"]["e2e_ms"],
        "memory": None if None in state else sum(state),
        "energy": record["energy"]["energy_uj"],
    }


def missed(record: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether a request failed, or missed an objective."""
    if record["status"] != "ok":
        return True
    goals = {name: getattr(options, name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")}
    return any(
        goal is not None and (record["metrics"][name] is None or record["metrics"][name] > goal)
        for name, goal in goals.items()
    )


def over_context(record: dict[str, Any]) -> bool:
    """Whether an arm was tried that refused the prompt as too long."""
    code = "context_length_exceeded"
    return record["error_code"] == code or code in (record["route_reason"] or "")


def measure(client: httpx.Client, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Ask the route and every arm; return the records of each."""
    warm_up = [
        round(
            options.shortest * (options.longest / options.shortest) ** (n / (WARM_UP_LENGTHS - 1))
        )
        for n in range(WARM_UP_LENGTHS)
    ]
    for model in options.models:
        for repetition in range(2):
            for tokens in warm_up:
                name = f"warm-up {model} {repetition} {tokens}"
                ask(client, model, tokens, name, options.answer_tokens)
    found: dict[str, list[dict]] = {name: [] for name in (ROUTE, *options.models)}
    order = random.Random(options.seed + 1)
    for number, tokens in enumerate(lengths(options)):
        contestants = list(found)
        order.shuffle(contestants)
        for name in contestants:
            prompt = f"{number} {name}"
            found[name].append(ask(client, name, tokens, prompt, options.answer_tokens))
    return found


def totals(records: list[dict], options: argparse.Namespace) -> dict[str, Any]:
    """Sums over the requests of one contestant."""
    each = [costs(record) for record in records]
    return {
        "requests": len(records),
        "missed": sum(missed(record, options) for record in records),
        "over_context": sum(map(over_context, records)),
        **{
            name: None if any(one[name] is None for one in each) else sum(one[name] for one in each)
            for name in ("latency", "memory", "energy")
        },
    }


def report(found: dict[str, list[dict]], options: argparse.Namespace) -> dict[str, Any]:
    """Compare the route with its arms."""
    summed = {name: totals(records, options) for name, records in found.items()}
    singles = {name: one for name, one in summed.items() if name != ROUTE}
    cost = options.minimize
    known = {name: one for name, one in singles.items() if one[cost] is not None}
    best = min(known, key=lambda name: (known[name]["missed"], known[name][cost]), default=None)
    mine = summed[ROUTE][cost]
    saved = None if best is None or mine is None else 1 - mine / known[best][cost]
    shares: dict[str, int] = {}
    for record in found[ROUTE]:
        shares[record["model"]] = shares.get(record["model"], 0) + 1
    return {
        "minimize": cost,
        "objectives": {name: getattr(options, name) for name in ("ttft_ms", "tpot_ms", "e2e_ms")},
        "requests": options.requests,
        "answer_tokens": options.answer_tokens,
        "seed": options.seed,
        "totals": summed,
        "route_chose": shares,
        "explored": sum(
            (record["route_reason"] or "").startswith("explored") for record in found[ROUTE]
        ),
        "best_single_arm": best,
        "saved_share": saved,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the totals as a table, and the finding."""
    table = Table(title=f"cheapest by {result['minimize']}, {result['requests']} requests each")
    for column in ("", "e2e, s", "state, MB", "energy, J", "missed", "over context"):
        table.add_column(column, justify="left" if not column else "right")
    scales = {"latency": 1e3, "memory": 1e6, "energy": 1e6}
    for name, one in result["totals"].items():
        sums = [
            "–" if one[cost] is None else f"{one[cost] / scale:,.2f}"
            for cost, scale in scales.items()
        ]
        table.add_row(name, *sums, str(one["missed"]), str(one["over_context"]))
    console.print(table)
    console.print(f"The route chose {result['route_chose']}, {result['explored']} to explore.")
    if result["saved_share"] is None:
        console.print("Its cost was not measured: nothing to compare.")
    else:
        console.print(
            f"It took {result['saved_share']:.1%} less {result['minimize']} than "
            f"{result['best_single_arm']}, the best single arm."
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help="of the route and of each arm")
    parser.add_argument("--minimize", choices=["latency", "memory", "energy"], default="memory")
    parser.add_argument("--shortest", type=int, default=16, help="prompt tokens")
    parser.add_argument("--longest", type=int, default=1500, help="prompt tokens")
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--ttft-ms", type=float)
    parser.add_argument("--tpot-ms", type=float)
    parser.add_argument("--e2e-ms", type=float)
    parser.add_argument("--explore", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(TRIO))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "triptych.toml"
        settings.write_text(configuration(options))
        arguments = ("--config", str(settings), "--data-dir", folder)
        with (
            running_service(Path(folder), *arguments, start_s=START_S) as service,
            httpx.Client(base_url=service.address, timeout=TIMEOUT_S) as client,
        ):
            result = report(measure(client, options), options)
    show(Console(), result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
