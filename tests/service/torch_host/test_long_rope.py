"""The factors of a sequence, and scalings that cannot be served."""

from types import SimpleNamespace

import pytest

from service.core.errors import ModelNotReady
from service.torch_host.long_rope import LongRope, long_rope

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 24}


def test_short_factors_hold_up_to_the_switch():
    """A sequence that was short when it began needs other factors beyond the switch."""
    rope = LongRope(24, slots=1)
    rope.begin(0, 20)

    assert (rope.is_long(0), rope.holds(0, 24), rope.holds(0, 25)) == (False, True, False)


def test_long_factors_hold_for_every_length():
    """A prompt known to be long is rotated with the long factors from its first token."""
    rope = LongRope(24, slots=1)
    rope.begin(0, 25)

    assert (rope.is_long(0), rope.holds(0, 1), rope.holds(0, 1000)) == (True, True, True)


def test_a_slot_begins_anew():
    """The factors of a slot's last sequence do not reach the next one."""
    rope = LongRope(24, slots=2)
    rope.begin(0, 25)
    rope.begin(0, 3)

    assert not rope.is_long(0)


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
