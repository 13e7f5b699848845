"""The body of ``POST /v1/fine-tunes``: every field is stated, because the server takes an absent one for zero.

Source: togethercomputer/openapi 090263a (2026-04-28), ``POST /fine-tunes``; docs.together.ai, 2026-08.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftpipe.errors import RequestRefusedError
from ftpipe.providers.responses import as_dict, number, text, whole
from ftpipe.records import Hyperparameters, JobRequest, Method
from ftpipe.suggestions import did_you_mean

DEFAULT_LEARNING_RATE = 1e-5
DEFAULT_DPO_BETA = 0.1
DEFAULT_RANK = 8
"""If the host names none for the base."""
KEY_CHARS = 10
KEY_IN_NAME = re.compile(rf"-([0-9a-f]{{{KEY_CHARS}}})(?![0-9a-f])")
EXTRA_DEFAULTS: dict[str, float | bool | int | str] = {
    "packing": True,
    "n_checkpoints": 1,
    "warmup_ratio": 0.0,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "min_lr_ratio": 0.0,
    "num_cycles": 0.5,
    "train_on_inputs": "auto",
}
"""What ``[hyperparameters.extra]`` can change, with the host's documented defaults."""
EXTRA_OPTIONAL = ("n_evals", "max_seq_length")
"""The same, for fields whose default depends on the request or on the base."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What the host says about a base; a value that it does not give is ``None`` and not checked."""

    model: str
    has_lora: bool
    default_rank: int | None
    max_rank: int | None
    target_modules: tuple[str, ...]
    min_batch_size: int | None
    max_batch_size: Mapping[Method, int | None]
    max_epochs: int | None
    max_evals: int | None
    learning_rates: tuple[float | None, float | None]
    max_seq_length: Mapping[Method, int | None]


def limits_of(response: object) -> ModelLimits:
    """The limits of a base."""
    fields = as_dict(response)
    lora = fields.get("lora_training")
    lora = lora if isinstance(lora, Mapping) else {}
    modules = lora.get("target_modules")
    return ModelLimits(
        model=text(fields.get("model_name")),
        has_lora=bool(lora),
        default_rank=whole(lora.get("default_rank")),
        max_rank=whole(lora.get("max_rank")),
        target_modules=tuple(name for name in modules if isinstance(name, str)) if isinstance(modules, list) else (),
        min_batch_size=whole(lora.get("min_batch_size")),
        max_batch_size={
            Method.SUPERVISED: whole(lora.get("max_batch_size")),
            Method.DPO: whole(lora.get("max_batch_size_dpo")),
        },
        max_epochs=whole(fields.get("max_num_epochs")),
        max_evals=whole(fields.get("max_num_evals")),
        learning_rates=(number(fields.get("min_learning_rate")), number(fields.get("max_learning_rate"))),
        max_seq_length={
            Method.SUPERVISED: whole(fields.get("max_seq_length_sft")),
            Method.DPO: whole(fields.get("max_seq_length_dpo")),
        },
    )


def short_key(key: str) -> str:
    """What a job's suffix carries of the journal's key: 40 bits of it."""
    return hashlib.sha256(key.encode()).hexdigest()[:KEY_CHARS]


def check_limits(hyperparameters: Hyperparameters, method: Method, limits: ModelLimits) -> None:
    """Refuse hyperparameters that the host would refuse, or that it does not know.

    Raises:
        RequestRefusedError: One is outside the limits of the base, or unknown.
    """
    for name in hyperparameters.extra:
        if name not in EXTRA_DEFAULTS and name not in EXTRA_OPTIONAL:
            known = (*EXTRA_DEFAULTS, *EXTRA_OPTIONAL)
            raise RequestRefusedError(
                f"Together does not take {name!r} of [hyperparameters.extra]",
                f"{did_you_mean(name, known)} it takes: {', '.join(known)}",
            )
    for problem in _problems(hyperparameters, method, limits):
        raise RequestRefusedError(
            f"{limits.model} at Together: {problem}", "nothing was sent; choose a value within the host's limits"
        )


def _problems(values: Hyperparameters, method: Method, limits: ModelLimits) -> Iterator[str]:
    if not limits.has_lora:
        yield "LoRA training is not offered for this base"
    low, high = limits.learning_rates
    numbers = (
        ("epochs", values.n_epochs, 1, limits.max_epochs),
        ("the batch size", values.batch_size, limits.min_batch_size, limits.max_batch_size.get(method)),
        ("the learning rate", values.learning_rate, low, high),
        ("the LoRA rank", values.lora_r, 1, limits.max_rank),
        ("the sequence length", values.extra.get("max_seq_length"), 1, limits.max_seq_length.get(method)),
        ("evaluations", values.extra.get("n_evals"), 0, limits.max_evals),
    )
    for name, value, least, most in numbers:
        if not isinstance(value, int | float):
            continue
        if (least is not None and value < least) or (most is not None and value > most):
            most_text = f"{most:g}" if most is not None else "any number"
            yield f"{name} can be from {least or 0:g} to {most_text}, and {value:g} was requested"
    modules = values.target_modules or ()
    listed = {*limits.target_modules, "all-linear"}  # which stands for all that are listed
    unknown = [name for name in modules if limits.target_modules and name not in listed]
    if unknown:
        yield f"adapters can be on {', '.join(limits.target_modules)}, and not on {', '.join(unknown)}"


def job_body(request: JobRequest, *, key: str, limits: ModelLimits) -> dict[str, Any]:
    """The full body of a create call."""
    values, extra = request.hyperparameters, {**EXTRA_DEFAULTS, **request.hyperparameters.extra}
    scheduler: dict[str, Any] = {"min_lr_ratio": extra["min_lr_ratio"]}
    if extra["lr_scheduler_type"] == "cosine":
        scheduler["num_cycles"] = extra["num_cycles"]
    body = {
        **estimate_body(request, limits=limits),
        "batch_size": "max" if values.batch_size == "auto" else values.batch_size,
        "learning_rate": values.learning_rate or DEFAULT_LEARNING_RATE,
        "lr_scheduler": {"lr_scheduler_type": extra["lr_scheduler_type"], "lr_scheduler_args": scheduler},
        "warmup_ratio": extra["warmup_ratio"],
        "max_grad_norm": extra["max_grad_norm"],
        "weight_decay": extra["weight_decay"],
        "packing": extra["packing"],
        "n_checkpoints": extra["n_checkpoints"],
        "suffix": f"{request.suffix or 'ftpipe'}-{short_key(key)}",
    }
    length = extra.get("max_seq_length") or limits.max_seq_length.get(request.method)
    if length:
        body["max_seq_length"] = length
    if request.seed is not None:
        body["random_seed"] = request.seed
    return body


def estimate_body(request: JobRequest, *, limits: ModelLimits) -> dict[str, Any]:
    """The fields that decide the price: the body of ``POST /v1/fine-tunes/estimate-price``."""
    values, extra = request.hyperparameters, request.hyperparameters.extra
    epochs = 1 if values.n_epochs == "auto" else values.n_epochs
    body: dict[str, Any] = {
        "training_file": request.training_file.id,
        "model": request.model,
        "n_epochs": epochs,
        # without evaluations the host ignores the validation file
        "n_evals": extra.get("n_evals", min(epochs, limits.max_evals or epochs) if request.validation_file else 0),
        "training_method": _training_method(request),
        "training_type": _training_type(values, limits),
    }
    if request.validation_file is not None:
        body["validation_file"] = request.validation_file.id
    return body


def _training_method(request: JobRequest) -> dict[str, Any]:
    if request.method is Method.DPO:
        beta = request.hyperparameters.beta
        return {
            "method": "dpo",
            "dpo_beta": beta if isinstance(beta, float) else DEFAULT_DPO_BETA,
            "rpo_alpha": 0.0,
            "simpo_gamma": 0.0,
            "dpo_normalize_logratios_by_length": False,
            "dpo_reference_free": False,
        }
    train_on_inputs = request.hyperparameters.extra.get("train_on_inputs", EXTRA_DEFAULTS["train_on_inputs"])
    return {"method": "sft", "train_on_inputs": train_on_inputs}


def _training_type(values: Hyperparameters, limits: ModelLimits) -> dict[str, Any]:
    """An adapter with the stated or the host's default rank; its modules are listed if the base lists them."""
    default_rank = limits.default_rank or min(DEFAULT_RANK, limits.max_rank or DEFAULT_RANK)
    rank = values.lora_r or default_rank
    modules = values.target_modules or ("all-linear",)
    if modules == ("all-linear",) and limits.target_modules and "all-linear" not in limits.target_modules:
        modules = limits.target_modules
    return {
        "type": "Lora",
        "lora_r": rank,
        "lora_alpha": values.lora_alpha or 2 * rank,
        "lora_dropout": values.lora_dropout or 0.0,
        "lora_trainable_modules": ",".join(modules),
    }
