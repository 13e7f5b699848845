"""Does the reward rise? Reinforcement of the default base on a tiny task, within ten minutes on two cores.

    python -m tests.benchmarks.reinforcement [--steps 60] [--seed 1]

Short reviews are to be answered with one word, good or bad. The grader gives 0.3 for the right word anywhere in the
answer, up to 0.3 for how similar the answer is to the word, and 0.4 for the word alone. The held-out reviews have words
of their own. Each line has the mean reward of a step's answers, and that of the held-out reviews.

The divergence ends at several nats per token because the task needs it: the base gives the right word 7.4 and the end
after it 1.9 nats, 4.6 per token on average (12 of the reviews in float32, 2026-11-29).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftpipe.modeling.base_models import DEFAULT_BASE
from ftpipe.paths import models_dir
from ftpipe.training.job_directory import JobDirectory, JobSpec
from ftpipe.training.run import run_job

INSTRUCTION = "Is the review good or bad? Answer with one word: good or bad."
THINGS = ("The charger", "The blue jacket", "This kettle", "The hotel room", "The headset", "The desk lamp")
WORDS = {
    "good": ("works perfectly", "is lovely", "was worth every cent", "is a joy to use"),
    "bad": ("broke after a day", "is awful", "was a waste of money", "stopped working at once"),
}
HELD_OUT_THINGS = ("The bicycle", "My new phone", "The soup", "The backpack")
HELD_OUT_WORDS = {
    "good": ("is excellent", "makes me happy"),
    "bad": ("is terrible", "was a big disappointment"),
}
ANSWER = {"input": "{{sample.output_text}}", "reference": "{{item.label}}"}
GRADER = {
    "type": "multi",
    "name": "label",
    "graders": {
        "word": {"type": "string_check", "name": "word", **ANSWER, "operation": "ilike"},
        "near": {"type": "text_similarity", "name": "near", **ANSWER, "evaluation_metric": "fuzzy_match"},
        "exact": {"type": "string_check", "name": "exact", **ANSWER, "operation": "eq"},
    },
    "calculate_output": "0.3 * word + 0.3 * near + 0.4 * exact",
}


def reviews(things: Sequence[str], words: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Reinforcement rows."""
    for (label, phrases), thing in itertools.product(words.items(), things):
        for phrase in phrases:
            messages = [
                {"role": "developer", "content": INSTRUCTION},
                {"role": "user", "content": f"{thing} {phrase}."},
            ]
            yield {"messages": messages, "label": label}


def write_job(folder: Path, models: Path, *, steps: int, seed: int, **settings: Any) -> JobDirectory:
    """A job directory; a pass over the 48 rows has 12 steps."""
    directory = JobDirectory(folder)
    for path, rows in (
        (directory.training_file, reviews(THINGS, WORDS)),
        (directory.validation_file, reviews(HELD_OUT_THINGS, HELD_OUT_WORDS)),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    directory.write_spec(
        JobSpec(
            job_id="ftjob-benchmark",
            method="reinforcement",
            base_model=DEFAULT_BASE,
            training_file=directory.training_file,
            validation_file=directory.validation_file,
            hyperparameters={"n_epochs": max(1, steps // 12), "max_completion_tokens": 8, **settings},
            seed=seed,
            model_name="ft:benchmark",
            models_dir=models,
            keep_checkpoints=1,
            grader=GRADER,
        )
    )
    return directory


def main() -> None:
    """Train, and print the rewards of all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="A further hyperparameter.")
    options = parser.parse_args()
    settings = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    with tempfile.TemporaryDirectory() as folder:
        directory = write_job(Path(folder), models_dir(), steps=options.steps, seed=options.seed, **settings)
        started = time.monotonic()
        offset = 0

        def print_events() -> bool:
            nonlocal offset
            events, offset = directory.read_events(offset)
            for event in events:
                line = reward_line(event.data) if event.type == "metrics" else event.message
                sys.stdout.write(f"{time.monotonic() - started:5.0f} s  {line}\n")
            sys.stdout.flush()
            return False

        status = run_job(directory, print_events)
        print_events()
    sys.stdout.write(f"{status} after {time.monotonic() - started:.0f} s\n")


def reward_line(row: Mapping[str, Any]) -> str:
    """The rewards of a step."""
    held_out = f"{row['full_valid_mean_reward']:.3f}" if "full_valid_mean_reward" in row else ""
    same = row["zero_std_fraction"]
    return (
        f"{row['step']:3} of {row['total_steps']}  reward {row['train_mean_reward']:.3f}  held out {held_out:5}  "
        f"tokens {row['completion_tokens_mean']:4.1f}  kl {row.get('kl', 0):.3f}  same {same:.2f}"
    )


if __name__ == "__main__":
    main()
