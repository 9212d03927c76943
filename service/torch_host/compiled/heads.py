"""The shape of an attention layer, and the sizes in which its tokens are divided."""

from typing import Final, NamedTuple

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.lanes import LANES

#: Tokens of a segment whose queries are scored together.
QUERY_TOKENS: Final = 8
#: Keys whose scores are held at once; capacities are multiples of it.
KEY_TOKENS: Final = 64
#: Keys that one thread reads of a long context while others read the rest.
SPLIT_TOKENS: Final = 1024


class Heads(NamedTuple):
    """The shape of an attention layer, and where its keys and values lie in a slot."""

    queries: int
    keys: int
    size: int
    layer: int
    """Within its group of layers."""
    group: int
    window_tokens: int
    """0 for full attention."""

    @property
    def shared(self) -> int:
        """Query heads for each key head."""
        return self.queries // self.keys

    @property
    def value_size(self) -> int:
        """Size of a value, rounded up to whole panels."""
        return padded_size(self.size)

    @property
    def field(self) -> int:
        """Index of the group's fields in the batch's head."""
        return batch.GROUPS + 3 * self.group


def padded_size(size: int) -> int:
    """A head's size rounded up to whole panels."""
    return -(-size // LANES) * LANES
