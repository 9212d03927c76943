"""Plans and prompts are decoded strictly, and what ships is valid."""

from pathlib import Path

import pytest

from loadtest.corpus import load_prompts
from loadtest.errors import LoadTestError
from loadtest.plan import load_plan

SHIPPED = sorted(Path("loadtest/plans").glob("*.toml"))
GOOD = 'models = ["m"]\nrequests_per_model = 1\narrivals = { rate_per_s = 1 }\n'


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_plans_are_valid(path: Path) -> None:
    """Every plan that ships decodes, and its prompts are there."""
    plan = load_plan(path)

    assert load_prompts(plan.prompts, path.parent)


def test_the_trio_plan_tells_p95() -> None:
    """The plan for the reference trio sends enough requests for the p95 of each model."""
    assert load_plan(Path("loadtest/plans/trio.toml")).requests_per_model >= 72


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "rate = 1", "rate"),
        ("models = []\nrequests_per_model = 1\narrivals = { rate_per_s = 1 }", "models"),
        (GOOD.replace("rate_per_s = 1", "rate_per_s = 0"), "rate_per_s"),
        (GOOD.replace('"m"', '"m", "m"'), "twice"),
        (GOOD + "[sampling]\ntemprature = 1", "temprature"),
        ("models = ", "Invalid value"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, named: str) -> None:
    """A mistake in a plan is an error that names the file and what is wrong."""
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(LoadTestError, match=named) as caught:
        load_plan(path)

    assert "plan.toml" in str(caught.value)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    """A plan that is not there is told by its path."""
    with pytest.raises(LoadTestError, match=r"none\.toml: cannot be read"):
        load_plan(tmp_path / "none.toml")


def test_shipped_prompts_are_distinct_and_end_with_the_user() -> None:
    """Each prompt has its own id and asks something."""
    prompts = load_prompts("short", Path())

    assert len({prompt.id for prompt in prompts}) == len(prompts) == 40
    assert {prompt.messages[-1].role for prompt in prompts} == {"user"}


def test_prompts_of_ones_own_lie_beside_the_plan(tmp_path: Path) -> None:
    """A `.jsonl` name is a file relative to the plan's folder; blank lines are skipped."""
    line = '{"id": "a", "messages": [{"role": "user", "content": "Hi\\u2028!"}]}\n\n'
    (tmp_path / "mine.jsonl").write_text(line, encoding="utf-8")

    (prompt,) = load_prompts("mine.jsonl", tmp_path)

    assert prompt.messages[0].content == "Hi\u2028!"


@pytest.mark.parametrize(
    ("name", "text"),
    [("none", None), ("a.jsonl", ""), ("a.jsonl", "{}"), ("a.jsonl", '{"id":"a","messages":[]}')],
)
def test_wrong_prompts_are_refused(tmp_path: Path, name: str, text: str | None) -> None:
    """Missing, empty and malformed sets of prompts are errors that name them."""
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")

    with pytest.raises(LoadTestError, match=name):
        load_prompts(name, tmp_path)
