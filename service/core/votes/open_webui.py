"""Ratings of Open WebUI's feedback export as preferences between answers.

Reads what `GET /api/v1/evaluations/feedbacks/all/export` returns (Open WebUI 0.6 to 0.12): a list
of feedbacks with `data.rating` 1 or -1, `data.model_id`, `data.sibling_model_ids`, `meta.chat_id`,
`meta.message_id`, and the conversation under `snapshot.chat.chat.history.messages`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from service.core.votes.vote import Choice

_UP: Final = 1
_DOWN: Final = -1


class Rated(Struct, frozen=True, kw_only=True):
    """An answer in the chat tool."""

    message_id: str | None
    """None where the export has only the model's name."""
    model: str
    """Model or route as the chat tool names it."""
    response_id: str | None
    """Id of our answer, which the tool keeps with the usage of blind answers."""


class Preference(Struct, frozen=True, kw_only=True):
    """What a person's thumbs say of two answers to one message."""

    key: str
    """The same for the same two answers in every export."""
    at_s: int
    voter: str | None
    left: Rated
    right: Rated
    choice: Choice


class Export(Struct, frozen=True, kw_only=True):
    """Preferences of an export, and why its other feedbacks are none."""

    preferences: tuple[Preference, ...]
    unused: dict[str, int]
    """Feedbacks by reason."""


class _Feedback(Struct, frozen=True, kw_only=True):
    feedback_id: str
    at_s: int
    voter: str | None
    rating: int
    group: str
    """The message that was answered: answers of one group are alternatives."""
    own: Rated
    siblings: tuple[Rated, ...]


def read_export(feedbacks: Iterable[object]) -> Export:
    """Read preferences from an export.

    A thumb up is a win against each sibling without a thumb of its own, a thumb down a loss. Two
    answers with equal thumbs are a tie, or both bad: neither person preferred one. A thumb without
    siblings compares nothing and counts for nothing.
    """
    unused: Counter[str] = Counter()
    read: list[_Feedback] = []
    for raw in feedbacks:
        feedback = _feedback(raw)
        if isinstance(feedback, str):
            unused[feedback] += 1
        else:
            read.append(feedback)
    latest = {(one.group, _identity(one.own)): one for one in sorted(read, key=lambda f: f.at_s)}
    if len(latest) < len(read):
        unused["replaced by a later rating of the same answer"] += len(read) - len(latest)
    preferences: dict[str, Preference] = {}
    for one in latest.values():
        for number, sibling in enumerate(one.siblings):
            other = latest.get((one.group, _identity(sibling)))
            preference = _preference(one, sibling, other, number)
            preferences.setdefault(preference.key, preference)
    return Export(preferences=tuple(preferences.values()), unused=dict(unused))


def trimmed(feedback: object) -> object:
    """A feedback without everything that is not read here: texts, titles, settings, comments."""
    if not isinstance(feedback, Mapping):
        return feedback
    data, meta = _dict(feedback.get("data")), _dict(feedback.get("meta"))
    family = _family(feedback)
    messages = {
        message_id: {
            "parentId": message.get("parentId"),
            "childrenIds": message.get("childrenIds"),
            "model": message.get("model"),
            "selectedModelId": message.get("selectedModelId"),
            "usage": {"response_id": _response_id(message)},
        }
        for message_id, message in family.items()
    }
    return {
        **_picked(feedback, ("id", "user_id", "type", "created_at", "updated_at")),
        "data": _picked(data, ("rating", "model_id", "sibling_model_ids")),
        "meta": _picked(meta, ("chat_id", "message_id", "message_index")),
        "snapshot": {"chat": {"chat": {"history": {"messages": messages}}}},
    }


def _feedback(raw: object) -> _Feedback | str:
    """Read one feedback, or say why it is no preference."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("id"), str):
        return "not a feedback"
    data, meta = _dict(raw.get("data")), _dict(raw.get("meta"))
    rating = _rating(data.get("rating"))
    if rating is None:
        return "no thumb up or down"
    model = data.get("model_id")
    if not isinstance(model, str) or not model:
        return "no model named"
    message_id = meta.get("message_id")
    messages = _family(raw)
    own = _rated(message_id, messages, model)
    siblings = _siblings(own, data, messages)
    if not siblings:
        return "no other answer to compare with"
    return _Feedback(
        feedback_id=raw["id"],
        at_s=_second(raw),
        voter=raw["user_id"] if isinstance(raw.get("user_id"), str) else None,
        rating=rating,
        group=_group(raw, meta, messages.get(str(message_id), {})),
        own=own,
        siblings=siblings,
    )


def _siblings(
    own: Rated, data: Mapping[str, Any], messages: Mapping[str, Mapping[str, Any]]
) -> tuple[Rated, ...]:
    """The other answers: by their messages where the snapshot has them, else by name."""
    others = [
        _rated(message_id, messages, "")
        for message_id in messages
        if message_id != own.message_id and own.message_id in messages
    ]
    if others:
        return tuple(other for other in others if other.model)
    named = data.get("sibling_model_ids")
    return tuple(
        Rated(message_id=None, model=model, response_id=None)
        for model in (named if isinstance(named, Sequence) and not isinstance(named, str) else ())
        if isinstance(model, str) and model
    )


def _family(raw: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rated message and its siblings, by id; empty without a snapshot that has them."""
    chat = _dict(_dict(_dict(raw.get("snapshot")).get("chat")).get("chat"))
    messages = _dict(_dict(chat.get("history")).get("messages"))
    own_id = _dict(raw.get("meta")).get("message_id")
    own = messages.get(own_id) if isinstance(own_id, str) else None
    if not isinstance(own, Mapping):
        return {}
    parent_id = own.get("parentId")
    return {
        message_id: message
        for message_id, message in messages.items()
        if isinstance(message, Mapping)
        and (message_id == own_id or (parent_id and message.get("parentId") == parent_id))
    }


def _rated(message_id: object, messages: Mapping[str, Mapping[str, Any]], model: str) -> Rated:
    known = message_id if isinstance(message_id, str) and message_id in messages else None
    message = messages[known] if known else {}
    named = model or message.get("selectedModelId") or message.get("model")
    return Rated(
        message_id=known,
        model=named if isinstance(named, str) else "",
        response_id=_response_id(message),
    )


def _response_id(message: Mapping[str, Any]) -> str | None:
    for part in ("usage", "info"):
        found = _dict(message.get(part)).get("response_id")
        if isinstance(found, str) and found:
            return found
    return None


def _group(raw: Mapping[str, Any], meta: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    parent_id = own.get("parentId")
    if isinstance(parent_id, str) and parent_id:
        return parent_id
    chat_id, index = meta.get("chat_id"), meta.get("message_index")
    if chat_id and index is not None:
        return f"{chat_id}#{index}"
    return str(raw["id"])


def _identity(answer: Rated) -> str:
    return answer.message_id or answer.model


def _preference(one: _Feedback, sibling: Rated, other: _Feedback | None, number: int) -> Preference:
    """The preference of a feedback's answer against a sibling, the smaller identity to the left."""
    ours, theirs = one.rating, None if other is None else other.rating
    if ours == theirs:
        choice: Choice = "tie" if ours == _UP else "both_bad"
    else:
        choice = "left" if ours == _UP else "right"
    sibling = sibling if other is None else other.own
    ids = (_identity(one.own), _identity(sibling))
    if ids[0] == ids[1]:  # two answers of one model, of which only the name is known
        ids = (ids[0], f"{ids[1]}#{number}")
    left, right = one.own, sibling
    if ids[0] > ids[1]:
        left, right = right, left
        choice = {"left": "right", "right": "left"}.get(choice, choice)  # type: ignore[assignment]
    return Preference(
        key="open-webui|" + "|".join((one.group, *sorted(ids))),
        at_s=max(one.at_s, other.at_s if other else 0),
        voter=one.voter,
        left=left,
        right=right,
        choice=choice,
    )


def _rating(value: object) -> int | None:
    """1 or -1; Open WebUI has stored ratings as numbers and as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    return {"1": _UP, "1.0": _UP, "-1": _DOWN, "-1.0": _DOWN}.get(text)


def _second(raw: Mapping[str, Any]) -> int:
    for name in ("updated_at", "created_at"):
        value = raw.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**33:
            return value
    return 0


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _picked(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}
