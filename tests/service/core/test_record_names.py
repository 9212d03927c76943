"""Names of numbers say their unit."""

import typing

import pytest
from msgspec import Struct

from service.core.events import ModelMemory, StateBytes
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord

UNITS = ("_ns", "_ms", "_s", "_bytes", "_tokens", "_percent", "_per_s")
#: Plain counts and positions, which have no unit.
COUNTS = {"arm", "co_scheduled", "slots_total", "slots_used"}


def numeric_fields(struct: type[Struct]) -> set[str]:
    return {
        name
        for name, kind in typing.get_type_hints(struct).items()
        if {int, float} & {kind, *typing.get_args(kind)}
    }


@pytest.mark.parametrize("struct", [RequestRecord, RequestMetrics, StateBytes, ModelMemory])
def test_every_number_names_its_unit(struct: type[Struct]) -> None:
    """A number without a unit suffix is one of the few counts."""
    unnamed = {name for name in numeric_fields(struct) if not name.endswith(UNITS)}

    assert unnamed <= COUNTS


def test_numeric_fields_are_seen() -> None:
    """The check above looks at optional numbers too, and not at texts or flags."""
    found = numeric_fields(RequestRecord)

    assert {"accepted_ns", "itl_max_ns", "prompt_tokens", "arm"} <= found
    assert not {"request_id", "cold", "sampling"} & found
