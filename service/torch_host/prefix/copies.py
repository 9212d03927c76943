"""StateCopies: what the prefix cache needs of a model, to copy a slot's state and to restore it."""

from collections.abc import Sequence
from typing import Any, Protocol


class StateCopies(Protocol):
    """Copies of the state of a model's slots. Blocks have 64 tokens; copies never change."""

    @property
    def by_snapshot(self) -> bool:
        """True if keys and values alone do not make the state of a sequence."""

    @property
    def decode_differs(self) -> bool:
        """True if a decoded token leaves another state than a prefilled one."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's keys and values in layers of full attention."""

    def snapshot_bytes(self, slot: int) -> int:
        """Bytes that a snapshot of a slot would take now."""

    def copy_block(self, slot: int, index: int) -> Any:  # noqa: ANN401 - known to the model alone
        """Copy the keys and values of one block that lies in the slot completely."""

    def copy_snapshot(self, slot: int) -> Any:  # noqa: ANN401
        """Copy all of a slot's state that its whole blocks do not hold."""

    def restore(self, slot: int, tokens: int, blocks: Sequence[Any], snapshot: Any) -> None:  # noqa: ANN401
        """Put the state after so many tokens into a cleared slot."""
