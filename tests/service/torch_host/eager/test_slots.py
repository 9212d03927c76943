"""Slots are stable names; the rows under them move as sequences come and go."""

import pytest
import torch
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from service.torch_host.eager.slots import Slots


def slots(total: int = 4) -> Slots:
    """A cache with one attention layer and one recurrent layer of a one-element state."""
    recurrent = LinearAttentionLayer()
    recurrent.update_recurrent_state(torch.zeros(1, 1))
    return Slots(Cache(layers=[DynamicLayer(), recurrent]), slots=total, limit_tokens=64)


def write(held: Slots, values: dict[int, float]) -> None:
    """Let a step write one number into each slot's state."""
    order = held.select(list(values))
    held.cache.layers[1].update_recurrent_state(torch.tensor([[values[s]] for s in order]))


def read(held: Slots, asked: list[int]) -> dict[int, float]:
    order = held.select(asked)
    states = held.cache.layers[1].recurrent_states[0].flatten().tolist()
    return dict(zip(order, states, strict=True))


def test_slots_run_out():
    """When all slots are taken there is none; a released one comes back."""
    held = slots(2)
    first, second = held.take(), held.take()

    assert held.take() is None
    held.release(first)
    assert held.take() == first
    assert second != first


def test_states_follow_their_slots():
    """Whatever subset is stepped in whatever order, each slot finds its own state."""
    held = slots(4)
    taken = [held.take() for _ in range(4)]
    write(held, {slot: float(slot) for slot in taken})

    for asked in ([3, 1], [0, 2], [2], [1, 3, 0], [3, 2, 1, 0]):
        assert read(held, asked) == {slot: float(slot) for slot in asked}


def test_a_hole_is_filled_without_the_neighbours_noticing():
    """After a release in the middle, the others step together and keep their states."""
    held = slots(4)
    taken = [held.take() for _ in range(4)]
    write(held, {slot: float(slot) for slot in taken})
    held.release(1)

    assert read(held, [0, 2, 3]) == {0: 0.0, 2: 2.0, 3: 3.0}


def test_a_taken_slot_is_zero():
    """A slot taken again starts at zero, also after its row has moved."""
    held = slots(3)
    taken = [held.take() for _ in range(3)]
    write(held, dict.fromkeys(taken, 7.0))
    held.release(0)
    read(held, [1, 2])

    assert read(held, [held.take()]) == {0: 0.0}


def test_rows_do_not_move_in_a_steady_batch():
    """The same batch again works on the very same tensor: no copy a step."""
    held = slots(4)
    asked = [held.take() for _ in range(3)]
    held.select(asked)
    before = held.cache.layers[1].recurrent_states[0]
    held.select(asked)

    assert held.cache.layers[1].recurrent_states[0] is before


@pytest.mark.parametrize("asked", [[0, 0], [1], [0, 1]])
def test_only_distinct_taken_slots_are_stepped(asked):
    """A slot that is free, or named twice, is an error of the caller."""
    held = slots(4)
    held.take()

    with pytest.raises(ValueError, match="not distinct taken slots"):
        held.select(asked)


def test_a_slot_is_released_once():
    """Releasing a free slot is an error of the caller."""
    held = slots(2)
    slot = held.take()
    held.release(slot)

    with pytest.raises(KeyError):
        held.release(slot)


def test_unknown_cache_layers_are_refused():
    """A layer that keeps something else than what is known here is not silently dropped."""

    class IndexedLayer(DynamicLayer):
        pass

    with pytest.raises(TypeError, match="IndexedLayer"):
        Slots(Cache(layers=[IndexedLayer()]), slots=1, limit_tokens=8)
