"""Progress and cause of failure, read from vLLM's log.

The patterns are those of vLLM 0.32. Unknown lines are skipped, so that another version costs a
stage of the progress at most.
"""

import re
from collections.abc import Sequence
from typing import Final

from service.core.ports import LoadProgress

_SHARDS: Final = re.compile(r"checkpoint shards:.*\| (\d+)/(\d+) \[")
_CHECKPOINT: Final = re.compile(r"Checkpoint size: ([0-9.]+) GiB")
_STAGES: Final = (
    (re.compile(r"Starting to load model|Initializing a V1 LLM engine"), "weights"),
    (re.compile(r"Warming up model for the compilation|torch\.compile takes|Dynamo bytecode"),
     "compiling"),
    (re.compile(r"KV cache size:|Explicitly set .* GiB for KV cache"), "KV cache"),
    (re.compile(r"Capturing CUDA graphs|init engine .* took"), "warm-up"),
    (re.compile(r"Starting vLLM server|Supported tasks:"), "server"),
)  # fmt: skip

_PREFIX: Final = re.compile(r"^\(\w[\w-]* pid=\d+\) ")
_LOGGED: Final = re.compile(r"^(?:\([^)]*\) )?ERROR [\d-]+ [\d:]+ \[[^\]]*\] ?(.*)$")
_EXCEPTION: Final = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt)\b: ?\S")
_ARGUMENT: Final = re.compile(r"^\S+: error: (.+)$")
_DIED: Final = re.compile(r"(?:proc|process) \S+ died unexpectedly")

#: Errors of the processes that only noticed that another had failed.
_FOLLOWS: Final = (
    "Engine core initialization failed",
    "EngineDeadError",
    "Executor failed.",
    "WorkerProc initialization failed",
    "cancelled",
)


class StartReader:
    """Reads the stages of a start from its log, as it is written."""

    def __init__(self) -> None:
        self.progress = LoadProgress(stage="starting")
        self._rest = ""
        self._checkpoint_bytes: int | None = None

    def feed(self, text: str) -> LoadProgress:
        """Add the next chunk of the log; return the progress so far."""
        *lines, self._rest = re.split(r"[\n\r]", self._rest + text)
        for line in lines:
            self._read(line)
        return self.progress

    def _read(self, line: str) -> None:
        if size := _CHECKPOINT.search(line):
            self._checkpoint_bytes = round(float(size[1]) * 2**30)
        if shards := _SHARDS.search(line):
            done, total = int(shards[1]), int(shards[2])
            size_bytes = self._checkpoint_bytes
            self.progress = LoadProgress(
                stage="weights",
                done_bytes=None if size_bytes is None else size_bytes * done // max(total, 1),
                total_bytes=size_bytes,
            )
        for pattern, stage in _STAGES:
            if pattern.search(line):
                self.progress = LoadProgress(stage=stage)


def cause(lines: Sequence[str]) -> str | None:
    """The line with the reason of a failure; None if there is none.

    An engine core or worker that fails says so with a traceback, and those who depend on it fail
    after it with errors of their own: the last error that is not one of theirs is the cause.
    """
    following: str | None = None
    died: str | None = None
    for line in reversed(lines):
        logged = _LOGGED.match(line)
        said = (logged[1] if logged else _PREFIX.sub("", line)).strip()
        if refused := _ARGUMENT.match(said):
            return refused[1]
        if _EXCEPTION.match(said):
            if not any(words in said for words in _FOLLOWS):
                return said
            following = following or said
        elif logged and died is None and _DIED.search(said):
            died = said
    return died or following
