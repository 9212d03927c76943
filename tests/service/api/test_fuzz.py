"""Whatever a client sends, it gets an answer or an error of ours, never a 500."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.compare.schema import CompareBody
from service.api.openai.fields import REFUSED
from service.api.openai.schema import ChatCompletionBody, CompletionBody
from service.api.tokenizer import DetokenizeBody, TokenizeBody

SCALARS = (msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.BoolType)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.text(max_size=20),
    }
)
ODD_TURN = st.fixed_dictionaries(
    {"role": st.just("user") | JSON},
    optional={
        "content": st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}))
        | JSON,
        "name": JSON,
        "tool_calls": JSON,
    },
)
TOKENS = st.lists(st.integers(-1, 300) | st.integers(0, 2**54), max_size=6)
ARM = st.fixed_dictionaries({"model": st.sampled_from(["echo", "other", "nobody"])})
#: Values that are mostly right, so that requests get past the first check.
LIKELY = {
    "model": st.sampled_from(["echo", "other", "echo:half", "half-half", "nobody", ""]),
    "messages": st.lists(TURN, min_size=1, max_size=3) | st.lists(TURN | ODD_TURN, max_size=3),
    "prompt": st.text(max_size=20)
    | st.lists(st.integers(-1, 2**54), max_size=4)
    | st.lists(st.text()),
    "tokens": TOKENS,
    "arms": st.lists(
        st.fixed_dictionaries({"model": st.sampled_from(["echo", "nobody"])}), max_size=4
    ),
    "max_tokens": st.integers(-1, 50),
    "temperature": st.floats(-1, 3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    "logprobs": st.booleans() | st.integers(-1, 21),
    "logit_bias": st.dictionaries(
        st.integers(0, 2**42).map(str), st.integers(-101, 101), max_size=3
    ),
    "stream": st.booleans(),
    "echo": st.booleans(),
}
BODIES = {
    "/v1/chat/completions": (ChatCompletionBody, ("model", "messages")),
    "/v1/completions": (CompletionBody, ("model", "prompt")),
    "/v1/compare": (CompareBody, ("messages", "arms")),
    "/tokenize": (TokenizeBody, ("model", "prompt")),
    "/detokenize": (DetokenizeBody, ("model", "tokens")),
}


@st.composite
def bodies(draw, path):
    """What the path needs, and up to three more fields."""
    kind, needed = BODIES[path]
    others = sorted({*kind.__struct_fields__, *REFUSED, "unknown"} - set(needed))
    names = [*needed, *draw(st.lists(st.sampled_from(others), max_size=3, unique=True))]
    return {name: draw(LIKELY.get(name, JSON | st.none())) for name in names}


def check(live, path, content):
    headers = {"content-type": "application/json"}
    response = live.client.post(path, content=content, headers=headers)
    assert response.headers["x-request-id"].startswith("req-")
    assert response.status_code in (200, 400, 404, 413), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")


def scalars(kind):
    """Fields that take a number or a boolean and no text."""
    for field in msgspec.inspect.type_info(kind).fields:
        types = getattr(field.type, "types", (field.type,))
        if not any(isinstance(each, msgspec.inspect.StrType) for each in types):
            for each in types:
                if isinstance(each, SCALARS):
                    yield field.encode_name, each


@pytest.mark.parametrize(
    ("path", "field", "kind"),
    [(path, *each) for path, (kind, _) in BODIES.items() for each in scalars(kind)],
)
def test_no_field_takes_a_quoted_value(live, path, field, kind):
    """`"1"` is no number and `"true"` no boolean, on any endpoint, and nor is 1 a boolean."""
    wrong = ["1", "true", 1] if isinstance(kind, msgspec.inspect.BoolType) else ["1", True]
    for value in wrong:
        body = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
        body |= {"tokens": [1], "arms": [{"model": "echo"}] * 2}
        body = {name: body[name] for name in BODIES[path][1]} | {field: value}
        response = live.post(path, body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field


@pytest.mark.parametrize("path", BODIES)
def test_bodies_of_plausible_fields_are_never_a_500(live, path):
    """A few fields at a time, right and wrong ones."""

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bodies(path))
    def fuzz(body):
        check(live, path, json.dumps(body))

    fuzz()


@pytest.mark.parametrize("path", BODIES)
def test_bytes_of_any_kind_are_never_a_500(live, path):
    """Also those that are nearly JSON."""

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
    def fuzz(content):
        check(live, path, content)

    fuzz()
