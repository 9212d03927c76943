"""Layout of a batch's header. All fields are int64, addresses where a name is plural.

They are plain numbers because numba takes those, and no members of an enumeration, for constants.
"""

from typing import Final

TOKENS: Final = 0
SEGMENTS: Final = 1
TOKEN_IDS: Final = 2
POSITIONS: Final = 3
SEGMENT_OF_TOKENS: Final = 4
FIRST_TOKENS: Final = 5
"""First token of each segment; one more entry for the end of the last."""
ROWS: Final = 6
"""Slot of each segment."""
LOGITS_ROWS: Final = 7
LOGITS_TOKENS: Final = 8
LOGITS: Final = 9
LONG_ROPES: Final = 10
"""1 for each token that LongRoPE's long factors rotate, else 0."""
PREFILLING: Final = 11
BLOCKS: Final = 12
"""Number of query blocks: at most QUERY_TOKENS tokens of one segment each."""
BLOCK_FIRSTS: Final = 13
BLOCK_TOKENS: Final = 14
SPLITS: Final = 15
"""Number of parts of a long context's keys, each read by one thread."""
SCRATCH: Final = 16
SCRATCH_BYTES: Final = 17
GROUPS: Final = 18
"""From here on three fields for each group of attention layers: addresses of the segments'
keys and values, their capacities in tokens, and the positions that were dropped before them."""

GROUP_FIELDS: Final = 3
HEAD_FIELDS: Final = 64
