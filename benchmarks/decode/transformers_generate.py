"""Competitor: plain `transformers.generate`, eager, one batch of equally long prompts."""

import json
import os
import resource
import time

from options import read_options

label = "transformers.generate"


def measure(path: str, streams: int, prompt_tokens: int, new_tokens: int, dtype: str) -> dict:
    """Decode rate of one batch: the time of all new tokens less the time of the first."""
    import torch
    import transformers

    torch.manual_seed(0)
    started = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype)
    ).eval()
    load_s = time.perf_counter() - started
    prompt = torch.randint(3, min(1000, model.config.vocab_size), (streams, prompt_tokens))

    def generate(tokens: int) -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            answer = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        assert answer.shape == (streams, prompt_tokens + tokens)
        return time.perf_counter() - begun

    generate(2)  # warm-up
    first_s = generate(1)
    decode_s = generate(new_tokens) - first_s
    return {
        "label": label,
        "decode_tokens_per_s": streams * (new_tokens - 1) / decode_s,
        "load_s": load_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def main() -> None:
    """Print one JSON line."""
    options = read_options(__doc__)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(measure(**vars(options))))


if __name__ == "__main__":
    main()
