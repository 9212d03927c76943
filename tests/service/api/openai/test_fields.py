"""Fields beyond the schema."""

import json
import logging

import pytest

from service.api.openai.fields import REFUSED, FieldCheck
from service.core.errors import UnsupportedField

KNOWN = ("model", "messages")


def check(fields, **body):
    fields.check(json.dumps(body).encode(), KNOWN)


def test_an_unknown_name_is_logged_once(caplog):
    """However often it comes, and never with its value."""
    fields = FieldCheck()
    with caplog.at_level(logging.INFO, logger="service.api.openai.fields"):
        for _ in range(3):
            check(fields, model="m", mirostat="secret")
    assert [record.getMessage() for record in caplog.records] == [
        "ignored the unknown request field 'mirostat'"
    ]


def test_a_client_cannot_fill_the_log_with_names(caplog):
    """A thousand names are 256 lines."""
    fields = FieldCheck()
    with caplog.at_level(logging.INFO, logger="service.api.openai.fields"):
        check(fields, **{f"name{number}": 1 for number in range(1000)})
    assert len(caplog.records) == FieldCheck.most_names


def test_labels_are_not_even_logged(caplog):
    """They concern features that have no effect here."""
    with caplog.at_level(logging.INFO, logger="service.api.openai.fields"):
        check(FieldCheck(), metadata={"a": 1}, service_tier="auto")
    assert caplog.records == []


@pytest.mark.parametrize("name", sorted(set(REFUSED) - set(KNOWN)))
def test_a_refused_field_may_be_null_or_have_a_value_that_changes_nothing(name):
    """Anything else is refused by name."""
    fields = FieldCheck()
    for harmless in (None, *REFUSED[name]):
        check(fields, **{name: harmless})
    with pytest.raises(UnsupportedField, match=name) as caught:
        check(fields, **{name: {"other": 1}})
    assert caught.value.param == name


def test_true_is_not_one():
    """`n: true` is a mistake, and once passed for one answer."""
    with pytest.raises(UnsupportedField, match="`n`"):
        check(FieldCheck(), n=True)
