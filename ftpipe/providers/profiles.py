"""How endpoints differ, as data: addresses, limits and quirks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import ValidationError

from ftpipe.errors import ConfigError
from ftpipe.records import Method, Record
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS
from ftpipe.suggestions import nearest_name

KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")
URL_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_BASE_URL")
KEY_OWNERS = (
    *("anthropic", "aws", "azure", "cohere", "datadog", "deepseek", "digitalocean", "github", "gitlab", "google"),
    *(
        "gemini",
        "grok",
        "groq",
        "hf",
        "huggingface",
        "langsmith",
        "linear",
        "mistral",
        "notion",
        "openai",
        "openrouter",
    ),
    *("perplexity", "pinecone", "sendgrid", "sentry", "slack", "stripe", "together", "twilio", "wandb", "xai"),
)
"""Services whose keys are often in an environment; only a provider of that name can get one."""


class Profile(Record):
    """One host, the API that it has, and its quirks."""

    name: str
    title: str = ""
    base_url: str = ""
    """Root of the API, for example ``https://api.openai.com/v1``; empty if the user has to name it."""
    base_url_env: str = ""
    """Environment variable that overrides ``base_url``."""
    key_env: str = ""
    """Environment variable that holds the key; empty if none is needed."""
    key_expires: bool = False
    """Whether keys live for hours, so that the variable is read again for each call."""
    api: Literal["openai", "together", "fireworks"] = "openai"
    """Whose API for files, jobs and deployments it has; chat is OpenAI's at every host."""
    target: Literal["openai", "azure", "nebius", "local", "together", "fireworks", "bedrock"] = "openai"
    """Whose dataset rules apply."""
    methods: tuple[Method, ...] = (Method.SUPERVISED,)
    default_model: str = ""
    last_day_to_create: str | None = None
    """Last day on which jobs can be created, ISO 8601; ``None`` if none is announced."""
    models_shutdown_date: str | None = None
    """Day on which the tuned models are shut down, ISO 8601, if the endpoint does not say so itself."""
    new_customers: bool | None = None
    """Whether an organization that never trained there can start to; ``None`` if that is not known."""
    probe_training: bool = False
    """Whether a job on a file that does not exist can be requested at its ``base_url`` to see if jobs are accepted."""
    batch_api: bool = False
    """Whether ``/batches`` answers many chat requests within a day for a lower price."""
    uploads_api: bool = True
    """Whether ``/uploads`` exists for files that are too large for ``/files``."""
    uploads_above_bytes: int = 512 * 1024 * 1024
    """Files larger than this go through the Uploads API, in bytes."""
    part_bytes: int = 64 * 1000 * 1000
    """Size of a part in bytes, at most 64 MB. Source: OpenAI API description, addUploadPart, 2026-08-21."""
    max_file_bytes: int = 8 * 1024**3
    wait_file_processed: bool = False
    """Whether a job can only be created once the file's status is ``processed``."""
    learning_rate: Literal["multiplier", "absolute"] = "multiplier"
    """Whether jobs take a factor on the model's own learning rate, or the rate itself, which ftpipe then states."""
    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters beyond OpenAI's that jobs take, by their names in ``Hyperparameters``."""
    chooses_epochs: bool = True
    """Whether the number of epochs can be left to the host; otherwise ftpipe states it."""
    quotes_price: bool = False
    """Whether the host estimates the price of a job once it has the files; the plan and the budget limit it."""
    hyperparameters_at: Literal["method", "top"] = "method"
    metadata_stored: bool = True
    metadata_filter: bool = True
    """Whether ``GET /fine_tuning/jobs?metadata[k]=v`` filters."""
    unsupported: tuple[Literal["seed", "validation", "integrations"], ...] = ()
    """Parts of a request that jobs do not take."""
    chooses_job_ids: bool = False
    """Whether ftpipe chooses the ids of jobs: they are made of the journal's key, and no list has to be searched."""
    unique_files: bool = False
    """Whether each run uploads a file of its own, because a job shows nothing else that tells whose it is."""
    list_has_status: bool = True
    """Whether the status of jobs in a list is right."""
    max_suffix_chars: int = 64
    """0 if jobs take no suffix."""
    list_lag_seconds: float = 90.0
    """How long a job may take to appear in lists; no second POST is sent before that."""
    poll_first_seconds: float = 5.0
    poll_max_seconds: float = 60.0
    request_timeout_seconds: float = 120.0
    """Wall-clock limit of one call; uploads get more, by their size."""
    paid: bool = True
    chat_concurrency: int = 16
    """Chats that an evaluation sends at the same time, unless it is told otherwise."""
    waiting_service_tier: str = ""
    """``service_tier`` of chats that can wait, such as those of evaluations; empty for none."""
    has_row_losses: bool = False
    """Whether it is a server of ftpipe, which computes the loss of every row."""
    deployments: bool = False
    """Whether a tuned model answers only after ``ftpipe deployments create``, for a price per hour."""
    untried: str = ""
    """What could not be tried on the real host; empty if all was. Doctor and documentation say it."""
    deployment_hint: str = ""
    """What the user has to do before the tuned model answers; empty if nothing."""

    @property
    def extended_hyperparameters(self) -> tuple[str, ...]:
        """Hyperparameters beyond OpenAI's that jobs take; ftpipe's own server takes all of them."""
        return EXTENDED_HYPERPARAMETERS if self.target == "local" else self.hyperparameters


def load_profiles(overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Profile]:
    """Read the profiles of the package, and apply the user's changes.

    Args:
        overrides: Tables by profile name; a new name makes a new profile, which needs a ``base_url``.

    Raises:
        ConfigError: A table has an unknown key or an invalid value.
    """
    tables = dict(builtin_profiles())
    for name, table in (overrides or {}).items():
        _check_override(name, table)
        tables[name] = {**tables.get(name, {}), **table}
    return {name: _profile(name, table) for name, table in tables.items()}


@cache
def builtin_profiles() -> Mapping[str, Mapping[str, Any]]:
    """The tables of the package by provider."""
    text = resources.files("ftpipe.providers").joinpath("profiles.toml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    return tables


def _check_override(name: str, table: Mapping[str, Any]) -> None:
    """Refuse settings with which a configuration file could send a secret away, or spend money without a question.

    Raises:
        ConfigError: Such a setting.
    """
    builtin = builtin_profiles().get(name, {})
    variable = table.get("key_env", "")
    if isinstance(variable, str) and variable and variable != builtin.get("key_env"):
        owners = [other for other, known in builtin_profiles().items() if known.get("key_env") == variable]
        owners += [vendor for vendor in KEY_OWNERS if variable.startswith(f"{vendor.upper()}_") and vendor != name]
        if owners or not KEY_VARIABLE.fullmatch(variable):
            owner = f"it belongs to {owners[0]}" if owners else "it is not a name like EXAMPLE_API_KEY"
            raise ConfigError(
                f"[providers.{name}] key_env: {variable} cannot be sent to this provider, because {owner}",
                "put the provider's key into a variable for it alone, for example "
                f"{re.sub('[^A-Z0-9]', '_', name.upper())}_API_KEY",
            )
    variable = table.get("base_url_env", "")
    if isinstance(variable, str) and variable and not URL_VARIABLE.fullmatch(variable):
        raise ConfigError(
            f"[providers.{name}] base_url_env: {variable} is not a name like EXAMPLE_BASE_URL", "set base_url instead"
        )
    if builtin.get("paid", True) and builtin and table.get("paid") is False:
        raise ConfigError(
            f"[providers.{name}] paid: jobs of this provider cost money",
            "give a free endpoint a name that is not in use",
        )


def find_profile(name: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Profile:
    """The profile of that name.

    Raises:
        ConfigError: There is none; the hint suggests the closest name.
    """
    profiles = load_profiles(overrides)
    if name in profiles:
        return profiles[name]
    nearest = nearest_name(name, profiles)
    known = ", ".join(sorted(profiles))
    raise ConfigError(
        f"there is no provider {name!r}",
        f"did you mean {nearest!r}? known: {known}"
        if nearest
        else f"known: {known}; add [providers.{name}] with a base_url to ftpipe.toml",
    )


def _profile(name: str, table: Mapping[str, Any]) -> Profile:
    try:
        return Profile(name=name, **table)
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        nearest = nearest_name(key, Profile.model_fields)
        hint = f"did you mean {nearest!r}?" if nearest else "known keys: " + ", ".join(sorted(Profile.model_fields))
        raise ConfigError(f"[providers.{name}] {key}: {first['msg']}", hint) from exc
