"""Markdown and page of reports, of ordinary, poor and hostile ones."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from service.core.experiments.trial import Trial
from service.serving.experiments.report import (
    build_report,
    render_html,
    render_json,
    render_markdown,
)
from support.measured_trials import plan_of, probed_trials, timed_trials, turn_trials

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>|*_`[x](javascript:a)"


class Page(HTMLParser):
    """Tags, attributes and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.scripts = []
        self.texts = []
        self._script = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self._script = dict(attrs).get("type", "")

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts.append((self._script, data))


def full_report(name="Trio", models=("attention", "ssm", "hybrid")):
    """Return a report with every section."""
    plan = plan_of(*models, measures=("speed", "memory", "probes", "turns"))
    trials = [
        *timed_trials(plan),
        *probed_trials(plan, (0.9, 0.5, 0.8)),
        *turn_trials(plan, (10.0, 12.0, 11.0)),
    ]
    return build_report(
        plan,
        trials,
        {"cpu": HOSTILE},
        name=name,
        prompts={trial.prompt_id: HOSTILE for trial in trials},
        predicted_bytes={models[0]: {64: 64 * 3072, 1536: 1536 * 3072}},
    )


def poor_reports():
    """Yield reports of one arm, one point, no trials, failures, and nothing but planned trials."""
    two, one = plan_of("attention", "ssm"), plan_of("attention")
    point = [trial for trial in timed_trials(two) if trial.context_tokens == 64][:2]
    failed = [
        msgspec.structs.replace(trial, state="failed", values={}, error=HOSTILE)
        for trial in timed_trials(two)
    ]
    bare = Trial(number=0, arm=0, measure="speed", prompt_id="x", repetition=0, state="done")
    return {
        "one arm": build_report(one, timed_trials(one), {}),
        "one point": build_report(two, point, {}),
        "empty": build_report(two, [], {}),
        "failed": build_report(two, failed, {}),
        "planned": build_report(two, timed_trials(two, state="planned", values={}), {}),
        "no values": build_report(two, [bare], {}),
    }


@pytest.mark.parametrize("kind", list(poor_reports()))
def test_poor_reports_are_rendered_in_full(kind):
    """No report is too poor to say what it lacks."""
    report = poor_reports()[kind]

    text, page = render_markdown(report), Page(render_html(report))

    assert "## What could not be said" in text
    assert report.not_said
    said = "".join(page.texts)
    assert all(each.reason in said for each in report.not_said)


def test_a_page_names_every_verdict_and_reason():
    """All that the report says can be read without scripts."""
    report = full_report()

    said = "".join(Page(render_html(report)).texts)

    assert "hybrid's memory is" in said
    assert "ssm is lower than attention from 299 tokens on" in said
    assert "no energy counter" in said
    assert "Accuracy in recall, with Wilson intervals of 95 %" in said


def test_a_page_loads_nothing():
    """No address in an attribute, and a policy that allows none."""
    page = Page(render_html(full_report()))

    addresses = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert addresses == []
    assert any((value or "").startswith("default-src 'none'") for _, value in page.attributes)


def test_the_policy_allows_exactly_the_scripts_of_the_page():
    """Each script that runs is in the policy by its hash, and there are two."""
    page = Page(render_html(full_report()))
    policy = next(value for _, value in page.attributes if value and "script-src" in value)

    running = [text for kind, text in page.scripts if kind == ""]

    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(running) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes


def test_hostile_names_and_prompts_stay_text():
    """What looks like HTML in names, prompts and environment becomes no element."""
    plain = Page(render_html(full_report()))

    hostile = Page(render_html(full_report(name=HOSTILE, models=(HOSTILE, "ssm", "hybrid"))))

    assert "img" not in hostile.tags
    assert hostile.tags.count("script") == plain.tags.count("script")
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    assert HOSTILE in "".join(hostile.texts)


def test_figures_are_data_that_plotly_draws_as_text():
    """Labels of figures are escaped once more, since Plotly reads tags in them."""
    page = Page(render_html(full_report(models=("<b>bold</b>", "ssm", "hybrid"))))

    figures = [
        json.loads(text)
        for kind, text in page.scripts
        if kind == "application/json" and '"layout"' in text and '"verdicts"' not in text
    ]

    assert len(figures) > 8
    names = {trace.get("name") for figure in figures for trace in figure["data"]}
    assert "A: &lt;b&gt;bold&lt;/b&gt;" in names
    assert not any("<b>" in (name or "") for name in names)


def test_the_page_carries_its_data():
    """The report as JSON is in the page."""
    report = full_report()
    page = Page(render_html(report))

    data = next(json.loads(text) for kind, text in page.scripts if '"verdicts"' in text)

    assert data == msgspec.json.decode(render_json(report))


def test_markdown_shows_hostile_text_as_it_is():
    """No cell breaks its table, no name makes a link or an element."""
    text = render_markdown(full_report(name=HOSTILE, models=(HOSTILE, "ssm", "hybrid")))

    outside = text.partition("## Environment")[0]
    assert "<script>" not in outside.replace("\\<", "")
    tables = [line for line in outside.splitlines() if line.startswith("| A |")]
    assert len(tables) == 1
    assert len(re.findall(r"(?<!\\)\|", tables[0])) == 8


def test_an_unresolved_comparison_is_never_called_no_difference():
    """Few noisy pairs cannot be ranked, and the text says that."""
    plan = plan_of("ssm", "ssm")

    text = render_markdown(build_report(plan, timed_trials(plan, repetitions=2, noise=0.3), {}))

    assert "Cannot rank" in text
    assert "TPOT, ssm \\#1 and ssm \\#2: Same within" not in text
