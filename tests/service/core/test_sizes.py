"""Bytes as people write and read them."""

import pytest

from service.core.sizes import human_bytes, human_flops, parse_bytes


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (614_400, "600 KiB"),
        (1_073_741_824, "1 GiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_bytes_have_a_binary_unit_and_three_digits(count, shown):
    """The largest unit of which there is at least one; TiB takes what is larger."""
    assert human_bytes(count) == shown


def test_a_thousand_of_a_unit_is_no_exponent():
    """Between 1,000 and 1,023 KiB the number was shown as `1.02e+03 KiB`."""
    assert human_bytes(1020 * 1024) == "1020 KiB"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * 2**30),
        ("500 MB", 500_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_is_a_number_and_a_unit(text, count):
    """Binary and decimal units are told apart."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "8", "8G", "-1GiB", "8 gib", "1e3MB", "8GiB ", "GiB", "1,5MB"]
)
def test_anything_else_is_refused_with_what_is_allowed(text):
    """`8G` may mean either: nobody guesses."""
    with pytest.raises(ValueError, match="such as 8GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (1_500_000, "1.5 MFLOP"), (999.9e9, "1000 GFLOP")],
)
def test_operations_have_a_decimal_unit_and_three_digits(count, shown):
    """Operations are counted in powers of ten, unlike bytes."""
    assert human_flops(count) == shown
