"""The shipped folders: bf16 safetensors, config, tokenizer and chat template of each model."""

import copy
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel

from model_registry.reference.architectures import EOS_TOKEN_ID, PAD_TOKEN_ID
from model_registry.reference.tokenizer import chat_tokenizer

#: The folders in this package, one an architecture.
WEIGHTS: Final = Path(__file__).parent / "weights"


def save_pretrained(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` and AutoTokenizer load."""
    shipped = copy.deepcopy(model).bfloat16().eval()
    shipped.generation_config = GenerationConfig(
        eos_token_id=EOS_TOKEN_ID, pad_token_id=PAD_TOKEN_ID, max_new_tokens=256
    )
    shipped.save_pretrained(folder)
    # safetensors writes for the owner alone; another user may serve the folder.
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    chat_tokenizer(tokenizer).save_pretrained(folder)
