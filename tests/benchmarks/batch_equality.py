"""Greedy answers in batches against the same answers alone: 200 prompts with two adapters on a real base model.

Usage: ``python -m tests.benchmarks.batch_equality [--base FOLDER] [--precision bfloat16] [--prompts 200]``
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import get_args

import click

from ftpipe.inference.batch_model import Precision
from ftpipe.modeling.base_models import DEFAULT_BASE, resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.paths import models_dir
from tests.inference.batch_models import make_adapter, make_decoder, run_alone, run_together

TOKENS = 24
BATCH_SIZE = 16
DATA = Path(__file__).parents[2] / "data" / "support_desk"


def main() -> None:
    """Compare all answers, and print how many are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder of a base model; the default one if not given")
    parser.add_argument("--precision", default="bfloat16", choices=get_args(Precision))
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    base = options.base or resolve_base(DEFAULT_BASE, models_dir=models_dir(), on_status=click.echo)
    tokenizer = ChatTokenizer.load(base)
    rows = [json.loads(line) for path in sorted(DATA.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    prompts = [tokenizer.prompt(row["messages"][:-1], row.get("tools")) for row in rows if "messages" in row]
    with tempfile.TemporaryDirectory() as folder:
        adapters = [make_adapter(base, Path(folder) / name, shift) for name, shift in (("a", 0.001), ("b", -0.001))]
        requests = [(adapter, ids) for ids in prompts[: options.prompts] for adapter in adapters]
        alone, together = (make_decoder(base, options.precision) for _ in range(2))
        equal = 0
        for start in range(0, len(requests), BATCH_SIZE):
            batch = requests[start : start + BATCH_SIZE]
            answers = run_together(together, batch, tokens=TOKENS)
            equal += sum(
                answer == run_alone(alone, adapter, ids, tokens=TOKENS)
                for answer, (adapter, ids) in zip(answers, batch, strict=True)
            )
            click.echo(f"{equal} of {start + len(batch)} answers are equal")


if __name__ == "__main__":
    main()
