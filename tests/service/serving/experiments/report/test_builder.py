"""Reports from trials whose truth is known."""

from pathlib import Path

import msgspec
import pytest

from service.core.experiments.trial import Trial
from service.serving.experiments.report import build_report, render_json
from support.measured_trials import plan_of, probed_trials, timed_trials, turn_trials


def verdict_of(report, metric, arms=None):
    """Return the verdict on a metric, of the only pair or of `arms`."""
    (found,) = (
        each
        for each in report.verdicts
        if each.metric == metric and (arms is None or set(each.arms) == set(arms))
    )
    return found


def reasons(report):
    """Return what was not said, as lines."""
    return [f"{each.about}: {each.reason}" for each in report.not_said]


def test_the_crossover_of_memory_is_exact():
    """3,072 bytes a token reach 917,504 bytes at 298.67 tokens."""
    plan = plan_of("attention", "ssm")

    report = build_report(plan, timed_trials(plan), {})

    (found,) = (each for each in report.crossovers if each.metric == "memory_bytes")
    assert found.context_tokens == pytest.approx(917_504 / 3072)
    assert found.low == pytest.approx(found.high)
    assert found.lower_before == "attention"


def test_the_crossover_of_tpot_is_held_by_its_interval():
    """8 + 0.004·L and 10 ms are the same at 500 tokens."""
    plan = plan_of("attention", "ssm")

    report = build_report(plan, timed_trials(plan, repetitions=15), {})

    (found,) = (each for each in report.crossovers if each.metric == "tpot_ms")
    assert found.low < 500 < found.high
    assert "the context decides" in (verdict_of(report, "tpot_ms").reason or "")


def test_fits_give_the_bytes_of_a_token():
    """The curve of attention is 0 + 3072·L, that of the SSM is constant."""
    plan = plan_of("attention", "ssm")

    report = build_report(plan, timed_trials(plan), {})

    fits = {each.arm: each.fit for each in report.curves if each.metric == "memory_bytes"}
    assert fits["attention"].coefficients == pytest.approx((0, 3072), abs=1e-6)
    assert fits["ssm"].coefficients == (pytest.approx(917_504), 0)


def test_a_model_against_itself_is_never_better():
    """Of 20 runs none prefers an arm, and memory is the same in all of them."""
    plan = plan_of("ssm", "ssm", measures=("speed", "memory"))
    for seed in range(20):
        trials = timed_trials(plan, repetitions=60, noise=0.03, seed=seed)
        report = build_report(plan, trials, {})
        assert [arm.name for arm in report.arms] == ["ssm #1", "ssm #2"]
        found = {each.metric: each.verdict for each in report.verdicts}
        assert found["memory_bytes"] == "no_difference"
        assert found["tpot_ms"] == "no_difference"
        assert not {"ssm #1", "ssm #2"} & set(found.values())


def test_warm_ups_do_not_count():
    """Warm-up trials of a tenth of the speed change nothing."""
    plan = plan_of("attention", "ssm")
    trials = timed_trials(plan)
    slow = [
        msgspec.structs.replace(
            trial, warmup=True, values={**trial.values, "tpot_ms": 1e6, "memory_bytes": 1e12}
        )
        for trial in trials
    ]

    assert build_report(plan, slow + trials, {}) == build_report(plan, trials, {})


def test_cold_rows_are_left_out_and_told():
    """With cold rows throughout there is no verdict, and the reason is that."""
    plan = plan_of("attention", "ssm")

    report = build_report(plan, timed_trials(plan, cold=True), {})

    verdict = verdict_of(report, "tpot_ms")
    assert verdict.verdict == "undecided"
    assert verdict.reason == "0 pairs, 6 needed; 60 pairs left out: cold rows"
    assert any("waited for the model to load" in line for line in reasons(report))


def test_disturbed_times_are_left_out_but_not_bytes():
    """What ran beside changes times, not state bytes."""
    plan = plan_of("attention", "hybrid")

    report = build_report(plan, timed_trials(plan, disturbances=("beside_requests",)), {})

    assert "disturbed (beside_requests)" in verdict_of(report, "tpot_ms").reason
    assert verdict_of(report, "memory_bytes").n == 60


def test_unlike_kernel_paths_are_not_compared_in_time():
    """Times of another kernel path say nothing about the models; bytes do."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(trial, kernel_path="eager" if trial.arm else "compiled")
        for trial in timed_trials(plan)
    ]

    report = build_report(plan, trials, {})

    verdict = verdict_of(report, "tpot_ms")
    assert verdict.kind == "not_tested"
    assert verdict.reason == "unlike kernel paths: attention on compiled, hybrid on eager"
    assert verdict_of(report, "memory_bytes").kind != "not_tested"
    assert any("unlike kernel paths" in line for line in reasons(report))


def test_a_model_that_was_built_anew_is_not_compared():
    """Two builds of one arm are two models."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(trial, build_sha256="new" if trial.number > 100 else "old")
        if trial.arm
        else trial
        for trial in timed_trials(plan)
    ]

    report = build_report(plan, trials, {})

    assert verdict_of(report, "tpot_ms").reason == "unlike builds: hybrid changed during the run"


def test_energy_without_counter_is_not_zero():
    """No trial knows energy: the comparison says why there is none."""
    plan = plan_of("attention", "hybrid")

    verdict = verdict_of(build_report(plan, timed_trials(plan), {}), "energy_j")

    assert (verdict.verdict, verdict.reason, verdict.ratio) == (
        "undecided",
        "no energy counter",
        None,
    )


def test_a_metric_that_one_arm_does_not_know_names_it():
    """A remote arm tells no bytes."""
    plan = plan_of("attention", "remote")
    trials = [
        msgspec.structs.replace(trial, values={**trial.values, "memory_bytes": None})
        if trial.arm
        else trial
        for trial in timed_trials(plan)
    ]

    verdict = verdict_of(build_report(plan, trials, {}), "memory_bytes")

    assert verdict.reason == "no engine told the bytes of its state of remote"


def test_failed_trials_are_counted_with_their_reason():
    """An arm that never answered is not compared, and its error is shown."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(trial, state="failed", values={}, error="the engine died")
        if trial.arm
        else trial
        for trial in timed_trials(plan)
    ]

    report = build_report(plan, trials, {})

    assert report.arms[1].errors == ("the engine died",)
    assert verdict_of(report, "tpot_ms").reason == "no trial of hybrid succeeded"
    assert "hybrid: 60 of 60 trials failed: the engine died" in reasons(report)


def test_a_plan_that_has_not_run_says_so():
    """Planned trials carry no numbers."""
    plan = plan_of("attention", "hybrid")

    report = build_report(plan, timed_trials(plan, state="planned", values={}), {})

    assert "the whole plan: 120 of 120 trials have not run" in reasons(report)
    assert {each.verdict for each in report.verdicts} == {"undecided"}


def test_right_answers_are_judged_by_their_difference():
    """0.95 against 0.4: the first arm is better, by points."""
    plan = plan_of("attention", "ssm", measures=("probes",))

    report = build_report(plan, probed_trials(plan, (0.95, 0.4)), {})

    verdict = verdict_of(report, "recall")
    assert verdict.verdict == "attention"
    assert verdict.ratio is None
    assert verdict.high < -0.3
    assert {(each.arm, each.level, each.share.n) for each in report.accuracies} == {
        (arm, level, 60) for arm in ("attention", "ssm") for level in (4, 16)
    }


def test_later_turns_are_compared_by_conversation():
    """Ten conversations of three later turns are ten pairs; the first turn is not among them."""
    plan = plan_of("attention", "ssm", measures=("turns",))

    report = build_report(plan, turn_trials(plan, (10.0, 30.0)), {})

    verdict = verdict_of(report, "later_turns_ttft_ms")
    assert verdict.n == 10
    assert verdict.ratio == pytest.approx(3, rel=0.05)
    assert verdict.verdict == "attention"
    assert {each.turn for each in report.turns} == {1, 2, 3, 4}


def test_an_arm_that_is_worse_in_everything_is_dominated():
    """Half of the speed, twice the bytes."""
    plan = plan_of("hybrid", "worse")
    trials = [
        msgspec.structs.replace(
            trial,
            values={
                name: None if value is None else value * (2 if trial.arm else 1)
                for name, value in timed.values.items()
            },
        )
        for trial, timed in zip(
            timed_trials(plan),
            [t for each in timed_trials(plan_of("hybrid")) for t in (each, each)],
            strict=True,
        )
    ]

    report = build_report(plan, trials, {})

    assert [each.dominated_by for each in report.pareto] == [(), ("hybrid",)]
    assert "prefill_ms" not in report.pareto_metrics


def test_arms_with_a_crossover_do_not_dominate():
    """Attention is better below, the SSM above: neither is dominated."""
    plan = plan_of("attention", "ssm")

    report = build_report(plan, timed_trials(plan), {})

    assert [each.dominated_by for each in report.pareto] == [(), ()]


def test_drift_is_found_and_told():
    """TPOT doubles over the run: ratios hold, and the report says what does not."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(
            trial,
            values={**trial.values, "tpot_ms": trial.values["tpot_ms"] * (1 + trial.number / 120)},
        )
        for trial in timed_trials(plan)
    ]

    lines = reasons(build_report(plan, trials, {}))

    assert any(line.startswith("steady TPOT of attention: it rose") for line in lines)
    assert not any(line.startswith("steady TTFT") for line in lines)


def test_prompts_that_differ_most_come_with_their_text():
    """The prompt that was ten times slower on one arm is the first."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(trial, values={**trial.values, "tpot_ms": 100.0})
        if trial.arm and trial.prompt_id == "text-3" and trial.context_tokens == 64
        else trial
        for trial in timed_trials(plan)
    ]

    report = build_report(plan, trials, {}, prompts={"text-3": "Once upon a time"})

    first = next(each for each in report.differing_prompts if each.metric == "tpot_ms")
    assert (first.prompt_id, first.context_tokens, first.text) == ("text-3", 64, "Once upon a time")
    assert first.ratio == pytest.approx(100 / 8.3, rel=0.1)


def test_percentiles_need_their_observations():
    """60 observations give a median, and neither p95 nor p99."""
    plan = plan_of("attention", "hybrid")

    report = build_report(plan, timed_trials(plan), {})

    found = next(each for each in report.distributions if each.metric == "tpot_ms")
    assert found.percentiles["p50"] is not None
    assert found.percentiles["p95"] is None
    assert any("72 for p95 and 368 for p99 needed" in line for line in reasons(report))


def test_json_has_the_promised_keys():
    """What clients read, by name."""
    plan = plan_of("attention", "ssm")

    found = msgspec.json.decode(render_json(build_report(plan, timed_trials(plan), {"cores": 2})))

    promised = {
        "arms", "curves", "crossovers", "verdicts", "pareto", "environment", "not_said",
    }  # fmt: skip
    assert promised <= set(found)
    assert {"arm", "metric", "points", "fit"} <= set(found["curves"][0])
    assert {"context_tokens", "median", "low", "high", "n"} == set(found["curves"][0]["points"][0])
    assert {"metric", "arms", "context_tokens", "low", "high", "reason"} <= set(
        found["crossovers"][0]
    )
    assert {"metric", "arms", "ratio", "low", "high", "n", "verdict", "reason"} <= set(
        found["verdicts"][0]
    )
    assert {"arm", "dominated_by"} == set(found["pareto"][0])
    assert found["environment"] == {"cores": 2}


def test_a_trial_of_an_unknown_arm_is_ignored():
    """A trial that the plan does not know changes nothing."""
    plan = plan_of("attention", "ssm")
    stray = Trial(number=9, arm=7, measure="speed", prompt_id="x", repetition=0, state="done")

    assert build_report(plan, [stray], {}).trials == 0


def test_values_that_are_no_numbers_are_unknown():
    """A NaN is left out, and whatever the environment holds becomes JSON."""
    plan = plan_of("attention", "hybrid")
    trials = [
        msgspec.structs.replace(trial, values={**trial.values, "tpot_ms": float("nan")})
        if trial.number == 0
        else trial
        for trial in timed_trials(plan)
    ]

    report = build_report(plan, trials, {"folder": Path("/models")})

    assert verdict_of(report, "tpot_ms").n == 59
    assert report.environment == {"folder": "/models"}
