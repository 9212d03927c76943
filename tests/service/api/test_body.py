"""Bodies are decoded strictly, and errors say what to change."""

import pytest
from msgspec import Struct

from service.api.body import decode_body
from service.core.errors import InvalidRequest


class Inner(Struct, forbid_unknown_fields=True):
    name: str


class Outer(Struct):
    inner: list[Inner]
    biases: dict[int, float] | None = None
    flag: bool | None = None


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"{}", "`inner` is missing.", "inner"),
        (b'{"inner": [{}]}', "`inner[0].name` is missing.", "inner[0].name"),
        (
            b'{"inner": [{"name": "x", "more": 1}]}',
            "`inner[0].more` is not a field of this request.",
            "inner[0].more",
        ),
        (
            b'{"inner": [], "flag": "true"}',
            "`flag`: expected `bool | null`, got `str`.",
            "flag",
        ),
        (
            b'{"inner": [], "biases": {"1": "x"}}',
            "`biases`: expected `float`, got `str`.",
            "biases",
        ),
        (
            b'{"inner": [], "biases": {"x": 1}}',
            "`biases`: expected `int`, got `str`.",
            "biases",
        ),
        (b"[]", "The request body is invalid: expected `object`, got `array`.", None),
        (b"{", "The request body is not valid JSON: Input data was truncated.", None),
        (
            b'{"inner": [{"name": "\xff"}]}',
            "The request body is not valid JSON, or is nested too deeply.",
            None,
        ),
        (
            b'{"a": ' + b"[" * 100_000,
            "The request body is not valid JSON, or is nested too deeply.",
            None,
        ),
    ],
)
def test_an_error_names_the_field_and_the_rule(body, message, param):
    """Where in the body, and what was expected there."""
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, Outer)

    assert (str(caught.value), caught.value.param) == (message, param)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/compare", "/tokenize", "/models/load"]
)
def test_an_empty_body_is_called_empty(live, path):
    """It was once "The request body is invalid: 'data'"."""
    response = live.client.post(path)

    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The request body is empty; send JSON."
