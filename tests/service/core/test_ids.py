"""Ids are unique, sort by age, and say what they are."""

import time

from service.core.ids import new_comparison_id, new_request_id, uuid7


def test_a_uuid7_has_its_version_and_variant():
    """RFC 9562: version 7, variant 10."""
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")


def test_a_uuid7_carries_its_time_in_milliseconds():
    """The first 48 bits."""
    before_ms = time.time_ns() // 1_000_000
    assert before_ms <= uuid7().int >> 80 <= time.time_ns() // 1_000_000


def test_ids_do_not_repeat():
    """Ten thousand in a row."""
    assert len({new_request_id() for _ in range(10_000)}) == 10_000


def test_ids_say_what_they_are():
    """A prefix for requests and one for comparisons."""
    assert new_request_id().startswith("req-")
    assert new_comparison_id().startswith("cmp-")
