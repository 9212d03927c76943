"""The slot cache's attention against the textbook formula."""

import pytest
import torch

from service.torch_host.eager.attention import Attended, Masks, attend

MODULE = torch.nn.Identity()


def reference(query, keys, values, *, scale, window=None):
    """Softmax attention of one row, heads repeated, one query after another."""
    heads, count, _ = query.shape
    keys = keys.repeat_interleave(heads // keys.shape[0], 0)
    values = values.repeat_interleave(heads // values.shape[0], 0)
    past = keys.shape[1] - count
    out = []
    for i in range(count):
        last = past + i + 1
        first = 0 if window is None else max(0, last - window)
        scores = (keys[:, first:last] @ query[:, i, :, None] * scale).softmax(1)
        out.append((scores.transpose(1, 2) @ values[:, first:last]).squeeze(1))
    return torch.stack(out)


def attended(lengths, *, key_heads=2, size=8, value_size=8, window=None) -> Attended:
    drawn = torch.Generator().manual_seed(5)
    keys = [torch.randn(key_heads, n, size, generator=drawn) for n in lengths]
    values = [torch.randn(key_heads, n, value_size, generator=drawn) for n in lengths]
    return Attended(keys, values, window, Masks())


def test_rows_of_any_length_decode_together():
    """Each row of a batch attends to its own tokens, whatever the others' lengths."""
    held = attended([3, 40, 1])
    query = torch.randn(3, 6, 1, 8)

    mixed, _ = attend(MODULE, query, held, None, None, scaling=0.3)

    for row in range(3):
        expected = reference(query[row], held.keys[row], held.values[row], scale=0.3)
        torch.testing.assert_close(mixed[row], expected)


def test_neighbours_change_no_bit():
    """A row's result is bitwise the same alone and beside longer rows."""
    held = attended([7, 90])
    query = torch.randn(2, 6, 1, 8)
    alone = Attended(held.keys[:1], held.values[:1], None, Masks())

    together, _ = attend(MODULE, query, held, None, None)
    single, _ = attend(MODULE, query[:1], alone, None, None)

    assert torch.equal(together[0], single[0])


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("past", [0, 9])
def test_chunks_are_causal(window, past):
    """Tokens of a chunk see the past and each other up to themselves, within the window."""
    held = attended([past + 5], window=window)
    query = torch.randn(1, 4, 5, 8)

    mixed, _ = attend(MODULE, query, held, None, None, scaling=0.5)

    expected = reference(query[0], held.keys[0], held.values[0], scale=0.5, window=window)
    torch.testing.assert_close(mixed[0], expected)


def test_values_may_be_narrower_than_keys():
    """The result has the values' head size."""
    held = attended([6], value_size=4)
    query = torch.randn(1, 2, 3, 8)

    mixed, _ = attend(MODULE, query, held, None, None)

    assert mixed.shape == (1, 3, 2, 4)


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"s_aux": torch.zeros(1)}])
def test_unknown_arithmetic_is_refused(asked):
    """A model that wants soft-capped scores or sinks is not answered with something else."""
    with pytest.raises(NotImplementedError, match="Identity"):
        attend(MODULE, torch.randn(1, 2, 1, 8), attended([3]), None, None, **asked)
