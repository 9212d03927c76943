"""Stages and causes in vLLM's log, on lines that vLLM 0.32 wrote."""

import pytest

from service.core.ports import LoadProgress
from service.engines.vllm.log import StartReader, cause

START = """\
(APIServer pid=79) INFO 11-24 12:58:21 [model.py:733] Resolved architecture: LlamaForCausalLM
(Worker pid=64) INFO 11-24 12:58:50 [cpu_model_runner.py:68] Starting to load model /models/smol...
(Worker pid=64) INFO 11-24 12:58:51 [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. \
Checkpoint size: 0.25 GiB. Available RAM: 21.08 GiB.
Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]
Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.18s/it]
(Worker pid=64) INFO 11-24 12:58:52 [default_loader.py:501] Loading weights took 1.18 seconds
(Worker pid=64) INFO 11-24 12:58:53 [cpu_model_runner.py:87] Warming up model for the compilation...
(EngineCore pid=98) INFO 11-24 13:01:00 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens, \
Maximum concurrency for 2,048 tokens per request: 22.75x
(EngineCore pid=98) INFO 11-24 13:01:01 [core.py:402] init engine (profile, create kv cache, \
warmup model) took 127.91 s
(APIServer pid=79) INFO 11-24 13:01:04 [entry.py:140] Starting vLLM server on unix:/run/a.sock
"""

FP8_ON_CPU = """\
(Worker pid=81) ERROR 11-24 13:03:52 [multiproc_executor.py:953]     return self._op()
(Worker pid=81) ERROR 11-24 13:03:52 [multiproc_executor.py:953] RuntimeError: \
_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 argument(s).
(EngineCore pid=62) ERROR 11-24 13:03:53 [core.py:1510] EngineCore failed to start.
(EngineCore pid=62) ERROR 11-24 13:03:53 [core.py:1510] Exception: WorkerProc \
initialization failed due to an exception in a background process. See stack trace for root cause.
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): \
{'EngineCore': 1}
"""

TOO_LITTLE_MEMORY = """\
(EngineCore pid=33) ERROR 11-24 13:04:45 [core.py:1510]     raise ValueError(
(EngineCore pid=33) ERROR 11-24 13:04:45 [core.py:1510] ValueError: No available memory for the \
cache blocks.
(EngineCore pid=33) ERROR 11-24 13:04:47 [multiproc_executor.py:315] Worker proc VllmWorker-0 died \
unexpectedly (exit code: None), shutting down executor.
RuntimeError: Engine core initialization failed. See root cause above.
"""

KILLED_WORKER = """\
(EngineCore pid=98) ERROR 11-24 13:02:16 [multiproc_executor.py:315] Worker proc VllmWorker-0 died \
unexpectedly (exit code: None), shutting down executor.
(EngineCore pid=98) ERROR 11-24 13:02:16 [core.py:1512] EngineCore encountered a fatal error.
(EngineCore pid=98) ERROR 11-24 13:02:16 [core.py:1512]     raise RuntimeError("Executor failed.")
(EngineCore pid=98) ERROR 11-24 13:02:16 [core.py:1512] RuntimeError: Executor failed.
(APIServer pid=79) ERROR 11-24 13:02:16 [async_llm.py:906] vllm.v1.engine.exceptions.\
EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
INFO:     Finished server process [79]
"""

UNKNOWN_ARGUMENT = """\
usage: api_server.py [options]
api_server.py: error: unrecognized arguments: --no-such
"""


def test_a_start_passes_through_its_stages():
    """Weights are counted by the checkpoint's size; each stage is seen once."""
    reader, seen = StartReader(), []
    for line in START.splitlines(keepends=True):
        progress = reader.feed(line)
        if not seen or seen[-1] != progress:
            seen.append(progress)
    quarter = round(0.25 * 2**30)

    assert [(each.stage, each.done_bytes, each.total_bytes) for each in seen] == [
        ("starting", None, None),
        ("weights", None, None),
        ("weights", 0, quarter),
        ("weights", quarter // 2, quarter),
        ("compiling", None, None),
        ("KV cache", None, None),
        ("warm-up", None, None),
        ("server", None, None),
    ]


def test_lines_may_arrive_in_pieces():
    """A log that is read while it is written ends anywhere."""
    reader = StartReader()
    for start in range(0, len(START), 7):
        reader.feed(START[start : start + 7])

    assert reader.progress == LoadProgress(stage="server")


@pytest.mark.parametrize(
    ("log", "named"),
    [
        (FP8_ON_CPU, "RuntimeError: _C::static_scaled_fp8_quant() expected at most 0 argument(s)"),
        (TOO_LITTLE_MEMORY, "ValueError: No available memory for the cache blocks."),
        (KILLED_WORKER, "Worker proc VllmWorker-0 died unexpectedly"),
        (UNKNOWN_ARGUMENT, "unrecognized arguments: --no-such"),
    ],
    ids=["worker", "engine core", "killed worker", "command line"],
)
def test_the_cause_is_the_error_that_others_followed(log, named):
    """Neither the error of who noticed, nor a line of a traceback."""
    assert cause(log.splitlines()).startswith(named)


def test_a_healthy_log_names_no_cause():
    """Information is no error."""
    assert cause(START.splitlines()) is None
