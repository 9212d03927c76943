"""One table of sampling parameters, which the API, the engines and other servers share."""

import math

import msgspec
import pytest

from service.api.openai.schema import SamplingFields
from service.core.chat import ChatPrompt, ChatRequest, Message, TextPrompt
from service.core.chat.sampling import BOUNDS, PARAMETERS, Sampling, bounds_of
from service.core.errors import InvalidRequest, UnsupportedField
from service.engines.limits import check_sampling
from service.engines.openai.dialects import DIALECTS, body

#: A value of each parameter that changes answers.
CHANGED = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logit_bias": {3: 1.0},
    "seed": 7,
    "max_tokens": 9,
    "min_tokens": 2,
    "stop": ("x",),
    "ignore_eos": True,
    "logprobs": 2,
}
#: Where the API takes fewer or more values than engines, and why.
OWN_BOUNDS = {
    "max_tokens": {"ge": 1},  # 0 only scores a prompt, which no client asks for
    "top_k": {"ge": -1},  # vLLM and llama.cpp write "no limit" as -1 and 0
}


def written(prompt, dialect, **sampling):
    """The body that a server of the kind gets."""
    request = ChatRequest(
        request_id="r",
        model="m",
        prompt=prompt,
        sampling=Sampling(**sampling),
        accepted_ns=0,
        accepted_at_ns=0,
    )
    return body(request, "far", dialect, max_tokens=request.sampling.max_tokens)


def test_every_parameter_is_in_the_table_and_in_this_test():
    """A new parameter has names on the wire, and a value to test it with."""
    assert set(PARAMETERS) == set(CHANGED) == set(Sampling.__struct_fields__)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize(
    "prompt", [ChatPrompt((Message(role="user", content="x"),)), TextPrompt("x")]
)
def test_no_parameter_is_dropped_on_the_way_to_a_server(name, kind, prompt):
    """It changes the body that is sent, under the server's name, or is refused by its own."""
    if kind not in PARAMETERS[name].servers:
        with pytest.raises(UnsupportedField) as caught:
            written(prompt, DIALECTS[kind], **{name: CHANGED[name]})
        assert caught.value.param == name
        return
    changed = written(prompt, DIALECTS[kind], **{name: CHANGED[name]})
    assert changed != written(prompt, DIALECTS[kind])
    assert PARAMETERS[name].servers[kind] in changed


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - {"logprobs"}))
def test_the_api_has_the_same_bounds(name):
    """What the API accepts no engine refuses, except for what is said above."""
    fields = {field.name: field for field in msgspec.inspect.type_info(SamplingFields).fields}
    ours, wire = BOUNDS.get(name), bounds_of(fields[name].type)
    if name in OWN_BOUNDS:
        ours = msgspec.structs.replace(ours, lowest=OWN_BOUNDS[name]["ge"])
    assert wire == ours


@pytest.mark.parametrize("name", BOUNDS)
def test_engines_hold_values_to_the_bounds(name):
    """Just outside is refused by name, the bounds themselves are not."""
    bounds = BOUNDS[name]

    def check(value):
        value = {3: value} if name == "logit_bias" else value
        check_sampling(Sampling(**{name: value}), vocabulary_tokens=10)

    below = math.nextafter(bounds.lowest, -math.inf)
    above = math.nextafter(bounds.highest, math.inf)
    for value in (below, above, math.nan):
        if not math.isinf(value):
            with pytest.raises(InvalidRequest, match=name) as caught:
                check(value)
            assert caught.value.param == name
    if not bounds.above_lowest:
        check(bounds.lowest)


def test_top_p_of_nothing_is_refused():
    """An open bound excludes the bound itself."""
    with pytest.raises(InvalidRequest, match="above 0 and at most 1"):
        check_sampling(Sampling(top_p=0.0), vocabulary_tokens=10)


def test_every_default_is_within_its_bounds():
    """A request that names nothing is never refused."""
    check_sampling(Sampling(), vocabulary_tokens=10)
