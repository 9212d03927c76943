"""Models of published shapes with random weights, for engines' speed alone.

    python benchmarks/engines/random_models.py

Speed depends on shapes and not on values, and these shapes have no weights that may be had here.
Each is drawn by transformers' own initialization from a fixed seed.
"""

import argparse
from typing import Any, Final

from models import CACHE

#: state-spaces/mamba-130m and mamba2-130m (`config.json` of their transformers versions); Falcon-H1
#: in the proportions of tiiuae/Falcon-H1-0.5B, reduced to the size of the others.
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "mamba-130m": {
        "model_type": "mamba",
        "hidden_size": 768,
        "num_hidden_layers": 24,
        "state_size": 16,
        "vocab_size": 50280,
    },
    "mamba2-130m": {
        "model_type": "mamba2",
        "hidden_size": 768,
        "num_hidden_layers": 24,
        "state_size": 128,
        "num_heads": 24,
        "head_dim": 64,
        "n_groups": 1,
        "vocab_size": 50288,
        "tie_word_embeddings": True,
    },
    "falcon-h1-130m": {
        "model_type": "falcon_h1",
        "hidden_size": 768,
        "intermediate_size": 1280,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_d_ssm": 1152,
        "mamba_n_heads": 18,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 128,
        "mamba_rms_norm": False,
        "max_position_embeddings": 8192,
        "vocab_size": 32784,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    """Write the folders that are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="write those that are there, too")
    options = parser.parse_args()

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, values in CONFIGS.items():
        target = CACHE / name
        if target.is_dir() and not options.again:
            continue
        torch.manual_seed(0)
        config = AutoConfig.for_model(**values)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        network.save_pretrained(target)
        print(f"{name}: {network.num_parameters() / 1e6:.0f} million parameters in {target}")


if __name__ == "__main__":
    main()
