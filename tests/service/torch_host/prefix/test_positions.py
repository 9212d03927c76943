"""Where snapshots of a prompt are taken."""

from hypothesis import given
from hypothesis import strategies as st

from service.torch_host.prefix.positions import LEAST_TOKENS, MOST, snapshot_positions


def test_message_junction_and_prompt_are_kept():
    """The junction, the beginning of the last message and the whole prompt, in order."""
    found = snapshot_positions(900, restored_tokens=0, matched_tokens=300, message_start=850)

    assert found == [300, 850, 900]


def test_long_prompts_are_kept_at_regular_distances():
    """Every 1,024 tokens, and less often where that would be too many."""
    long = snapshot_positions(4000, restored_tokens=0, matched_tokens=0, message_start=0)
    longest = snapshot_positions(32_000, restored_tokens=0, matched_tokens=0, message_start=0)

    assert long == [1024, 2048, 3072, 4000]
    assert longest == [7168, 14336, 21504, 28672, 32000]


def test_what_was_restored_is_not_kept_again():
    """Positions up to the restored one are there already, and near ones are not worth a copy."""
    found = snapshot_positions(3000, restored_tokens=2048, matched_tokens=2048, message_start=2990)

    assert found == [2990]


@given(
    prompt=st.integers(1, 100_000),
    restored=st.integers(0, 100_000),
    matched=st.integers(0, 100_000),
    start=st.integers(0, 100_000),
)
def test_they_are_few_and_apart(prompt, restored, matched, start):
    """Ascending, apart, behind the restored tokens and within the prompt."""
    found = snapshot_positions(
        prompt, restored_tokens=restored, matched_tokens=matched, message_start=start
    )

    assert len(found) <= MOST
    assert all(position <= prompt for position in found)
    steps = [after - before for before, after in zip([restored, *found], found, strict=False)]
    assert all(step >= LEAST_TOKENS for step in steps)
