"""Held-out answers of adapters in each precision of inference, against the expected ones and those in float32.

Usage: ``python -m tests.benchmarks.precision_quality [--base FOLDER] [--adapters FOLDER]``

Each adapter in the folder answers the 48 tickets of the test set. If there is none, five are trained first on
``data/support_desk`` with the defaults of ``ftpipe train`` and different seeds: about two minutes for each on two CPU
cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import click

from ftpipe.inference.batch_model import Precision
from ftpipe.modeling.base_models import DEFAULT_BASE, resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.loading import load_tokenizer
from ftpipe.paths import models_dir
from ftpipe.training.job_directory import JobDirectory, JobSpec
from ftpipe.training.run import run_job
from tests.inference.batch_models import make_decoder, run_together

DATA = Path(__file__).parents[2] / "data" / "support_desk"
TOKENS = 16
BATCH_SIZE = 16


def adapters_of(base: Path, folder: Path, seeds: int) -> list[Path]:
    """The adapters in a folder; trained if there is none."""
    adapters = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    if adapters:
        return adapters
    for seed in range(1, seeds + 1):
        adapters.append(folder / f"seed-{seed}")
        train(base, adapters[-1], seed)
        click.echo(f"trained {adapters[-1]}")
    return adapters


def train(base: Path, adapter: Path, seed: int) -> None:
    """Train as a job of the server does."""
    with tempfile.TemporaryDirectory() as folder:
        directory = JobDirectory(Path(folder))
        directory.write_spec(
            JobSpec(
                job_id="job",
                method="supervised",
                base_model=str(base),
                training_file=DATA / "train.jsonl",
                validation_file=None,
                hyperparameters={"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"},
                seed=seed,
                model_name="support-desk",
                models_dir=models_dir(),
                keep_checkpoints=1,
            )
        )
        if run_job(directory) != "succeeded":
            raise SystemExit(str(directory.read_result()))
        shutil.copytree(directory.checkpoint_dir(directory.checkpoints()[-1].step), adapter)


def main() -> None:
    """Print a line for each adapter and precision, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of a base model; the default one if not given")
    parser.add_argument("--adapters", type=Path, default=Path("adapters"), help="folder in which they are kept")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    base = options.base or resolve_base(DEFAULT_BASE, models_dir=models_dir(), on_status=click.echo)
    adapters = adapters_of(base, options.adapters, options.seeds)
    chat_tokenizer, tokenizer = ChatTokenizer.load(base), load_tokenizer(base)
    rows = [json.loads(line)["messages"] for line in (DATA / "test.jsonl").read_text("utf-8").splitlines()]
    prompts, expected = [chat_tokenizer.prompt(row[:-1]) for row in rows], [row[-1]["content"] for row in rows]
    end = chat_tokenizer.end_of_turn()
    reference: dict[Path, list[str]] = {}
    for precision in get_args(Precision):
        decoder = make_decoder(base, precision)
        total_right = total_same = 0
        for adapter in adapters:
            answers: list[str] = []
            for start in range(0, len(prompts), BATCH_SIZE):
                batch = [(adapter, prompt) for prompt in prompts[start : start + BATCH_SIZE]]
                for ids in run_together(decoder, batch, tokens=TOKENS):
                    whole = ids[: ids.index(end)] if end in ids else ids
                    answers.append(str(tokenizer.decode(whole, skip_special_tokens=True)).strip())
            right = sum(answer == text for answer, text in zip(answers, expected, strict=True))
            same = sum(map(str.__eq__, answers, reference.setdefault(adapter, answers)))
            total_right, total_same = total_right + right, total_same + same
            click.echo(f"{precision:<9} {adapter.name}: {right} of {len(rows)} right, {same} as in float32")
        count = len(adapters) * len(rows)
        click.echo(f"{precision:<9} together: {total_right} of {count} right, {total_same} as in float32")


if __name__ == "__main__":
    main()
