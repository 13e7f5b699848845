"""The body of a request for a job at Fireworks, and what its hyperparameters can be."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from ftpipe.errors import RequestRefusedError
from ftpipe.providers.fireworks.api import RESOURCE_ID
from ftpipe.providers.fireworks.datasets import dataset_name
from ftpipe.providers.fireworks.models import base_name
from ftpipe.records import Hyperparameters, JobRequest, Method

ID_PREFIXES = {Method.SUPERVISED: "ftpipe-sft-", Method.DPO: "ftpipe-dpo-"}
"""Beginning of the ids that ftpipe chooses, by method."""
MAX_DISPLAY_NAME_CHARS = 63
MAX_LORA_RANK = 32
"""Source: Fireworks documentation, fine-tuning parameters (power of two), 2026-11-28."""
CONTEXT_STEP = 16
MAX_BETA = 0.5
"""Below it. Source: fireworks-ai 1.2.30, shared/dpo_config.py, 2026-11-28."""
EXTRA_TYPES: dict[str, tuple[type, ...]] = {
    "learningRateWarmupSteps": (int,),
    "optimizerWeightDecay": (float, int),
    "maxContextLength": (int,),
    "earlyStop": (bool,),
    "jinjaTemplate": (str,),
}
"""Hyperparameters under ``extra``, named as in the API.

Source: fireworks-ai 1.2.30, supervised_fine_tuning_job_create_params.py, 2026-11-28.
"""
SUPERVISED_ONLY = frozenset({"earlyStop"})
NEVER_SENT = {
    "gradientAccumulationSteps": "Fireworks refuses it; a larger batch size has the same effect",
    "seed": "Fireworks takes no seed",
    "loraRank": "its name is lora_r, under [hyperparameters]",
    "learningRate": "its name is learning_rate, under [hyperparameters]",
}
NOT_EXPRESSIBLE = ("lora_alpha", "lora_dropout", "target_modules")


def job_id_of(key: str, method: Method) -> str:
    """The id of a job with the journal's key."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{ID_PREFIXES[method]}{digest[:40]}"


def check_hyperparameters(hyperparameters: Hyperparameters, method: Method) -> None:
    """Refuse what Fireworks does not take.

    Raises:
        RequestRefusedError: A hyperparameter has no counterpart, or its value is outside the limits.
    """
    for name in NOT_EXPRESSIBLE:
        if getattr(hyperparameters, name) is not None:
            raise RequestRefusedError(f"Fireworks does not take {name}", "leave it out")
    for name, value in hyperparameters.extra.items():
        _check_extra(name, value, method)
    rank = hyperparameters.lora_r
    if rank is not None and (rank > MAX_LORA_RANK or rank & (rank - 1)):
        raise RequestRefusedError(
            f"lora_r is {rank}, and Fireworks takes a power of two up to {MAX_LORA_RANK}", "use 8, 16 or 32"
        )
    context = hyperparameters.extra.get("maxContextLength")
    if isinstance(context, int) and (context <= 0 or context % CONTEXT_STEP):
        raise RequestRefusedError(
            f"maxContextLength is {context}, and Fireworks takes a multiple of {CONTEXT_STEP}",
            f"use {max(1, round(context / CONTEXT_STEP)) * CONTEXT_STEP}",
        )
    beta = hyperparameters.beta
    if method is Method.DPO and isinstance(beta, int | float) and beta >= MAX_BETA:
        raise RequestRefusedError(f"beta is {beta}, and Fireworks takes values below {MAX_BETA}", "use 0.1")


def _check_extra(name: str, value: object, method: Method) -> None:
    if name in NEVER_SENT:
        raise RequestRefusedError(f"{name} cannot be used at Fireworks: {NEVER_SENT[name]}", "leave it out")
    types = EXTRA_TYPES.get(name)
    if types is None or (method is Method.DPO and name in SUPERVISED_ONLY):
        known = ", ".join(sorted(set(EXTRA_TYPES) - (SUPERVISED_ONLY if method is Method.DPO else set())))
        raise RequestRefusedError(
            f"Fireworks has no hyperparameter {name!r} for {method.value} jobs", f"known: {known}"
        )
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise RequestRefusedError(
            f"{name} is {value!r}, which is not of the type {' or '.join(kind.__name__ for kind in types)}",
            "correct it under [hyperparameters.extra]",
        )


def job_body(request: JobRequest, *, job_id: str, parent: str) -> dict[str, Any]:
    """The body of the create call; what is not requested is left to the service.

    Raises:
        RequestRefusedError: The request has something that Fireworks does not take.
    """
    check_hyperparameters(request.hyperparameters, request.method)
    if request.seed is not None:
        raise RequestRefusedError("Fireworks takes no seed", "leave --seed out")
    if request.method is Method.DPO and request.validation_file is not None:
        raise RequestRefusedError("Fireworks takes no validation file for DPO jobs", "leave --validation out")
    training = {
        "baseModel": base_name(request.model),
        "outputModel": f"{parent}/models/{output_model_id(request.suffix, job_id)}",
        **_training_values(request.hyperparameters),
    }
    body: dict[str, Any] = {
        "dataset": dataset_name(request.training_file.id, parent),
        "displayName": (request.suffix or job_id)[:MAX_DISPLAY_NAME_CHARS],
    }
    if request.method is Method.DPO:
        body["trainingConfig"] = training
        beta = request.hyperparameters.beta
        body["lossConfig"] = {"method": "DPO"} | ({"dpo": {"beta": beta}} if isinstance(beta, int | float) else {})
        return body
    body |= training
    body["evalAutoCarveout"] = False  # without this a part of the dataset is not trained
    if request.validation_file is not None:
        body["evaluationDataset"] = dataset_name(request.validation_file.id, parent)
    return body


def _training_values(hyperparameters: Hyperparameters) -> dict[str, Any]:
    values: dict[str, Any] = {
        "epochs": _explicit(hyperparameters.n_epochs),
        "batchSizeSamples": _explicit(hyperparameters.batch_size),
        "learningRate": hyperparameters.learning_rate,
        "loraRank": hyperparameters.lora_r,
        **hyperparameters.extra,
    }
    return {name: value for name, value in values.items() if value is not None}


def _explicit(value: object) -> object:
    return None if value == "auto" else value


def output_model_id(suffix: str | None, job_id: str) -> str:
    """The id of the tuned model: the suffix, so far as its characters are allowed, and an end that no other job has."""
    if not suffix:
        return job_id
    text = re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")[:48].strip("-")
    name = f"{text}-{job_id[-12:]}"
    return name if RESOURCE_ID.fullmatch(name) else f"m-{name}"[:63]
