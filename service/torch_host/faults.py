"""Faults: unexpected errors reported without their messages, which may quote a prompt or answer."""

import logging
import traceback
from collections.abc import Iterator

import torch


def log_fault(
    log: logging.Logger,
    doing: str,
    error: BaseException,
    *,
    model_id: str | None = None,
    request_id: str | None = None,
) -> None:
    """Log what failed, for which model and request, with the kind of the error and its frames."""
    frames = "".join(
        f"{type(each).__name__} at\n{''.join(traceback.format_tb(each.__traceback__))}"
        for each in _chain(error)
    )
    log.error("%s failed (model %s, request %s): %s", doing, model_id, request_id, frames)


def fault_message(doing: str, error: Exception) -> str:
    """Message for clients: the kind of the error, or that memory ran out."""
    # torch has no class for it on the CPU: a RuntimeError that names its allocator.
    exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
    if exhausted:
        return f"The engine ran out of memory during {doing}."
    return f"The engine failed during {doing} ({type(error).__name__})."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
