"""``ftpipe plan``: whether a base model can be trained on a machine, how long it takes and what it costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_dataset
from ftpipe.cli.group import Command
from ftpipe.errors import NotFoundError, UsageError
from ftpipe.formatting import format_bytes, plural, sanitize_line
from ftpipe.pipeline.training_estimates import estimate_job, known_base, require_memory
from ftpipe.records import Hyperparameters, Method

if TYPE_CHECKING:
    from ftpipe.modeling.base_facts import BaseFacts
    from ftpipe.modeling.machine import Machine
    from ftpipe.training.estimate import JobData

MAX_GPUS = 1024


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of ``ftpipe plan``."""

    base: str
    data: Path | None = None
    method: str | None = None
    epochs: str | None = None
    batch_size: str | None = None
    recipe: str | None = None
    lora_r: str | None = None
    target_modules: str | None = None
    max_length: str | None = None
    precision: str | None = None
    quantization: str | None = None
    gradient_checkpointing: bool | None = None
    gpu: str | None = None
    gpus: int | None = None
    price_per_hour: float | None = None

    def as_settings(self) -> dict[str, object]:
        """Return the options as settings: dotted key → value."""
        names = ("batch_size", "lora_r", "target_modules", "max_length", "precision", "quantization")
        return {
            "method": self.method,
            "recipe": self.recipe,
            "hyperparameters.n_epochs": self.epochs,
            "hyperparameters.gradient_checkpointing": self.gradient_checkpointing,
            **{f"hyperparameters.{name}": getattr(self, name) for name in names},
        }


@click.command(
    cls=Command,
    groups={
        "Machine": ("gpu", "gpus", "price_per_hour"),
        "Hyperparameters": ("method", "epochs", "batch_size", "recipe", "lora_r", "target_modules"),
        "Memory and speed": ("max_length", "precision", "quantization", "gradient_checkpointing"),
    },
    example="ftpipe plan smollm2-135m-instruct data/support_desk/train.jsonl\n"
    "ftpipe plan Qwen/Qwen3-8B --gpu 24GB --max-length 4096",
)
@click.argument("base")
@shared.data
@click.option("--gpu", metavar="MEMORY", help="Plan for a GPU with so much memory, as 24GB, instead of this machine.")
@click.option("--gpus", type=click.IntRange(1, MAX_GPUS), metavar="N", help="Plan for so many GPUs that share the job.")
@click.option(
    "--price-per-hour",
    type=shared.NumberRange(min=0),
    metavar="USD",
    help="What the machine costs.  [default: nothing]",
)
@shared.method
@shared.epochs
@click.option("--batch-size", metavar="N", help="Examples per step: 1 to 256, or auto.")
@shared.recipe
@click.option("--lora-rank", "lora_r", metavar="N", help="Rank of the LoRA adapter: 1 to 512.")
@click.option("--target-modules", metavar="NAMES", help="Layers that get an adapter, as q_proj,v_proj, or all-linear.")
@shared.memory_settings
@pass_cli_context
def plan(context: CliContext, /, **params: Any) -> None:
    """Say whether BASE can be trained on DATA here: peak memory, time and price. Nothing is trained or sent.

    BASE is a base model of this machine, one that `ftpipe models bases` lists, or a config.json. Without DATA the rows
    of a batch are assumed to have 256 tokens each, or as many as --max-length says. The exit code is 1 if it does not
    fit, and the message names what makes it fit. The memory on GPUs is computed and was not measured.
    """
    options = PlanOptions(**params)
    settings = context.settings(options.as_settings())
    facts = read_base(options.base)
    machine = machine_of(options)
    method = settings.config.method or Method.SUPERVISED
    hyperparameters = settings.config.hyperparameters
    data = sample_data(hyperparameters) if options.data is None else file_data(options.data, options.base, method)
    estimate = estimate_job(options.base, facts, hyperparameters, data, method=method, machine=machine)
    if options.price_per_hour is None:
        price = 0.0 if machine is None else None
    else:
        price = None if estimate.seconds is None else options.price_per_hour * estimate.seconds / 3600
    estimate = estimate.model_copy(update={"price": price})
    context.add(estimate=estimate)
    from ftpipe.reports.training_estimate import estimate_lines

    context.print_result(estimate_lines(estimate, machine_title(estimate.device, machine), context.style))
    require_memory(estimate)


def read_base(name: str) -> BaseFacts:
    """The dimensions of a base model, or of a ``config.json``.

    Raises:
        UsageError: The file is not the configuration of a decoder.
        NotFoundError: The model is neither here nor in the catalogue.
    """
    path = Path(name)
    if path.name.endswith(".json"):
        return read_config(path)
    facts = known_base(name)
    if facts is None:
        raise NotFoundError(
            f"the dimensions of {sanitize_line(name, 80)!r} are not known here",
            "give its config.json, or a model that `ftpipe models bases` lists",
        )
    return facts


def read_config(path: Path) -> BaseFacts:
    """The dimensions in a ``config.json``.

    Raises:
        UsageError: It is not the configuration of a decoder.
    """
    from ftpipe.modeling.base_facts import BaseFacts
    from ftpipe.modeling.model_shape import MAX_DIMENSION, invalid_dimensions, text_config

    shown, hint = sanitize_line(str(path), 200), "give the config.json of a model"
    if not path.is_file():
        raise UsageError(f"there is no file {shown}", f"{hint}, or a model that `ftpipe models bases` lists")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise UsageError(f"{shown} cannot be read: {reason}", hint) from exc
    if not isinstance(config, dict):
        raise UsageError(f"{shown} is not a JSON object", hint)
    if names := invalid_dimensions(text_config(config)):
        raise UsageError(
            f"in {shown}, {', '.join(names)} must be given as whole numbers from 1 to {MAX_DIMENSION:,}",
            f"{hint} like Llama, Qwen, Gemma or Mistral; other architectures cannot be planned",
        )
    return BaseFacts.of_config(config)


def machine_of(options: PlanOptions) -> Machine | None:
    """The machine of ``--gpu`` and ``--gpus``; ``None`` for this one.

    Raises:
        UsageError: The memory is not readable, or not given and this machine has no GPU.
    """
    from ftpipe.modeling.machine import machine_with_gpus, parse_memory, this_machine

    if options.gpu is not None:
        return machine_with_gpus(parse_memory(options.gpu), options.gpus or 1)
    if options.gpus is None:
        return None
    here = this_machine()
    if here.device != "cuda" or here.memory_bytes is None:
        raise UsageError("--gpus was given, and this machine has no GPU", "add --gpu 24GB, the memory of each")
    return machine_with_gpus(here.memory_bytes, options.gpus)


def machine_title(device: str, machine: Machine | None) -> str:
    """The machine in words."""
    from ftpipe.reports.training_estimate import DEVICES

    if machine is None or machine.memory_bytes is None:
        return f"this machine ({DEVICES[device]})"
    return f"{plural(machine.count, 'GPU')} with {format_bytes(machine.memory_bytes)}"


def sample_data(hyperparameters: Hyperparameters) -> JobData:
    """What is assumed without data: rows as long as they may be, or of 256 tokens."""
    from ftpipe.modeling.memory import SAMPLE_ROWS, SAMPLE_TOKENS, SAMPLE_TRAINED_PART
    from ftpipe.training.estimate import JobData
    from ftpipe.training.memory_settings import RowLengths

    length = hyperparameters.max_length or SAMPLE_TOKENS
    return JobData(RowLengths(length, SAMPLE_TRAINED_PART), examples=SAMPLE_ROWS * 25)


def file_data(path: Path, base: str, method: Method) -> JobData:
    """The lengths of a file's rows.

    Raises:
        UsageError: There is no such file.
        DatasetError: It is in another format, or has no rows.
    """
    from ftpipe.dataset.row_lengths import read_job_data
    from ftpipe.errors import DatasetError
    from ftpipe.stages.validate import validate

    require_dataset(path)
    report = validate(path, target="local", model=base, method=None)
    if report.tokens is None or not report.tokens.examples:
        raise DatasetError(f"{path} has no rows that can be trained on", f"see `ftpipe prepare {path}`")
    return read_job_data(
        path, base, report.tokens, method=method if report.method is Method.SUPERVISED else report.method
    )
