"""The head of a batch: where it says what. All fields are int64, addresses where a name is plural.

They are plain numbers because numba takes those, and no members of an enumeration, for constants.
"""

from typing import Final

TOKENS: Final = 0
SEGMENTS: Final = 1
TOKEN_IDS: Final = 2
POSITIONS: Final = 3
SEGMENT_OF_TOKENS: Final = 4
FIRST_TOKENS: Final = 5
"""Of each segment; one more says where the last one ends."""
ROWS: Final = 6
"""Of each segment: its slot."""
LOGITS_ROWS: Final = 7
LOGITS_TOKENS: Final = 8
LOGITS: Final = 9
LONG_ROPES: Final = 10
"""Of each token: whether LongRoPE's long factors rotate it."""
PREFILLING: Final = 11
BLOCKS: Final = 12
"""Of queries: at most QUERY_TOKENS tokens of one segment."""
BLOCK_FIRSTS: Final = 13
BLOCK_TOKENS: Final = 14
SPLITS: Final = 15
"""Into how many parts the keys are divided, each for another thread."""
SCRATCH: Final = 16
SCRATCH_BYTES: Final = 17
GROUPS: Final = 18
"""From here on three fields for each group of attention layers: addresses of the segments'
keys and values, their capacities in tokens, and the positions that were dropped before them."""

GROUP_FIELDS: Final = 3
HEAD_FIELDS: Final = 64
