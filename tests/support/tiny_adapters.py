"""Adapters of tiny models, made and saved by PEFT itself."""

from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM

PROMPT = [5, 9, 17, 33, 65, 21, 42, 84, 11, 7]
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "mamba2": ["in_proj"]}


def adapted(name: str, base: Path, **options: object) -> peft.PeftModel:
    """A tiny model with an adapter whose matrices are random, seeded."""
    values = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[name], "init_lora_weights": False}
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return peft.get_peft_model(network, peft.LoraConfig(**(values | options))).eval()


def write(name: str, base: Path, folder: Path, **options: object) -> torch.Tensor:
    """Save an adapter as PEFT does; the logits of PROMPT with it, (tokens, vocabulary)."""
    model = adapted(name, base, **options)
    model.save_pretrained(folder, save_embedding_layers=False)
    with torch.inference_mode():
        return model(torch.tensor([PROMPT])).logits[0]
