"""Compare recipes (layers, rank, dropout, rate, epochs, batch) by held-out loss on small tasks, over several seeds.

Usage: ``python -m tests.benchmarks.recipes [--journal FILE] [--seeds N] [--budget-minutes M] [--table]``

Every run is a job of the trainer, with the base's own tokenizer and the memory settings that the machine gets. It ends
as a line of the journal and is not repeated, so the benchmark can be stopped and started at any time, and several
processes can work on one journal; a stopped one loses the run in progress. Runs go seed by seed, task by task, and all
recipes of a task follow each other, so that recipes can be compared at any time. ``OMP_NUM_THREADS=1`` and a process
for each processor are faster than one process with more threads, above all on a busy machine.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.benchmarks.recipe_table import clearly_worse, tables
from tests.benchmarks.recipe_tasks import Task, all_tasks, whole_support_desk

if TYPE_CHECKING:
    from ftpipe.inference.decoder import Decoder

JOURNAL = Path(__file__).with_name("recipes.jsonl")
SUPPORT_DESK = "support desk"
"""The task with all tickets, which is not among the others."""
BATCH = 32
"""Held-out questions that are answered at the same time."""
COMMON: dict[str, Any] = {
    "n_epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
}
"""Settings of the recipe ``all-linear``; every other one but the first two differs from it in one of them."""
ATTENTION = "q_proj,v_proj"
HIDDEN_SIZE = 576
"""Of the default base."""
TINKER_RATE = 5e-4 * (2000 / HIDDEN_SIZE) ** 0.781
"""Source: ``get_lr`` for Llama in thinking-machines-lab/tinker-cookbook, ``hyperparam_utils.py``, read 2026-11-28."""
TEN_TIMES_FULL_RATE = 10 * 2e-5
"""Ten times trl's default rate of full fine-tuning.
Source: https://thinkingmachines.ai/blog/lora, read 2026-11-28."""

RECIPES: dict[str, dict[str, Any]] = {
    "brief": {**COMMON, "target_modules": ATTENTION, "learning_rate": 2e-3},
    "q/v, rate 4e-3": {**COMMON, "target_modules": ATTENTION, "learning_rate": 4e-3},
    "all-linear": COMMON,
    "MLP only": {**COMMON, "target_modules": "down_proj,gate_proj,up_proj"},
    "dropout 0": {**COMMON, "lora_dropout": 0.0},
    "rank 8": {**COMMON, "lora_r": 8},
    "rank 32": {**COMMON, "lora_r": 32},
    "rate 2e-4 (10 x full)": {**COMMON, "learning_rate": TEN_TIMES_FULL_RATE},
    "rate 1.3e-3 (Tinker)": {**COMMON, "learning_rate": round(TINKER_RATE, 6)},
    "rate 2e-3": {**COMMON, "learning_rate": 2e-3},
    "2 epochs": {**COMMON, "n_epochs": 2},
    "5 epochs": {**COMMON, "n_epochs": 5},
    "batch 8": {**COMMON, "batch_size": 8},
}
NEVER_DROPPED = ("brief", "all-linear")


@dataclass(frozen=True)
class Run:
    """What is trained: a recipe on the rows of a task and a seed, from a base."""

    base: str
    task: str
    seed: int
    recipe: str

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's hyperparameters."""
        return RECIPES[self.recipe]

    @property
    def data(self) -> str:
        """Digest of the rows."""
        return _digest(self.task, self.seed)


@cache
def known_tasks() -> Mapping[str, Task]:
    """Every task by its name, also the one with all tickets."""
    return {**all_tasks(), SUPPORT_DESK: whole_support_desk()}


@cache
def _digest(task: str, seed: int) -> str:
    return known_tasks()[task].digest(seed)


class Journal:
    """The file with a line for each run that has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """The runs of recipes and tasks as they are defined now; a line that was not written to its end is left out."""
        rows = []
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else ():
            with suppress(ValueError):
                rows.append(json.loads(line))
        return [row for row in rows if self._is_current(row)]

    @staticmethod
    def _is_current(row: dict[str, Any]) -> bool:
        return (
            row["task"] in known_tasks()
            and row["settings"] == RECIPES.get(row["recipe"])
            and row["data"] == _digest(row["task"], row["seed"])
        )

    def runs(self) -> set[Run]:
        """The runs that have ended."""
        return {Run(row["base"], row["task"], row["seed"], row["recipe"]) for row in self.rows()}

    def add(self, run: Run, measured: dict[str, Any]) -> None:
        """Append a run; lines of several processes do not mix."""
        line = json.dumps({**asdict(run), "settings": run.settings, "data": run.data, **measured}) + "\n"
        with self.path.open("ab") as file:
            torn = self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
            file.write(("\n" if torn else "").encode() + line.encode())

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether no other process works on this run; a process that ends in whatever way gives its claim up."""
        name = "".join(
            letter if letter.isalnum() else "-" for letter in f"{run.base} {run.task} {run.seed} {run.recipe}"
        )
        folder = self.path.with_suffix(".locks")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


@dataclass(frozen=True)
class Plan:
    """Which runs there are, in order: all recipes of a task, then the next task, then the next seed.

    Attributes:
        drop_after: Whole seeds after which recipes that are clearly worse than the best one are left out; 0 for never.
    """

    base: str
    tasks: Sequence[str]
    recipes: Sequence[str]
    seeds: int
    drop_after: int

    def runs(self, rows: Sequence[dict[str, Any]]) -> Iterator[Run]:
        """All runs, without those of recipes that earlier seeds show to be worse."""
        remaining = list(self.recipes)
        for seed in range(1, self.seeds + 1):
            if self.drop_after and seed > self.drop_after:
                earlier = [
                    row for row in rows if row["base"] == self.base and row["seed"] < seed and row["task"] in self.tasks
                ]
                worse = clearly_worse(earlier, remaining, self.tasks, range(1, seed))
                remaining = [name for name in remaining if name not in worse or name in NEVER_DROPPED]
            for task in self.tasks:
                for recipe in remaining:
                    yield Run(self.base, task, seed, recipe)


class Measuring(Protocol):
    """Makes runs."""

    def measure(self, run: Run) -> dict[str, Any]:
        """What the journal keeps of a run."""


class Runner:
    """Trains runs, and answers the held-out questions with their adapters."""

    def __init__(self, base: Path, tasks: Mapping[str, Task]) -> None:
        self.base = base
        self.tasks = tasks

    def measure(self, run: Run) -> dict[str, Any]:
        """Train one run in a temporary folder; its held-out loss, and how many answers are exact."""
        from ftpipe.training.job_directory import JobDirectory, JobSpec
        from ftpipe.training.row_losses import ScoringRequest, score_models
        from ftpipe.training.run import run_job

        task = self.tasks[run.task]
        started, started_cpu = time.monotonic(), time.process_time()
        with tempfile.TemporaryDirectory(prefix="ftpipe-recipes-") as folder:
            directory = JobDirectory(Path(folder))
            training, test = task.write(Path(folder), run.seed)
            directory.write_spec(
                JobSpec(
                    job_id="job",
                    method="supervised",
                    base_model=str(self.base),
                    training_file=training,
                    validation_file=None,
                    hyperparameters=run.settings,
                    seed=run.seed,
                    model_name=run.task,
                    models_dir=self.base.parent,
                    keep_checkpoints=1,
                )
            )
            if run_job(directory) != "succeeded":
                raise SystemExit(f"{run}: {directory.read_result()}")
            seconds, cpu_seconds = time.monotonic() - started, time.process_time() - started_cpu
            plan, adapter = directory.read_plan(), directory.checkpoint_dir(directory.checkpoints()[-1].step)
            assert plan is not None
            scored = score_models(ScoringRequest(test, str(self.base), (adapter,), self.base.parent))
            return {
                "loss": round(sum(row.losses[0] * row.tokens for row in scored) / sum(row.tokens for row in scored), 5),
                "exact": self._count_exact(adapter, task),
                "questions": len(scored),
                "precision": plan.hyperparameters.precision,
                "seconds": round(seconds, 1),
                "cpu_seconds": round(cpu_seconds, 1),
            }

    @cached_property
    def _decoder(self) -> Decoder:
        from ftpipe.modeling.device import has_bfloat16_instructions
        from tests.inference.batch_models import make_decoder

        return make_decoder(self.base, "bfloat16" if has_bfloat16_instructions() else "float32")

    def _count_exact(self, adapter: Path, task: Task) -> int:
        """How many greedy answers are exactly the expected ones."""
        from ftpipe.modeling.chat_tokenizer import ChatTokenizer
        from ftpipe.modeling.loading import load_tokenizer
        from tests.inference.batch_models import run_together

        chat_tokenizer, tokenizer = ChatTokenizer.load(self.base), load_tokenizer(self.base)
        end, exact = chat_tokenizer.end_of_turn(), 0
        pairs = task.test()
        longest = max(len(tokenizer.encode(answer)) for _, answer in pairs) + 1
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            prompts = [chat_tokenizer.prompt(task.messages(pair)[:-1]) for pair in batch]
            answers = run_together(self._decoder, [(adapter, prompt) for prompt in prompts], tokens=longest)
            for ids, (_, expected) in zip(answers, batch, strict=True):
                whole = ids[: ids.index(end)] if end in ids else ids
                exact += str(tokenizer.decode(whole, skip_special_tokens=True)).strip() == expected
        return exact


def run_all(plan: Plan, journal: Journal, runner: Measuring, deadline: float) -> bool:
    """Make the runs that are not in the journal until the deadline; false if some are left, also to other processes."""
    tried: set[Run] = set()
    while True:
        done = journal.runs()
        todo = [run for run in plan.runs(journal.rows()) if run not in done and run not in tried]
        if not todo:
            return tried <= done
        if time.monotonic() > deadline:
            return False
        run = todo[0]
        with journal.claim(run) as is_ours:
            if not is_ours:
                tried.add(run)  # another process works on it
                continue
            if run in journal.runs():
                continue
            measured = runner.measure(run)
            journal.add(run, measured)
            gc.collect()  # models are in reference cycles, and few objects are made between two of them
        sys.stderr.write(
            f"{run.task}, seed {run.seed}, {run.recipe}: loss {measured['loss']:.4f}, {measured['exact']} of "
            f"{measured['questions']} exact, {measured['seconds']:.0f} s; {len(todo) - 1} runs left\n"
        )


def names(text: str, known: Sequence[str], option: str) -> list[str]:
    """A selection, separated by semicolons; all if it is empty."""
    chosen = [name.strip() for name in text.split(";") if name.strip()] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"{option}: there is no {unknown[0]!r}; known: {'; '.join(known)}")
    return chosen


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, default=JOURNAL, help="default: recipes.jsonl beside this file")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="a base or its folder")
    parser.add_argument("--tasks", default="", help="names, separated by semicolons; 'support desk' has all tickets")
    parser.add_argument("--recipes", default="", help="names, separated by semicolons")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget-minutes", type=float, default=math.inf, help="start no run after this time")
    parser.add_argument(
        "--drop-after",
        type=int,
        default=2,
        metavar="SEEDS",
        help="then leave out recipes that are worse than the best by a 99%% interval; 0 for never (default: 2)",
    )
    parser.add_argument("--table", action="store_true", help="print the tables of the journal and train nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, or print the tables."""
    options = parse(arguments)
    tasks = names(options.tasks, list(known_tasks()), "--tasks") if options.tasks else list(all_tasks())
    recipes = names(options.recipes, list(RECIPES), "--recipes")
    journal = Journal(options.journal)
    if options.table:
        rows = [row for row in journal.rows() if row["base"] == Path(options.base).name]
        sys.stdout.write(tables(rows, recipes, tasks) + "\n")
        return 0
    from tests.benchmarks.train import base_dir

    base = base_dir(options.base)
    plan = Plan(base.name, tasks, recipes, options.seeds, options.drop_after)
    deadline = time.monotonic() + 60 * options.budget_minutes
    try:
        is_complete = run_all(plan, journal, Runner(base, known_tasks()), deadline)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; {journal.path} has {len(journal.runs())} runs, the next start continues\n")
        return 130
    if is_complete:
        shutil.rmtree(journal.path.with_suffix(".locks"), ignore_errors=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the folder of the run is removed
    raise SystemExit(main())
