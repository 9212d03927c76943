"""Text of an answer: exact UTF-8 and exact stop strings, however tokens split it."""

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from service.engines.text.answer_text import AnswerText

# Few letters, so that stop strings occur, overlap and nearly occur; some of several bytes.
texts = st.text(st.sampled_from("abé€😀"), max_size=40)
stops = st.lists(st.text(st.sampled_from("abé€😀"), min_size=1, max_size=4), max_size=3)


@st.composite
def split(draw, of):
    """Bytes cut at random places, also inside characters."""
    data = draw(of)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def until_stop(text, stop):
    """What a reader of the whole text would cut: before the stop string that ends first."""
    matches = [
        (text.find(string) + len(string), text.find(string)) for string in stop if string in text
    ]
    return text[: min(matches)[1]] if matches else text


@given(split(texts.map(str.encode)), stops)
@example([b"ab", b"b"], ["bb", "abb"])
def test_any_split_gives_the_text_before_the_first_stop_string(pieces, stop):
    """Deltas and the end are the whole text up to the stop string that ends first."""
    answer = AnswerText(stop)
    text = "".join(answer.push(piece) for piece in pieces if not answer.stopped)
    text += answer.finish()

    assert until_stop(b"".join(pieces).decode(), stop) == text


@given(split(st.binary(max_size=40)))
def test_any_bytes_are_decoded_as_a_whole(pieces):
    """Deltas and the end equal the decoding of all bytes, valid UTF-8 or not."""
    answer = AnswerText()

    assert b"".join(pieces).decode("utf-8", "replace") == (
        "".join(map(answer.push, pieces)) + answer.finish()
    )


@given(split(texts.map(str.encode)))
def test_an_incomplete_character_is_never_shown(pieces):
    """No delta of valid text has a replacement character."""
    answer = AnswerText()

    assert "\ufffd" not in "".join(map(answer.push, pieces))


@given(split(texts.map(str.encode)), stops)
def test_no_more_is_held_back_than_could_begin_a_stop_string(pieces, stop):
    """What is held back is shorter than the longest stop string, and begins one."""
    answer, shown, seen = AnswerText(stop), "", b""
    for piece in pieces:
        seen += piece
        shown += answer.push(piece)
        if answer.stopped:
            return
        held = seen.decode("utf-8", "ignore").removeprefix(shown)

        assert not held or any(string.startswith(held) and string != held for string in stop)


def test_an_incomplete_character_at_the_end_is_replaced():
    """Bytes that never became a character come out as U+FFFD when the answer ends."""
    answer = AnswerText()

    assert (answer.push("a€".encode()[:-1]), answer.finish()) == ("a", "\ufffd")


def test_nothing_comes_after_a_stop_string():
    """The end of a stopped answer adds nothing."""
    answer = AnswerText(["\n\n"])

    assert (answer.push(b"one\n\ntwo"), answer.finish()) == ("one", "")
    assert answer.stopped


def test_an_unwatched_stop_string_is_text():
    """Before the minimum length a stop string is let through, and not found later."""
    answer = AnswerText(["stop"])

    assert answer.push(b"a stop ", watch=False) == "a stop "
    assert answer.push(b"and stop") == "and "
    assert answer.stopped


def test_a_leading_space_is_stripped_once():
    """A tokenizer's own leading space goes, the text's second one stays."""
    answer = AnswerText(strip_leading_space=True)

    assert [answer.push(b"  a"), answer.push(b" b")] == [" a", " b"]
