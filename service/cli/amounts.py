"""Numbers as people read them."""


def human_bytes(count: float) -> str:
    """Bytes in binary units, three significant digits: `1.46 MiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:  # noqa: PLR2004 (the binary step)
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
