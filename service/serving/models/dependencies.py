"""The dependencies that all hosted models share."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from model_registry.spec import ResolvedModel
from service.core.ports import Engine
from service.serving.gate import Gate
from service.serving.memory.device_memory import DeviceMemory
from service.serving.memory.measured import MeasuredBytes
from service.serving.models.events import ModelEvents
from service.serving.models.files import Locate, Refusal

Opener = Callable[[ResolvedModel], Engine]


class Hosting(Struct, frozen=True, kw_only=True):
    """Built once, by the pool."""

    locate: Locate
    """Blocking: finds a model's files."""
    refusal: Refusal
    """Blocking and cheap: why a model cannot be served on this machine."""
    models_dir: Path
    opener: Opener
    gate: Gate
    memory: DeviceMemory
    measured: MeasuredBytes
    events: ModelEvents
    max_requests: int
    probe: bool
    released: asyncio.Event
    """Set whenever a place in any queue becomes free."""
    random: Callable[[], float] = random.random
    clock_ns: Callable[[], int] = time.monotonic_ns
