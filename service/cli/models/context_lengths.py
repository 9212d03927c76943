"""Lengths in tokens as people write and read them: `8k` is 8,192."""

_KIBI = 1024


def read_tokens(text: str) -> int:
    """`8k` → 8192, `1m` → 1048576, `300` → 300. Raises ValueError naming the text."""
    word = text.strip().lower()
    factor = {"k": _KIBI, "m": _KIBI**2}.get(word[-1:], 1)
    digits = word if factor == 1 else word[:-1]
    if not digits.isdecimal() or int(digits) == 0:
        raise ValueError(f"{text!r} is not a length; write for example 1k,8k,128k or 4096")
    return int(digits) * factor


def human_tokens(count: int) -> str:
    """8192 → `8k`, 1048576 → `1m`; a round decimal number stays one: 128000 → `128,000`."""
    if count % _KIBI or count % 1000 == 0:
        return f"{count:,}"
    return f"{count // _KIBI**2}m" if count % _KIBI**2 == 0 else f"{count // _KIBI}k"
