"""Parsing and formatting of sizes in bytes, and of counts of operations."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B|B)")
_UNITS: dict[str, int] = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", 1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}


def parse_bytes(text: str) -> int:
    """Parse a size such as `8GiB`. Raises ValueError naming the units."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is not a size; write a number and a unit, such as 8GiB or 500MB "
            f"({', '.join(_UNITS)})"
        )
    return round(float(found[1]) * _UNITS[found[2]])


def human_bytes(count: float) -> str:
    """Format bytes in binary units with three significant digits: `1.46 MiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:  # noqa: PLR2004 (the binary step)
            break
        value, unit = value / 1024, larger
    # From 1000 on, `g` would switch to an exponent.
    digits = ".0f" if unit == "B" or abs(value) >= 100 else ".3g"  # noqa: PLR2004
    return f"{value:{digits}} {unit}"


def human_flops(count: float) -> str:
    """Format floating-point operations in decimal units with three significant digits."""
    value, unit = float(count), "FLOP"
    for larger in ("kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if abs(value) < 1000:  # noqa: PLR2004 (the decimal step)
            break
        value, unit = value / 1000, larger
    digits = ".0f" if unit == "FLOP" or abs(value) >= 100 else ".3g"  # noqa: PLR2004
    return f"{value:{digits}} {unit}"
