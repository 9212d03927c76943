"""Bytes as people read them."""

import pytest

from service.cli.amounts import human_bytes


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
