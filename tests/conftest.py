"""Values that tests of several packages start from."""

import os
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch: threads that spin would make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Hosts of the tests share compiled kernels, though each has a data folder of its own.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path.home() / ".cache" / "triptych" / "kernels"))

import pytest

from service.core.events import ModelBuild, StateBytes
from service.core.record import RequestRecord


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutine tests on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RequestRecord]:
    """Build a final record of a plain chat request; keywords replace its fields."""

    def make(request_id: str, **changes: object) -> RequestRecord:
        start_ns = 5_000_000_000
        values: dict[str, object] = {
            "request_id": request_id,
            "phase": "final",
            "status": "ok",
            "endpoint": "chat",
            "stream": True,
            "requested_model": "m",
            "model": "m",
            "family": "transformer",
            "route": "direct",
            "finish_reason": "stop",
            "verified": True,
            "accepted_at_ns": 1_795_000_000_000_000_000,
            "accepted_ns": start_ns,
            "queued_ns": start_ns + 1_000_000,
            "scheduled_ns": start_ns + 3_000_000,
            "first_ns": start_ns + 23_000_000,
            "last_ns": start_ns + 113_000_000,
            "closed_ns": start_ns + 114_000_000,
            "itl_p50_ns": 9_000_000,
            "itl_p95_ns": 10_000_000,
            "itl_p99_ns": 11_000_000,
            "itl_max_ns": 12_000_000,
            "prompt_tokens": 12,
            "cached_tokens": 0,
            "completion_tokens": 10,
            "completion_bytes": 45,
            "state": StateBytes(attention_kv_bytes=4096, ssm_state_bytes=0, reserved_bytes=8192),
            "co_scheduled": 1,
            "build": ModelBuild(
                weights_sha256="a" * 64,
                dtype="bfloat16",
                quantization=None,
                engine="torch",
                engine_version="torch 2.13.0",
                device="cpu",
                kernel_path="transformers-eager",
            ),
        }
        return RequestRecord(**(values | changes))  # type: ignore[arg-type]

    return make
