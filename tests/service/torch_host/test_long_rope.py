"""Which sequences are computed anew, and which scalings cannot be served."""

from types import SimpleNamespace

import pytest

from service.core.errors import ModelNotReady
from service.torch_host.long_rope import LongRope, long_rope

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 24}


def test_a_sequence_crosses_once():
    """Only the tokens that take a non-empty sequence beyond the switch have it computed anew."""
    rope = LongRope(24, slots=1)

    assert not rope.crosses(0, 30)  # nothing is held yet
    rope.append(0, range(20))
    assert not rope.crosses(0, 4)
    assert rope.crosses(0, 5)
    rope.append(0, range(5))
    assert not rope.crosses(0, 1)


def test_a_slot_taken_again_forgets():
    """The tokens of the last request are not computed into the next one."""
    rope = LongRope(24, slots=1)
    rope.append(0, [1, 2])
    rope.clear(0)

    assert rope.append(0, [7]) == [7]


@pytest.mark.parametrize(
    "parameters",
    [LONG, {"full_attention": LONG, "sliding_attention": {"rope_type": "default"}}],
)
def test_long_rope_is_found(parameters):
    """Also where each kind of attention layer has parameters of its own."""
    rope = long_rope(SimpleNamespace(rope_parameters=parameters), slots=1)

    assert rope.switch_tokens == 24


@pytest.mark.parametrize("parameters", [None, {"rope_type": "yarn"}, {"rope_type": "llama3"}])
def test_fixed_frequencies_need_nothing(parameters):
    """Without rotary embedding, or with a fixed scaling, there is nothing to watch."""
    assert long_rope(SimpleNamespace(rope_parameters=parameters), slots=1) is None


def test_dynamic_scaling_is_refused_where_it_is_nested():
    """One kind of layer with dynamic scaling is enough to refuse the model."""
    parameters = {"full_attention": {"rope_type": "dynamic"}}

    with pytest.raises(ModelNotReady, match="dynamic"):
        long_rope(SimpleNamespace(rope_parameters=parameters), slots=1)
