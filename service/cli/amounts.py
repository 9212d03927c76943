"""Numbers as people read them."""


def human_bytes(count: float) -> str:
    """Bytes in binary units, three significant digits: `1.46 MiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:  # noqa: PLR2004 (the binary step)
            break
        value, unit = value / 1024, larger
    # From 1000 on, `g` would switch to an exponent.
    digits = ".0f" if unit == "B" or abs(value) >= 100 else ".3g"  # noqa: PLR2004
    return f"{value:{digits}} {unit}"
