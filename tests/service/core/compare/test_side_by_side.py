"""One message of several answers, and each arm's part of it again."""

from hypothesis import given
from hypothesis import strategies as st

from service.core.chat import Message
from service.core.compare.side_by_side import (
    TABLE_HEAD,
    Cost,
    cost_table,
    heading,
    no_answer,
    own_conversation,
    sections,
)

ARMS = ("alpha", "beta:int8")


def message(**answers):
    """A message of these answers, as the service makes it."""
    parts = "".join(
        f"{heading(model.replace('__', ':'))}\n\n{text}\n\n" for model, text in answers.items()
    )
    costs = [Cost(model=model, record=None, metrics=None) for model in ARMS]
    return parts + cost_table(costs, ["the arms ran at the same time"])


def test_a_message_is_split_into_its_answers():
    """Headings inside an answer, other than the arms' own, stay in it."""
    made = message(alpha="One.\n\n### Details\n\n| a | b |", beta__int8="Two.")
    assert sections(made, ARMS) == {
        "alpha": "One.\n\n### Details\n\n| a | b |",
        "beta:int8": "Two.",
    }


def test_other_messages_are_not_split():
    """A plain answer, an empty one, one that has a heading of its own."""
    for content in ("Hello.", "", "### Details\n\ntext", "see\n### alpha\n\ntext"):
        assert sections(content, ARMS) is None


def test_an_arm_without_an_answer_has_its_text_so_far():
    """The error was for the reader, not for the model."""
    failed = no_answer("engine_died", "The engine died.\nIt was killed.")
    made = message(alpha=f"One and\n\n{failed}", beta__int8=failed)
    assert sections(made, ARMS) == {"alpha": "One and", "beta:int8": ""}


def test_each_arm_sees_its_own_answers():
    """Other roles and messages of other making stay as they are."""
    made = message(alpha="One.", beta__int8="Two.")
    talk = (
        Message(role="user", content="### alpha\n\nhi"),
        Message(role="assistant", content=made),
        Message(role="user", content="more"),
        Message(role="assistant", content="plain"),
    )
    texts = {arm: [m.content for m in own_conversation(talk, arm, ARMS)] for arm in ARMS}
    assert texts["alpha"] == ["### alpha\n\nhi", "One.", "more", "plain"]
    assert texts["beta:int8"] == ["### alpha\n\nhi", "Two.", "more", "plain"]


def test_an_arm_that_was_not_asked_then_has_an_empty_turn():
    """The turns of the conversation still alternate."""
    made = message(alpha="One.")
    (turn,) = own_conversation((Message(role="assistant", content=made),), "beta:int8", ARMS)
    assert turn.content == ""


@given(st.text(), st.text())
def test_what_was_put_together_comes_apart(first, second):
    """Any text that does not itself hold a heading of an arm or the table's head."""
    own_lines = {*map(heading, ARMS), TABLE_HEAD}
    if any(line.rstrip() in own_lines for text in (first, second) for line in text.splitlines()):
        return
    if "*No answer" in first + second:
        return
    split = sections(message(alpha=first, beta__int8=second), ARMS)
    assert split is not None

    def plain(text):
        return "\n".join(text.splitlines()).strip()

    assert split["alpha"] == plain(first)
    assert split["beta:int8"] == plain(second)


def test_unknown_costs_are_a_dash_and_no_zero():
    """An arm that was refused has a row all the same."""
    table = cost_table([Cost(model="alpha", record=None, metrics=None)], ["x", "y"])
    assert "| alpha | – | – | – | – | – | – |" in table
    assert table.endswith("*One run each, which is no measurement: x; y.*")
