"""The metrics page counts every request once and is documented."""

import asyncio
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from model_registry.spec import ModelSpec
from service.core.events import ModelMemory
from service.core.metrics import derive
from service.core.model_status import ModelStatus
from service.core.ports import WriterStats
from service.core.process_memory import ProcessMemory
from service.core.record import RequestRecord
from service.core.runtime import PrefixCacheUse
from service.telemetry.prometheus import PrometheusMetrics
from support.clock import Clock

MakeRecord = Callable[..., RequestRecord]
MODEL = ModelStatus(
    id="m:int8",
    spec=ModelSpec(id="m", family="ssm", licence="MIT", context_tokens=8, sources=()),
    variant="int8",
    state="ready",
    requests=5,
    requests_limit=9,
    memory=ModelMemory(weights_bytes=1000, slots_used=2, slots_total=8),
)
STATS = WriterStats(
    healthy=True, queued_rows=3, queued_bytes=99, lag_s=0.5, written_rows=7, write_s=0.25,
    failed_writes=1, refused_rows=2, unwritable_rows=0,
)  # fmt: skip
PREFIXES = PrefixCacheUse(
    max_bytes=900, held_bytes=300, entries=3, query_tokens=50, hit_tokens=20,
    stores={"block": 5}, evictions={"room": 2},
)  # fmt: skip
DOCUMENTED = Path("docs/metrics.md").read_text(encoding="utf-8")
MEMORY = ProcessMemory(pid=1, rss_bytes=100, pss_bytes=None, peak_rss_bytes=120)


def metrics() -> PrometheusMetrics:
    return PrometheusMetrics(
        models=lambda: [MODEL],
        writer=lambda: STATS,
        processes=lambda: {"service": MEMORY},
        prefix_cache=lambda: PREFIXES,
        clock_ns=count(step=2 * 10**9).__next__,
    )


def finish(page: PrometheusMetrics, record: RequestRecord) -> None:
    page.finished(record, derive(record))


async def text_of(page: PrometheusMetrics) -> str:
    return (await page.page())[0].decode()


async def samples(page: PrometheusMetrics) -> dict[tuple[str, ...], float]:
    # Label values come in the order of the labels' names.
    text = await text_of(page)
    return {
        (sample.name, *dict(sorted(sample.labels.items())).values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_tokens_are_counted_as_they_come(make_record: MakeRecord) -> None:
    """A long answer's tokens are not held back until its end, and the end adds none."""
    page = metrics()
    running = make_record("r", phase="accepted", status="running", completion_tokens=None)
    page.started(running)
    page.generated(running, 3)
    page.generated(running, 4)
    assert (await samples(page))["triptych_generation_tokens_total", "m"] == 7

    finish(page, make_record("r", completion_tokens=7))
    assert (await samples(page))["triptych_generation_tokens_total", "m"] == 7


async def test_a_request_is_in_flight_until_it_finishes(make_record: MakeRecord) -> None:
    """Started counts in, finished counts out and adds one request of its status."""
    page = metrics()
    page.started(make_record("r", phase="accepted", status="running", model=None))
    assert (await samples(page))["triptych_requests_in_flight",] == 1

    finish(page, make_record("r"))

    found = await samples(page)
    assert found["triptych_requests_in_flight",] == 0
    assert found["triptych_requests_total", "m", "ok"] == 1


async def test_prompts_and_bytes_add_up(make_record: MakeRecord) -> None:
    """Counters grow by what each record says, for cut-off requests too."""
    page = metrics()
    finish(page, make_record("a"))
    finish(page, make_record("b", status="cancelled", completion_tokens=3))

    found = await samples(page)
    assert found["triptych_prompt_tokens_total", "m"] == 24
    assert found["triptych_generation_bytes_total", "m"] == 90


async def test_times_are_seconds_of_whole_answers(make_record: MakeRecord) -> None:
    """Histograms hold the derived times in seconds, and only of requests that ended well."""
    page = metrics()
    finish(page, make_record("a", variant="int8"))
    finish(page, make_record("b", variant="int8", status="cancelled"))

    found = await samples(page)
    assert found["triptych_time_to_first_token_seconds_sum", "m:int8"] == 0.023
    assert found["triptych_time_per_output_token_seconds_sum", "m:int8"] == 0.01
    assert found["triptych_e2e_request_latency_seconds_count", "m:int8"] == 1


async def test_unknown_state_is_not_observed(make_record: MakeRecord) -> None:
    """State that is None adds nothing; state that is 0 counts as 0."""
    page = metrics()
    finish(page, make_record("a"))

    found = await samples(page)
    assert found["triptych_request_state_bytes_count", "ssm_state", "m"] == 1
    assert found["triptych_request_state_bytes_sum", "attention_kv", "m"] == 4096
    assert ("triptych_request_state_bytes_count", "window_kv", "m") not in found


async def test_a_client_cannot_make_series(make_record: MakeRecord) -> None:
    """The model that a client invented is in no label."""
    page = metrics()
    finish(page, make_record("r", model=None, requested_model="invented", status="refused"))

    assert "invented" not in await text_of(page)
    assert (await samples(page))["triptych_requests_total", "", "refused"] == 1


async def test_models_are_read_at_the_scrape() -> None:
    """Running, waiting, usage, state and memory are those of the moment."""
    found = await samples(metrics())

    assert found["triptych_num_requests_running", "m:int8"] == 2
    assert found["triptych_num_requests_waiting", "m:int8"] == 3
    assert found["triptych_kv_cache_usage_perc", "m:int8"] == 0.25
    assert found["triptych_model_state", "m:int8", "ready"] == 1
    assert found["triptych_model_state", "m:int8", "failed"] == 0
    assert found["triptych_model_memory_bytes", "weights", "m:int8"] == 1000
    assert ("triptych_model_memory_bytes", "slots", "m:int8") not in found


async def test_the_writer_and_processes_are_read_at_the_scrape() -> None:
    """Queue, lag and process memory are shown; what is unknown is left out."""
    found = await samples(metrics())

    assert found["triptych_log_queue_rows",] == 3
    assert found["triptych_log_lag_seconds",] == 0.5
    assert found["triptych_log_rows_total",] == 7
    assert found["triptych_process_memory_bytes", "rss", "service"] == 100
    assert ("triptych_process_memory_bytes", "pss", "service") not in found


async def test_the_prefix_cache_is_counted_in_tokens_and_bytes() -> None:
    """Queries and hits in prompt tokens, stores by kind, evictions by reason."""
    found = await samples(metrics())

    assert found[("triptych_prefix_cache_queries_total",)] == 50
    assert found[("triptych_prefix_cache_hits_total",)] == 20
    assert found[("triptych_prefix_cache_stores_total", "block")] == 5
    assert found[("triptych_prefix_cache_evictions_total", "room")] == 2
    assert found[("triptych_prefix_cache_bytes",)] == 300


async def test_every_metric_is_documented(make_record: MakeRecord) -> None:
    """docs/metrics.md names each metric of the page."""
    page = metrics()
    finish(page, make_record("r"))
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(await text_of(page))
        if not family.name.endswith("_created")
    }

    assert {name for name in names if f"`{name}`" not in DOCUMENTED} == set()


async def test_two_pages_do_not_share_counts(make_record: MakeRecord) -> None:
    """Each instance has a registry of its own: no state lives in the module."""
    one, other = metrics(), metrics()
    finish(one, make_record("r"))

    assert ("triptych_requests_total", "m", "ok") not in (await samples(other))


async def test_the_page_is_rendered_beside_the_event_loop() -> None:
    """Reading a process's pages takes milliseconds for each GiB: no stream waits for that."""
    threads = []

    def processes() -> dict[str, ProcessMemory]:
        threads.append(threading.current_thread())
        return {"service": MEMORY}

    await PrometheusMetrics(processes=processes).page()

    assert threads
    assert threading.main_thread() not in threads


async def test_a_page_is_made_once_a_second() -> None:
    """Many scrapers cost as much as one."""
    clock, reads = Clock(0), []

    def processes() -> dict[str, ProcessMemory]:
        reads.append(clock.now)
        return {}

    page = PrometheusMetrics(processes=processes, clock_ns=clock)
    await asyncio.gather(*(page.page() for _ in range(5)))
    clock.now = 999_999_999
    await page.page()
    clock.now = 1_000_000_000
    await page.page()

    assert reads == [0, 1_000_000_000]
