"""The configuration, from the user's settings, ``ftpipe.toml``, ``FTPIPE_*`` variables and flags, with its origins.

Each of them overrides those before it. Secrets are never in a file of settings: :func:`secrets` reads them from the
environment and ``.env``. pydantic-settings can merge these sources as well, but does not report origins.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import ConfigError
from ftpipe.paths import default_registry, home
from ftpipe.records import Hyperparameters, Method, Record
from ftpipe.records.job import RECIPES
from ftpipe.suggestions import nearest_dotted_name

CONFIG_FILE = "ftpipe.toml"
USER_FILE = "config.toml"
"""The user's settings for all projects, in the folder of ``FTPIPE_HOME``; `ftpipe config set` writes it."""
USER_KEYS = ("registry", "provider", "max_cost")
"""What can be set for all projects."""
MAX_CONFIG_BYTES = 1_000_000
"""Largest configuration file that is read."""


class RunConfig(Record):
    """A project's settings for all its runs; ``None`` if a setting has no value."""

    provider: str | None = None
    """``openai``, ``azure``, ``nebius``, ``together``, ``local``, or the name of a ``[providers.NAME]`` table."""
    model: str | None = None
    """Base model to fine-tune."""
    data: Path | None = None
    """Training file."""
    validation: Path | None = None
    """Validation file."""
    method: Method | None = None
    """``supervised``, ``dpo`` or ``reinforcement``; detected from the data if not set."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the fine-tuned model's name."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    """Makes a job repeatable if the provider supports it."""
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Highest cost estimate in USD with which a run can start."""
    registry: str | None = None
    """SQLite file or ``postgresql://`` URL; the project's ``.ftpipe/registry.db`` if not set."""
    output: Path | None = None
    """Folder for prepared files."""
    recipe: Literal["default", "brief"] | None = None
    """A set of values for the adapter: LoRA rank, alpha, dropout and layers; see ``RECIPES``."""
    hyperparameters: Hyperparameters = Hyperparameters()
    metadata: dict[str, str] = Field(default_factory=dict)
    """Up to 14 keys and values stored with the job; ftpipe adds two."""
    integrations: tuple[dict[str, Any], ...] = ()
    """Passed to the provider unchanged."""
    grader: dict[str, Any] | None = None
    """Scores the answers in reinforcement; passed to the provider unchanged."""
    checks: dict[str, Any] = Field(default_factory=dict)
    """Settings of the dataset checks."""
    ignore: tuple[dict[str, Any], ...] = ()
    """Accepted findings: rule, record, reason, expires."""
    providers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """``[providers.NAME]``: changes to the built-in profile of that name, or a new profile."""
    prices: dict[str, Any] = Field(default_factory=dict)
    """``[prices."MODEL"]``: your own price rows."""

    @property
    def check_values(self) -> dict[str, Any]:
        """``[checks]`` with the accepted findings as ``ignores``, as ``settings_from`` takes it."""
        values = dict(self.checks)
        if self.ignore:
            values["ignores"] = [*values.get("ignores", ()), *self.ignore]
        return values


@dataclass(frozen=True)
class Settings:
    """A configuration, and the origin of each value."""

    config: RunConfig
    origins: Mapping[str, str]
    """Dotted key → file name, variable or flag; other keys have their default."""
    path: Path | None
    """The file that was read, if any."""
    warnings: tuple[str, ...] = ()
    """What has no effect: ``FTPIPE_*`` variables that are not settings."""


_VARIABLES = {
    "FTPIPE_PROVIDER": "provider",
    "FTPIPE_MODEL": "model",
    "FTPIPE_DATA": "data",
    "FTPIPE_VALIDATION": "validation",
    "FTPIPE_METHOD": "method",
    "FTPIPE_SUFFIX": "suffix",
    "FTPIPE_SEED": "seed",
    "FTPIPE_MAX_COST": "max_cost",
    "FTPIPE_REGISTRY": "registry",
    "FTPIPE_OUTPUT": "output",
    "FTPIPE_RECIPE": "recipe",
    "FTPIPE_EPOCHS": "hyperparameters.n_epochs",
    "FTPIPE_BATCH_SIZE": "hyperparameters.batch_size",
    "FTPIPE_LEARNING_RATE_MULTIPLIER": "hyperparameters.learning_rate_multiplier",
    "FTPIPE_BETA": "hyperparameters.beta",
    "FTPIPE_LEARNING_RATE": "hyperparameters.learning_rate",
    "FTPIPE_LORA_RANK": "hyperparameters.lora_r",
    "FTPIPE_LORA_ALPHA": "hyperparameters.lora_alpha",
    "FTPIPE_LORA_DROPOUT": "hyperparameters.lora_dropout",
    "FTPIPE_TARGET_MODULES": "hyperparameters.target_modules",
    "FTPIPE_MAX_LENGTH": "hyperparameters.max_length",
    "FTPIPE_PRECISION": "hyperparameters.precision",
    "FTPIPE_QUANTIZATION": "hyperparameters.quantization",
    "FTPIPE_GRADIENT_CHECKPOINTING": "hyperparameters.gradient_checkpointing",
    "FTPIPE_COMPUTE_MULTIPLIER": "hyperparameters.compute_multiplier",
    "FTPIPE_EVAL_INTERVAL": "hyperparameters.eval_interval",
    "FTPIPE_EVAL_SAMPLES": "hyperparameters.eval_samples",
    "FTPIPE_MAX_COMPLETION_TOKENS": "hyperparameters.max_completion_tokens",
}
PROCESS_VARIABLES = frozenset(
    {
        "FTPIPE_HOME",
        "FTPIPE_JSON",
        "FTPIPE_CONFIG",
        "FTPIPE_LOCAL_BASE_URL",
        "FTPIPE_LOCAL_API_KEY",
        "FTPIPE_TRUSTED_HOSTS",
    }
)
"""Variables that are not settings of a run: locations and output."""
FLAGS = {
    "hyperparameters.n_epochs": "--epochs",
    "hyperparameters.batch_size": "--batch-size",
    "hyperparameters.learning_rate_multiplier": "--learning-rate-multiplier",
    "hyperparameters.beta": "--beta",
    "hyperparameters.learning_rate": "--learning-rate",
    "hyperparameters.lora_r": "--lora-rank",
    "hyperparameters.lora_alpha": "--lora-alpha",
    "hyperparameters.lora_dropout": "--lora-dropout",
    "hyperparameters.target_modules": "--target-modules",
    "hyperparameters.max_length": "--max-length",
    "hyperparameters.precision": "--precision",
    "hyperparameters.quantization": "--quantization",
    "hyperparameters.gradient_checkpointing": "--gradient-checkpointing",
    "hyperparameters.compute_multiplier": "--compute-multiplier",
    "hyperparameters.eval_interval": "--eval-interval",
    "hyperparameters.eval_samples": "--eval-samples",
    "hyperparameters.max_completion_tokens": "--max-completion-tokens",
}
_PATHS = ("data", "validation", "output")
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*@")
_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password)$", re.IGNORECASE)
_SECRET_VARIABLES = re.compile(
    r"^[A-Z][A-Z0-9_]*_(API_KEY|TOKEN)$|^OPENAI_(ORG|PROJECT)_ID$|^FTPIPE_REGISTRY$"
    r"|^AWS_BEARER_TOKEN_BEDROCK$|^FIREWORKS_ACCOUNT_ID$"
)


def setting_keys() -> list[str]:
    """Every dotted key of the configuration, in the order of the record."""
    keys = [name for name in RunConfig.model_fields if name != "hyperparameters"]
    return keys + [f"hyperparameters.{name}" for name in Hyperparameters.model_fields]


def flag_of(key: str) -> str:
    """The flag that sets a key: ``--max-cost`` for ``max_cost``."""
    return FLAGS.get(key, "--" + key.replace("_", "-"))


def load(
    path: Path | None = None,
    *,
    env: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Load the configuration.

    Args:
        path: File named by the user. By default the one named by ``FTPIPE_CONFIG``, or ``ftpipe.toml`` in ``folder``.
        env: Environment; only ``FTPIPE_*`` variables are read.
        flags: Dotted key → value; ``None`` means that the flag was not given.
        folder: Folder of ``ftpipe.toml``; the current folder by default.

    Raises:
        ConfigError: The file cannot be read, or a key or value is invalid.
    """
    user_file, config_file = user_path(), _find(path, env, folder or Path.cwd())
    values: dict[str, object] = dict(user_settings())
    origins = dict.fromkeys(values, str(user_file))
    from_file = _read(config_file) if config_file else {}
    variables = _from_environment(env)
    set_flags = {key: value for key, value in (flags or {}).items() if value is not None}
    for source, source_origins in (
        (from_file, dict.fromkeys(from_file, str(config_file))),
        ({_VARIABLES[name]: text for name, text in variables.items()}, {_VARIABLES[name]: name for name in variables}),
        (set_flags, {key: flag_of(key) for key in set_flags}),
    ):
        from_recipe = _recipe_values(source)
        values |= from_recipe | source
        origins |= {key: source_origins["recipe"] for key in from_recipe} | source_origins
    warnings = tuple(_unknown_variables(env))
    return Settings(config=_build(values, origins), origins=origins, path=config_file, warnings=warnings)


def user_path() -> Path:
    """The file of the user's settings for all projects; it need not exist."""
    return home() / USER_FILE


def user_settings() -> dict[str, object]:
    """The user's settings for all projects.

    Raises:
        ConfigError: The file cannot be read, or has another key than those of ``USER_KEYS``.
    """
    path = user_path()
    values = _read(path) if path.is_file() else {}
    for key in values:
        if key not in USER_KEYS:
            raise ConfigError(
                f"{path}: {key} cannot be set for all projects",
                f"set it in {CONFIG_FILE}; here: {', '.join(USER_KEYS)}",
            )
    return values


def save_user_setting(key: str, text: str | None) -> object:
    """Set a key for all projects, or with ``None`` take its value away; returns the value.

    Raises:
        ConfigError: The key cannot be set for all projects, or the value is not valid.
        OSError: The file cannot be written.
    """
    if key not in USER_KEYS:
        nearest = nearest_dotted_name(key, USER_KEYS)
        hint = f"did you mean {nearest}?" if nearest else f"set it in {CONFIG_FILE}"
        raise ConfigError(f"{key!r} cannot be set for all projects; only {', '.join(USER_KEYS)} can", hint)
    if key == "registry" and text is not None:
        if has_password(text):
            raise ConfigError(
                "a password does not belong in a file of settings", "put the URL into FTPIPE_REGISTRY or .env"
            )
        text = absolute_registry(text)
    values = {name: value for name, value in user_settings().items() if name != key}
    values |= {} if text is None else {key: text}
    config = _build(values, {})
    lines = [f"{name} = {json.dumps(getattr(config, name))}\n" for name in sorted(values)]
    path = user_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(path, "".join(lines).encode(), mode=0o600)
    return getattr(config, key)


def absolute_registry(text: str) -> str:
    """A registry's URL, or its path relative to the current folder as an absolute path."""
    return text if "://" in text else str(_relative_to(Path.cwd(), text))


def has_password(url: str) -> bool:
    """Whether a URL has a password in it."""
    return bool(_PASSWORD.search(url))


def without_password(url: str) -> str:
    """A URL as it can be shown."""
    return _PASSWORD.sub(r"\1***@", url)


def registry_in_use(settings: Settings) -> tuple[str, str]:
    """Path of the registry, or its URL without a password; and where that comes from."""
    return without_password(settings.config.registry or str(default_registry())), settings.origins.get(
        "registry", "default"
    )


def _find(path: Path | None, env: Mapping[str, str], folder: Path) -> Path | None:
    named = path or (Path(env["FTPIPE_CONFIG"]) if env.get("FTPIPE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"there is no configuration file {named}", "name an existing file with --config")
        return named
    default = folder / CONFIG_FILE
    return default if default.is_file() else None


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check the file's permissions") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than 1 MB", "see configs/ for examples")
    try:
        tree = tomllib.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{path} is not TOML: {reason}", "see configs/ for examples") from error
    return _flat(tree, path)


def _flat(tree: Mapping[str, Any], path: Path) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in tree.items():
        if key == "hyperparameters" and isinstance(value, dict):
            values |= {f"hyperparameters.{inner}": leaf for inner, leaf in value.items()}
        else:
            values[key] = value
    _reject_unknown(values, str(path))
    _reject_secrets(values, path)
    base = path.absolute().parent
    for key in _PATHS:
        if isinstance(text := values.get(key), str):
            values[key] = _relative_to(base, text)
    registry = values.get("registry")
    if isinstance(registry, str) and "://" not in registry:
        values["registry"] = str(_relative_to(base, registry))
    return values


def _relative_to(folder: Path, text: str) -> Path:
    """The path, which is relative to the configuration file's folder if it is not absolute."""
    return Path(os.path.normpath(folder / Path(text).expanduser()))


def _reject_unknown(keys: Iterable[str], path: str) -> None:
    known = setting_keys()
    for key in keys:
        if key in known:
            continue
        nearest = nearest_dotted_name(key, known)
        hint = f"did you mean {nearest}?" if nearest else "run `ftpipe config show` for all settings"
        if key.startswith("hyperparameters.") and not nearest:
            hint = "hyperparameters of a single provider belong under [hyperparameters.extra]"
        raise ConfigError(f"{path}: there is no setting {key!r}", hint)


def _reject_secrets(values: Mapping[str, object], path: Path) -> None:
    providers = values.get("providers")
    for name, table in providers.items() if isinstance(providers, dict) else ():
        for key in table if isinstance(table, dict) else ():
            if _SECRET.search(key):
                raise ConfigError(
                    f"{path}: providers.{name}.{key} looks like a secret, and secrets do not belong in this file",
                    f'set key_env = "MY_API_KEY" under [providers.{name}] and put the key into the environment or .env',
                )


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in env.items() if name in _VARIABLES and text}


def _recipe_values(source: Mapping[str, object]) -> dict[str, object]:
    """What the recipe of a source sets; it overrides values of earlier sources, and not those of its own."""
    recipe = source.get("recipe")
    values = RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}
    return {f"hyperparameters.{name}": value for name, value in values.items()}


def _unknown_variables(env: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that looks like a setting; another program may have set it, so it is no error."""
    known = [*_VARIABLES, *PROCESS_VARIABLES]
    for name in env:
        if name.startswith("FTPIPE_") and env[name] and name not in known:
            nearest = nearest_dotted_name(name, known)
            hint = f"; did you mean {nearest}?" if nearest else ""
            yield f"the environment variable {name} is not a setting and has no effect{hint}"


def _build(values: Mapping[str, object], origins: Mapping[str, str]) -> RunConfig:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        table, _, leaf = key.rpartition(".")
        (tree.setdefault(table, {}) if table else tree)[leaf] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise _to_config_error(error.errors(include_url=False)[0], origins) from error


def _to_config_error(error: ErrorDetails, origins: Mapping[str, str]) -> ConfigError:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location[:2]) if location[0] == "hyperparameters" else location[0]
    origin = origins.get(key, "the configuration")
    shown = f"{origin}: {key}" if not origin.startswith("--") and not origin.isupper() else origin
    text = repr(error["input"])
    reason = _VALUE_RANGES.get(key) or error["msg"].removeprefix("Input ")
    if origin.startswith("--"):
        return ConfigError(f"{shown}: {text[:80]} is not valid", f"give {origin} another value: {reason}")
    return ConfigError(
        f"{shown}: {text[:80]} is not valid: {reason}", "run `ftpipe config show` for all settings and their values"
    )


_VALUE_RANGES = {
    "hyperparameters.n_epochs": "epochs must be a whole number from 1 to 50, or auto",
    "hyperparameters.batch_size": "the batch size must be a whole number from 1 to 256, or auto",
    "hyperparameters.learning_rate_multiplier": "the multiplier must be a number above 0, or auto",
    "hyperparameters.beta": "beta must be a number above 0 and at most 2, or auto",
    "hyperparameters.learning_rate": "the learning rate must be a number above 0 and at most 1",
    "hyperparameters.lora_r": "the LoRA rank must be a whole number from 1 to 512",
    "hyperparameters.lora_alpha": "the LoRA alpha must be a whole number from 1 to 4096",
    "hyperparameters.lora_dropout": "the LoRA dropout must be a number from 0 to 0.9",
    "hyperparameters.target_modules": "name linear layers, for example q_proj,v_proj, or all-linear",
    "hyperparameters.max_length": "the length must be a whole number of tokens, 8 or more",
    "hyperparameters.precision": "the precision must be float32 or bfloat16",
    "hyperparameters.quantization": "the quantization must be none, 4bit or 8bit",
    "hyperparameters.gradient_checkpointing": "gradient checkpointing is true or false",
    "recipe": "the recipe must be default or brief",
    "hyperparameters.compute_multiplier": "the multiplier must be a number above 0.00001 and at most 10, or auto",
    "hyperparameters.eval_interval": "the interval must be a whole number of steps, 1 or more, or auto",
    "hyperparameters.eval_samples": "the number of samples must be a whole number, 1 or more, or auto",
    "hyperparameters.max_completion_tokens": "the limit must be a whole number of tokens, 1 or more",
    "method": "the method must be supervised, dpo or reinforcement",
    "seed": "the seed must be a whole number from 0 to 2147483647",
    "suffix": "the suffix must have 1 to 64 characters",
    "max_cost": "the maximum cost must be a number of USD, 0 or more",
}


def secrets(env: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """The environment with the secrets of ``.env`` added; variables that are set are not replaced.

    Only names that can hold a secret are read from the file (``*_API_KEY``, ``*_TOKEN``, the OpenAI organization and
    project, ``FTPIPE_REGISTRY`` with its password); nothing is expanded, run or written.

    Raises:
        ConfigError: ``.env`` exists but cannot be read.
    """
    path = (folder or Path.cwd()) / ".env"
    if not path.is_file():
        return dict(env)
    from dotenv import dotenv_values

    try:
        variables = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", "save it as UTF-8 text that you can read") from error
    secret = {name: text for name, text in variables.items() if text and _SECRET_VARIABLES.match(name)}
    return secret | dict(env)
