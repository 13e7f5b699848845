"""Planned against measured memory and time of training: random bases, each trained in a process of its own.

Usage: ``python -m tests.benchmarks.plan``, and for the time ``python -m tests.benchmarks.plan --steps 8``

Each base has random weights, stored in bfloat16 as hubs do. A job of a few steps runs on it as ``ftpipe serve`` runs it
(``python -m ftpipe.training JOBDIR``), on rows of equal length, and the trainer records its own peak (VmHWM on Linux).
The plan knows the ``config.json``, the job's settings and the length of the rows. Rows that are marked with * are those
that the constants of ``ftpipe/modeling/memory.py`` were chosen on.

The time of a case is planned from the cases before it of the same precision and quantization, as later jobs of a
machine are from those that have ended there; otherwise it is the rough guess of a first job. It is the time of the
steps, without the start of the process. It says something only with enough steps, one worker, and nothing else on the
machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftpipe.training.measured_jobs import MeasuredJob

ANSWER_PART = 4
"""A fourth of each row is the answer."""


@dataclass(frozen=True)
class Case:
    """A base with random weights, and how it is trained."""

    name: str
    config: dict[str, Any]
    rows: int
    tokens: int
    settings: dict[str, Any] = field(default_factory=dict)
    is_tuned: bool = False
    """Whether the formula's constants were chosen on it."""


def llama(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    """A ``config.json`` of the Llama family; the others change some keys."""
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }


FLOAT32, BFLOAT16 = {"precision": "float32"}, {"precision": "bfloat16"}
SMOLLM2 = llama(30, 576, 1536, 9, 3, 49_152)
SHALLOW = llama(10, 576, 1536, 9, 3, 49_152)
WIDE = llama(3, 2048, 8192, 32, 8, 32_000)
LLAMA_1B = llama(16, 2048, 8192, 32, 8, 128_256) | {"head_dim": 64}
QWEN2 = llama(12, 896, 4864, 14, 2, 151_936) | {"model_type": "qwen2"}
QWEN3 = llama(8, 1024, 3072, 16, 8, 151_936) | {"model_type": "qwen3", "head_dim": 128}
GEMMA3 = llama(12, 640, 2048, 4, 1, 262_144) | {"model_type": "gemma3_text", "head_dim": 256, "sliding_window": 512}
GEMMA2 = llama(6, 768, 3072, 8, 4, 64_000) | {"model_type": "gemma2", "head_dim": 128, "sliding_window": 4096}
MISTRAL = llama(6, 1024, 3584, 16, 4, 32_768) | {"model_type": "mistral", "sliding_window": None}
GPT_OSS = llama(6, 512, 512, 8, 2, 50_000) | {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 128,
}
CHECKPOINTING = {"gradient_checkpointing": True}
ALL_LINEAR = {"target_modules": ["all-linear"]}
CASES = (
    Case("Llama 135M", SMOLLM2, 4, 128, FLOAT32, is_tuned=True),
    Case("Llama shallow, long rows", SHALLOW, 1, 2048, FLOAT32, is_tuned=True),
    Case("Llama shallow, bfloat16, all-linear", SHALLOW, 4, 256, BFLOAT16 | ALL_LINEAR, is_tuned=True),
    Case("Llama shallow, checkpointing", SHALLOW, 1, 2048, FLOAT32 | CHECKPOINTING, is_tuned=True),
    Case("Llama wide, bfloat16", WIDE, 2, 512, BFLOAT16),
    Case("Qwen2 mid, bfloat16", QWEN2, 4, 128, BFLOAT16),
    Case("Qwen2 mid, float32, checkpointing", QWEN2, 2, 256, FLOAT32 | CHECKPOINTING),
    Case("Qwen3 mid, float32", QWEN3, 2, 384, FLOAT32),
    Case(
        "Qwen3 mid, 4-bit, all-linear", QWEN3, 2, 256, BFLOAT16 | ALL_LINEAR | {"quantization": "4bit"}, is_tuned=True
    ),
    Case("Gemma3 mid, bfloat16", GEMMA3, 4, 128, BFLOAT16),
    Case("Gemma2 mid, float32", GEMMA2, 2, 384, FLOAT32),
    Case("Mistral mid, float32, all-linear", MISTRAL, 2, 512, FLOAT32 | ALL_LINEAR),
    Case("Mistral mid, bfloat16, 8-bit", MISTRAL, 4, 256, BFLOAT16 | {"quantization": "8bit"}, is_tuned=True),
    Case("Qwen2 mid, bfloat16, 8-bit", QWEN2, 2, 192, BFLOAT16 | {"quantization": "8bit"}, is_tuned=True),
    Case("gpt-oss tiny, float32", GPT_OSS, 2, 512, FLOAT32),
    Case("gpt-oss tiny, bfloat16, rank 64", GPT_OSS, 4, 256, BFLOAT16 | {"lora_r": 64}, is_tuned=True),
    Case("gpt-oss deep, bfloat16", GPT_OSS | {"num_hidden_layers": 12, "num_local_experts": 4}, 2, 384, BFLOAT16),
    Case(
        "Llama 1B, 4-bit, checkpointing",
        LLAMA_1B,
        1,
        128,
        BFLOAT16 | CHECKPOINTING | {"quantization": "4bit"},
        is_tuned=True,
    ),
)


def save_base(folder: Path, config: dict[str, Any]) -> None:
    """Save a base with random weights and a tokenizer of one token per character."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from tests.training.tiny_model import tiny_tokenizer

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer()
    settings = {**config, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chat_rows(count: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Chats of random letters, each of exactly so many tokens, without a common beginning."""
    overhead = len("user\n") + len("\nassistant\n") + len("\n") + 4  # and the control tokens around both messages
    letters = random.Random(7)
    answer = tokens // ANSWER_PART
    for _ in range(count):
        texts = ["".join(letters.choices(string.ascii_letters, k=n)) for n in (tokens - overhead - answer, answer)]
        yield {
            "messages": [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)
            ]
        }


def make_job(folder: Path, base: Path, case: Case, steps: int) -> Path:
    """A job directory as the server makes it."""
    folder.mkdir()
    rows = chat_rows(case.rows * steps, case.tokens)
    data = folder / "training.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = {
        "job_id": "ftjob-plan",
        "method": "supervised",
        "base_model": base.name,
        "training_file": str(data),
        "validation_file": None,
        "seed": 7,
        "keep_checkpoints": 1,
        "hyperparameters": {"n_epochs": 1, "batch_size": case.rows, "max_length": case.tokens, **case.settings},
        "model_name": "ft:plan",
        "models_dir": str(base.parent),
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def measure(base: Path, folder: Path, case: Case, steps: int) -> dict[str, Any]:
    """Train, and return what the job recorded: its peak, speed and settings."""
    from ftpipe.server.jobs.trainer_process import trainer_environment

    job = make_job(folder, base, case, steps)
    command = [sys.executable, "-W", "ignore", "-m", "ftpipe.training", str(job)]
    done = subprocess.run(
        command, env=trainer_environment(downloads=False), capture_output=True, text=True, check=False
    )
    result = json.loads((job / "result.json").read_text(encoding="utf-8")) if (job / "result.json").exists() else {}
    if result.get("status") != "succeeded":
        raise SystemExit(f"{case.name} failed: {result.get('error')}\n{done.stderr[-2000:]}")
    progress: dict[str, Any] = json.loads((job / "progress.json").read_text(encoding="utf-8"))
    return progress


def planned(config: dict[str, Any], case: Case) -> dict[str, int]:
    """The estimate from configuration, settings and length of the rows."""
    from dataclasses import asdict, replace

    from ftpipe.modeling.machine import Machine
    from ftpipe.modeling.memory import estimate_memory
    from ftpipe.modeling.model_shape import ModelShape
    from ftpipe.training.hyperparameters import resolve_hyperparameters
    from ftpipe.training.memory_settings import RowLengths, setup_of

    shape = ModelShape.from_config(config)
    if shape is None:
        raise SystemExit(f"{case.name}: this architecture is not known")
    requested = {"n_epochs": 1, "batch_size": case.rows, **case.settings}
    resolved = resolve_hyperparameters(
        requested,
        examples=case.rows,
        parameters=shape.parameters,
        max_context=8192,
        on_accelerator=False,
        method="supervised",
    )
    rows = RowLengths(case.tokens, 1 / ANSWER_PART)
    estimate = estimate_memory(shape, setup_of(replace(resolved, max_length=case.tokens), Machine("cpu", None), rows))
    return {**asdict(estimate), "total": estimate.total}


def planned_seconds(config: dict[str, Any], case: Case, steps: int, jobs: Sequence[MeasuredJob]) -> float:
    """The time of the steps from configuration, settings, length of the rows, and what earlier jobs took."""
    from ftpipe.modeling.base_facts import BaseFacts
    from ftpipe.modeling.machine import this_machine
    from ftpipe.training.estimate import JobData, estimate_training
    from ftpipe.training.memory_settings import RowLengths

    requested = {"n_epochs": 1, "batch_size": case.rows, "max_length": case.tokens, **case.settings}
    count = case.rows * steps
    data = JobData(RowLengths(case.tokens, 1 / ANSWER_PART), count, count * case.tokens)
    estimate = estimate_training(
        folder_name(case), BaseFacts.of_config(config), requested, data, this_machine(), jobs=jobs
    )
    return estimate.seconds or 0.0


def folder_name(case: Case) -> str:
    """A name for the base of a case; cases with the same base share it."""
    return hashlib.sha256(json.dumps(case.config, sort_keys=True).encode()).hexdigest()[:12]


def save_bases(folder: Path, cases: Sequence[Case]) -> None:
    """Save the bases of some cases in a process of its own."""
    if not cases:
        return
    names = ",".join(str(CASES.index(case)) for case in cases)
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.plan", "--save", str(folder), "--cases", names]
    subprocess.run(command, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})


def run_case(folder: Path, case: Case, steps: int, jobs: list[MeasuredJob]) -> dict[str, Any]:
    """Train on the base of a case, and compare; the job joins those that later cases learn from."""
    from ftpipe.training.measured_jobs import read_measured_jobs

    base = folder / folder_name(case)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    seconds = planned_seconds(config, case, steps, jobs)
    with tempfile.TemporaryDirectory(dir=folder) as jobs_folder:
        job = Path(jobs_folder) / f"ftjob-{CASES.index(case)}"
        progress = measure(base, job, case, steps)
        jobs.extend(read_measured_jobs(Path(jobs_folder), folder))
    return {
        "planned_seconds": round(seconds, 1),
        "measured_seconds": round(progress["trained_tokens"] / progress["tokens_per_second"], 1),
        "name": case.name + "*" * case.is_tuned,
        "planned": planned(config, case),
        "measured": progress["peak_memory_bytes"],
        "tokens_per_second": progress["tokens_per_second"],
    }


def main() -> None:
    """Run the cases one after the other; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of each case")
    parser.add_argument("--workers", type=int, default=1, help="cases that run at the same time")
    parser.add_argument("--folder", type=Path, help="keep the bases here, for the next run")
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cases", default="", help="cases by number from 0, as 0,3")
    arguments = parser.parse_args()
    if arguments.save:
        for case in (CASES[int(number)] for number in arguments.cases.split(",")):
            if not (arguments.save / folder_name(case)).exists():
                save_base(arguments.save / folder_name(case), case.config)
        return
    cases = [CASES[int(number)] for number in arguments.cases.split(",") if number]
    cases = cases or [case for case in CASES if arguments.only in case.name]
    sys.stdout.write("| base | planned MB | measured MB | ratio | planned s | measured s | ratio |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|---:|---:|\n")
    jobs: list[MeasuredJob] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        save_bases(folder, [case for case in cases if not (folder / folder_name(case)).exists()])
        with ThreadPoolExecutor(arguments.workers) as pool:
            for row in pool.map(lambda case: run_case(folder, case, arguments.steps, jobs), cases):
                plan, measured = row["planned"]["total"], row["measured"]
                ratio = f"{plan / 1e6:,.0f} | {measured / 1e6:,.0f} | {plan / measured:.3f}"
                took, expected = row["measured_seconds"], row["planned_seconds"]
                time = f"{expected:,.1f} | {took:,.1f} | {expected / took:.3f}"
                sys.stdout.write(f"| {row['name']} | {ratio} | {time} |\n")
                sys.stdout.flush()
                sys.stderr.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
