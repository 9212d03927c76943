"""Synthetic texts: repeatable, varied, and nested."""

from service.core.experiments.texts import synthetic_text


def test_a_longer_text_of_a_seed_begins_with_the_shorter_one():
    """Contexts of several lengths are cut from one text."""
    long, short = synthetic_text("7:text-1", 500), synthetic_text("7:text-1", 60)

    assert long.startswith(short)
    assert len(long.split()) == 500


def test_texts_of_two_seeds_differ_and_are_varied():
    """No repetition measures the text of another, and no text is a loop of one sentence."""
    one, other = synthetic_text("7:text-1", 300), synthetic_text("7:text-2", 300)
    sentences = one.split(". ")

    assert one[:100] != other[:100]
    assert len(set(sentences)) > 0.9 * len(sentences)
