"""Keys and values that grow, and rows of constant size."""

import pytest
import torch

from service.torch_host.eager.states import KeyValues, StateRows


def tokens(first: int, count: int) -> torch.Tensor:
    """Keys (1 head, count, 1) that are their own positions."""
    return torch.arange(first, first + count, dtype=torch.float32)[None, :, None]


def append(held: KeyValues, first: int, count: int) -> list[float]:
    keys, values = held.append(tokens(first, count), -tokens(first, count))
    assert torch.equal(keys, -values)
    return keys.flatten().tolist()


def test_full_attention_sees_everything():
    """Without a window new tokens attend to all earlier ones, however often the buffer grew."""
    held = KeyValues(None, limit_tokens=1000)
    for first in range(0, 300, 3):
        seen = append(held, first, 3)

    assert seen == list(range(300))
    assert held.length_tokens == 300


@pytest.mark.parametrize("chunk", [1, 3, 8, 20])
def test_window_sees_the_last_tokens(chunk):
    """With a window the first of the new tokens sees `window` tokens, itself among them."""
    held = KeyValues(8, limit_tokens=1000)
    for first in range(0, 200, chunk):
        seen = append(held, first, chunk)
        assert seen == list(range(max(0, first - 7), first + chunk))


def test_window_keeps_what_the_next_token_sees():
    """The live bytes of a window stop growing one token before its size."""
    held = KeyValues(8, limit_tokens=1000)
    append(held, 0, 5)
    short = held.live_bytes
    append(held, 5, 50)

    assert (short, held.live_bytes) == (5 * 2 * 4, 7 * 2 * 4)


def test_window_gives_a_long_prompt_back():
    """The buffer that a long chunk needed shrinks again while decoding."""
    held = KeyValues(8, limit_tokens=1000)
    append(held, 0, 500)
    for position in range(500, 540):
        append(held, position, 1)

    assert held.reserved_bytes <= 4 * 8 * 2 * 4


def test_reserve_is_bounded_by_the_context():
    """A buffer never grows beyond the model's context while the sequence is within it."""
    held = KeyValues(None, limit_tokens=100)
    append(held, 0, 90)
    append(held, 90, 10)

    assert held.reserved_bytes == 100 * 2 * 4


def test_clear_gives_the_memory_back():
    """A cleared sequence holds and reserves nothing."""
    held = KeyValues(None, limit_tokens=100)
    append(held, 0, 10)
    held.clear()

    assert (held.live_bytes, held.reserved_bytes, held.length_tokens) == (0, 0, 0)
    assert append(held, 0, 2) == [0, 1]


def rows_of_three() -> StateRows:
    rows = StateRows(torch.zeros(1, 2), 3)
    rows.tensor += torch.arange(1.0, 4.0)[:, None]
    return rows


def test_move_overwrites_and_clear_is_zero():
    """A moved row is in both places until one of them is cleared."""
    rows = rows_of_three()
    rows.move(2, 1)
    rows.clear(2)

    assert rows.tensor[:, 0].tolist() == [1, 3, 0]
    assert rows.row_bytes == 8


def test_swap_keeps_both_rows():
    """Two live rows exchange their places."""
    rows = rows_of_three()
    rows.swap(0, 2)

    assert rows.tensor[:, 1].tolist() == [3, 2, 1]
