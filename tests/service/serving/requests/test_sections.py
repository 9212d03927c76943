"""Sections: one arm's text at a time, in the order in which they began."""

from service.core.compare.side_by_side import TABLE_HEAD
from service.core.events import Delta, Started
from service.serving.requests.compare import ArmError, ArmEvent, ArmResult, Compared
from service.serving.requests.sections import Sections


def begun(arm, model):
    event = Started(queued_ns=0, scheduled_ns=0, prompt_tokens=1)
    return ArmEvent(arm=arm, model=model, event=event)


def delta(arm, model, text):
    return ArmEvent(arm=arm, model=model, event=Delta(text=text, token_ids=(1,), at_ns=0))


def ended(arm, model, error=None):
    return ArmResult(arm=arm, model=model, text="", record=None, error=error)


def compared(*arms):
    return Compared(
        comparison_id="c", mode="concurrent", order=(0, 1), order_seed=0, arms=arms, caveats=("x",)
    )


def test_arms_that_run_at_once_are_told_one_after_the_other():
    """The first is live; the others' texts wait."""
    sections = Sections()
    told = [
        sections.take(event)
        for event in (
            begun(0, "a"), begun(1, "b"), delta(1, "b", "B1"), delta(0, "a", "A1"),
            delta(1, "b", "B2"), ended(0, "a"), delta(1, "b", "B3"), ended(1, "b"),
        )
    ]  # fmt: skip
    assert told == ["### a\n\n", "", "", "A1", "", "\n\n### b\n\nB1B2", "B3", "\n\n"]


def test_an_arm_that_ended_while_it_waited_is_told_whole():
    """And the next one after it."""
    sections = Sections()
    events = [
        begun(0, "a"), begun(2, "c"), delta(2, "c", "C"), ended(2, "c"), begun(1, "b"),
        delta(1, "b", "B"), ended(0, "a"), ended(1, "b"),
    ]  # fmt: skip
    whole = "".join(sections.take(event) for event in events)
    assert whole == "### a\n\n\n\n### c\n\nC\n\n### b\n\nB\n\n"


def test_an_arm_that_never_began_is_told_with_its_error():
    """In its place, and in the table."""
    sections = Sections()
    refused = ended(0, "a", ArmError(code="does_not_fit", message="too large\nfor it"))
    answered = ended(1, "b")
    whole = "".join(
        sections.take(event)
        for event in (refused, begun(1, "b"), delta(1, "b", "B"), answered,
                      compared(refused, answered))
    )  # fmt: skip
    assert whole.startswith(
        "### a\n\n\n\n*No answer (does_not_fit): too large for it*\n\n### b\n\nB\n\n" + TABLE_HEAD
    )
    assert "| a | – |" in whole
