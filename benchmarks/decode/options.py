"""What every competitor is told, so that all measure the same."""

import argparse


def read_options(description: str | None) -> argparse.Namespace:
    """The command line of one measurement."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("path")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    return parser.parse_args()
