"""Speed of ftpipe's trainer and of trl's SFTTrainer on the same model, data and LoRA.

Usage: ``python -m tests.benchmarks.train``

Each contender trains in a process of its own, with the same base, rows, mask, rank, targets, rate, batch and epochs, in
each precision: of the base and of what it computes; adapters are in float32. Tokens are those of the rendered rows,
without padding; loading is not timed. The work is what torch's counter finds in the shapes of every matrix product of
one more, untimed step over each batch; the peak is the best of large products of that precision in the same run. trl
must be installed (``pip install trl``), or be on ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parents[2] / "data" / "support_desk" / "train.jsonl"
RANK, ALPHA, DROPOUT, TARGETS, RATE, LONGEST = 16, 32, 0.05, ("q_proj", "v_proj"), 2e-3, 1024
PEAK_SIZE = 2048


def train_ftpipe(model_dir: Path, data: Path, batch: int, epochs: int, precision: str) -> dict[str, float]:
    """The trainer of a job, with everything that it writes."""
    from ftpipe.modeling.chat_tokenizer import ChatTokenizer
    from ftpipe.modeling.device import DeviceConfig, use_passive_omp_wait
    from ftpipe.modeling.loading import load_base
    from ftpipe.training.batching import epoch_batches, read_rows
    from ftpipe.training.causal_lm import LanguageModel
    from ftpipe.training.hyperparameters import ResolvedHyperparameters
    from ftpipe.training.job_directory import JobDirectory
    from ftpipe.training.job_recorder import JobRecorder
    from ftpipe.training.lora import add_adapter
    from ftpipe.training.loss import SupervisedObjective
    from ftpipe.training.parallel import ParallelModel
    from ftpipe.training.trainer import Trainer

    use_passive_omp_wait()
    hyperparameters = ResolvedHyperparameters(epochs, batch, 1.0, RATE, RANK, ALPHA, DROPOUT, TARGETS, LONGEST)
    model = add_adapter(load_base(model_dir, DeviceConfig("cpu", precision)), hyperparameters, seed=1)
    rows = read_rows(data, ChatTokenizer.load(model_dir), limit=LONGEST)
    objective, parallel = SupervisedObjective(rows.examples), ParallelModel(LanguageModel(model))
    with tempfile.TemporaryDirectory() as folder:
        directory = JobDirectory(Path(folder))
        trainer = Trainer(
            hyperparameters=hyperparameters, objective=objective, model=parallel, base_model="base", seed=1
        )
        recorder = JobRecorder(directory, hyperparameters, keep_checkpoints=3)
        spent = clocked(lambda: recorder.record(trainer.run(directory.state_file)))
    order = epoch_batches(objective.lengths, batch, seed=1, epoch=0)
    parallel.module.train()
    work = counted(lambda: [parallel.backward(objective, indices) for indices in order]) * epochs
    return result(spent, rows.tokens * epochs, work, trainer.state.metrics[-1].train_loss or 0.0)


def train_trl(model_dir: Path, data: Path, batch: int, epochs: int, precision: str) -> dict[str, float]:
    """SFTTrainer of trl: prompt and completion apart, so that the same tokens are trained; no recomputing."""
    import pyarrow
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    records = [json.loads(line)["messages"] for line in data.read_text(encoding="utf-8").splitlines()]
    table = pyarrow.Table.from_pylist([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in records])
    rows = Dataset(table, fingerprint="rows")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_length=LONGEST,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=precision == "bfloat16",
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=1,
    )
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, precision), attn_implementation="sdpa")
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(model, args=settings, train_dataset=rows, peft_config=lora, processing_class=tokenizer)
    spent = clocked(trainer.train)
    tokens = sum(len(row) for row in trainer.train_dataset["input_ids"])
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    batches = list(trainer.get_train_dataloader())
    work = counted(lambda: [trainer.training_step(trainer.model, inputs) for inputs in batches]) * epochs
    return result(spent, tokens * epochs, work, losses[-1])


def find_peak(_model_dir: Path, _data: Path, _batch: int, _epochs: int, precision: str) -> dict[str, float]:
    """Best speed of a large product."""
    import torch

    left, right = (torch.rand(PEAK_SIZE, PEAK_SIZE).to(getattr(torch, precision)) for _ in range(2))
    spent = [clocked(lambda: torch.mm(left, right)) for _ in range(8)]
    work = 2 * PEAK_SIZE**3 / 1e9
    return {"gflops": work / min(wall for wall, _ in spent), "per_cpu": work / min(cpu for _, cpu in spent)}


def counted(work: Callable[[], object]) -> float:
    """Floating-point operations in the matrix products of ``work``, in units of 1e9.

    ``FlopCounterMode`` itself cannot be used: it also follows modules, and its hooks do not allow a backward pass
    inside of another one (torch 2.13.0), which the trainer's head is.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    total = 0

    class Counter(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            result = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            if count is not None:
                total += count(*args, **(kwargs or {}), out_val=result)
            return result

    with Counter():
        work()
    return total / 1e9


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and seconds of processor time, all threads together."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - busy


def result(spent: tuple[float, float], tokens: int, gflop: float, loss: float) -> dict[str, float]:
    """What a contender's process writes."""
    return {"seconds": spent[0], "cpu": spent[1], "tokens": tokens, "gflop": gflop, "loss": loss}


CONTENDERS: dict[str, Callable[[Path, Path, int, int, str], dict[str, float]]] = {
    "ftpipe": train_ftpipe,
    "trl": train_trl,
    "peak": find_peak,
}


def run(name: str, precision: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run a contender in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.train", "--contender", name]
    command += ["--precision", precision, "--model", arguments.model, "--data", arguments.data]
    command += ["--batch", arguments.batch, "--epochs", arguments.epochs]
    idle = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # for all: threads that spin would steal from each other
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True, env=idle)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def shortened(data: Path, rows: int) -> Path:
    """A copy of the first rows."""
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
    path = Path(tempfile.mkdtemp()) / data.name
    path.write_text("".join(lines), encoding="utf-8")
    return path


def base_dir(name: str) -> Path:
    """Directory of a base model; the default one is created if it is missing."""
    from ftpipe.modeling.base_models import resolve_base
    from ftpipe.paths import models_dir

    return Path(name) if Path(name).is_dir() else resolve_base(name, models_dir=models_dir())


def main() -> None:
    """Run the contenders one after the other, the peak before, between and after them; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a base or its folder")
    parser.add_argument("--data", type=Path, default=ROWS)
    parser.add_argument("--rows", type=int, default=0, help="only the first rows of the data")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", default="float32,bfloat16", help="precisions, comma-separated")
    parser.add_argument("--only", default="ftpipe,trl", help="contenders, comma-separated")
    arguments = parser.parse_args()
    arguments.model = base_dir(arguments.model)
    if arguments.rows:
        arguments.data = shortened(arguments.data, arguments.rows)
    if arguments.contender:
        measured = CONTENDERS[arguments.contender](
            arguments.model, arguments.data, arguments.batch, arguments.epochs, arguments.precision
        )
        sys.stdout.write(json.dumps(measured) + "\n")
        return
    for precision in arguments.precision.split(","):
        peaks, rows = [run("peak", precision, arguments)], []
        for name in arguments.only.split(","):
            rows.append((name, run(name, precision, arguments)))
            peaks.append(run("peak", precision, arguments))
        show(precision, rows, max(peak["gflops"] for peak in peaks), max(peak["per_cpu"] for peak in peaks))


def show(precision: str, rows: list[tuple[str, dict[str, Any]]], peak: float, peak_per_cpu: float) -> None:
    """Print the table; on a busy machine the columns of processor time are the ones to compare."""
    lines = [
        f"peak of {precision} products: {peak:.0f} GFLOP/s on the clock, {peak_per_cpu:.0f} per second of CPU time",
        "",
        f"| trainer, {precision} | s | tokens | tokens/s | of peak | CPU s | tokens/CPU s | of peak per CPU | GFLOP "
        "| last loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows:
        wall, cpu, tokens, work = row["seconds"], row["cpu"], row["tokens"], row["gflop"]
        lines.append(
            f"| {name} | {wall:.1f} | {tokens:.0f} | {tokens / wall:.0f} | {work / wall / peak:.0%} | {cpu:.1f} "
            f"| {tokens / cpu:.0f} | {work / cpu / peak_per_cpu:.0%} | {work:.0f} | {row['loss']:.4f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
