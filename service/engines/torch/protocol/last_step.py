"""Requests of an engine's last step, in memory that outlives the process that wrote it.

This module is imported by both sides and knows no torch.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct("=I")


class LastStep:
    """Request ids in memory that service and host share; the host writes, the service reads.

    If the host is killed, even by SIGKILL, the service still reads whose step it was in.
    """

    def __init__(self, descriptor: int) -> None:
        """Map the memory that `create` made; the descriptor is not needed afterwards."""
        self._memory = mmap.mmap(descriptor, BYTES)
        self._noted: Sequence[str] = ()

    @staticmethod
    def create() -> int:
        """A descriptor of fresh memory, to be passed to the host and closed."""
        descriptor = os.memfd_create("triptych-last-step")
        os.truncate(descriptor, BYTES)
        return descriptor

    def note(self, request_ids: Sequence[str]) -> None:
        """A step for these requests begins; none: the engine rests. Ids that do not fit are cut."""
        if request_ids == self._noted:
            return
        self._noted = request_ids
        body = "\n".join(request_ids).encode()[: BYTES - _LENGTH.size]
        # The length comes last: whoever dies in between has noted nothing, never half of it.
        _LENGTH.pack_into(self._memory, 0, 0)
        self._memory[_LENGTH.size : _LENGTH.size + len(body)] = body
        _LENGTH.pack_into(self._memory, 0, len(body))

    def read(self) -> tuple[str, ...]:
        """The requests of the step that was noted last."""
        (length,) = _LENGTH.unpack_from(self._memory)
        body = self._memory[_LENGTH.size : _LENGTH.size + length]
        return tuple(body.decode("utf-8", "replace").splitlines())

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()
