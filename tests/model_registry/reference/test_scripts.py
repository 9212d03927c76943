"""`train` and `evaluate`, run as a user runs them, on a few dialogues."""

import json
import signal

from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_registry.reference import evaluate, train
from model_registry.reference.batches import BATCH_TOKENS


def test_train_writes_a_folder_that_loads(corpus, tmp_path):
    """One step, then the folder has weights, tokenizer and template, and the losses are logged."""
    out = tmp_path / "run"
    arguments = ["--corpus", corpus, "--arch", "hybrid", "--tokens", BATCH_TOKENS, "--out", out]
    result = CliRunner().invoke(train.main, [str(argument) for argument in arguments])

    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(out / "hybrid", dtype="auto")
    assert model.generation_config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(out / "hybrid").chat_template
    assert len(json.loads((out / "hybrid.checkpoint.losses.json").read_bytes())) == 1


def test_evaluate_writes_every_measure(corpus, tmp_path):
    """The JSON has the counts it measured on and the measures of the model asked for."""
    out = tmp_path / "results.json"
    arguments = ["--corpus", corpus, "--arch", "transformer", "--questions", 1, "--out", out]
    result = CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments])

    assert result.exit_code == 0, result.output
    results = json.loads(out.read_bytes())
    assert (results["dialogues"], results["blimp_pairs"]) == (8, 2)
    measured = results["models"]["transformer"]
    assert measured["dialogue_bits_per_byte"] > 0
    assert set(measured["blimp_by_phenomenon"]) == {"agreement"}
    assert "recall_past_tasks" in {probe["task"] for probe in measured["probes"]}


def test_evaluate_keeps_other_models_of_the_same_samples(corpus, tmp_path):
    """Models can be measured one at a time into one file; other sample sizes start it anew."""
    out = tmp_path / "results.json"

    def measure(name: str, questions: int) -> set[str]:
        arguments = ["--corpus", corpus, "--arch", name, "--questions", questions, "--out", out]
        result = CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return set(json.loads(out.read_bytes())["models"])

    assert measure("transformer", 1) == {"transformer"}
    assert measure("ssm", 1) == {"transformer", "ssm"}
    assert measure("ssm", 2) == {"ssm"}


def test_interrupt_is_remembered_and_released():
    """Ctrl-C during training stops between two steps; afterwards it is Python's again."""
    before = signal.getsignal(signal.SIGINT)
    with train.Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
    assert signal.getsignal(signal.SIGINT) is before
