"""One frozen configuration from TOML, then ``FTPIPE_*`` variables, then flags; it remembers where each value came from.

Secrets never stand in a configuration file: :func:`secrets` reads them from the environment and ``.env``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from ftpipe.errors import ConfigError
from ftpipe.records import Hyperparameters, Method, Record
from ftpipe.suggestions import nearest_dotted_name

CONFIG_FILE = "ftpipe.toml"
MAX_CONFIG_BYTES = 1_000_000
"""Largest configuration file that is read; nobody writes a bigger one by hand."""


class RunConfig(Record):
    """What a project has settled for all its runs; ``None`` where nothing was said."""

    provider: str | None = None
    """``openai``, ``azure``, ``nebius``, ``local``, or a name from ``[providers.*]``."""
    model: str | None = None
    """Base model to tune."""
    data: Path | None = None
    """Training file."""
    validation: Path | None = None
    """Validation file."""
    method: Method | None = None
    """``supervised``, ``dpo`` or ``reinforcement``; read from the data where it is not set."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the tuned model's name."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    """Makes a job repeatable where the provider honours it."""
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Highest estimate in USD that a run may start with."""
    registry: str | None = None
    """SQLite file or ``postgresql://`` URL; the project's ``.ftpipe/registry.db`` where it is not set."""
    output: Path | None = None
    """Folder for prepared files."""
    hyperparameters: Hyperparameters = Hyperparameters()
    metadata: dict[str, str] = Field(default_factory=dict)
    """Up to 14 pairs that the job carries; ftpipe adds two of its own."""
    integrations: tuple[dict[str, Any], ...] = ()
    """Passed to the provider as they are."""
    checks: dict[str, Any] = Field(default_factory=dict)
    """Settings of the dataset checks."""
    ignore: tuple[dict[str, Any], ...] = ()
    """Findings that are known and accepted: rule, record, reason, expires."""
    providers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """``[providers.NAME]``: what differs from the built-in profile of that name, or a profile of its own."""
    prices: dict[str, Any] = Field(default_factory=dict)
    """``[prices."MODEL"]``: price rows of your own."""


@dataclass(frozen=True)
class Settings:
    """A configuration, and where each of its values came from."""

    config: RunConfig
    origins: Mapping[str, str]
    """Dotted key → file name, variable or flag; a key that is missing has its default."""
    path: Path | None
    """The file that was read; ``None`` where there is none."""


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
    "FTPIPE_EPOCHS": "hyperparameters.n_epochs",
    "FTPIPE_BATCH_SIZE": "hyperparameters.batch_size",
    "FTPIPE_LEARNING_RATE_MULTIPLIER": "hyperparameters.learning_rate_multiplier",
    "FTPIPE_BETA": "hyperparameters.beta",
}
PROCESS_VARIABLES = frozenset({"FTPIPE_HOME", "FTPIPE_JSON", "FTPIPE_CONFIG", "FTPIPE_LOCAL_BASE_URL"})
"""Variables that are no settings of a run: where things lie and how ftpipe behaves."""
FLAGS = {
    "hyperparameters.n_epochs": "--epochs",
    "hyperparameters.batch_size": "--batch-size",
    "hyperparameters.learning_rate_multiplier": "--learning-rate-multiplier",
    "hyperparameters.beta": "--beta",
}
_PATHS = ("data", "validation", "output")
_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password)$", re.IGNORECASE)
_SECRET_VARIABLES = re.compile(r"^[A-Z][A-Z0-9_]*_(API_KEY|TOKEN)$|^OPENAI_(ORG|PROJECT)_ID$|^FTPIPE_REGISTRY$")


def setting_keys() -> list[str]:
    """Every key that a configuration may hold, dotted, in the order of the record."""
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
    """Resolve the configuration once.

    Args:
        path: File named by the user; else ``FTPIPE_CONFIG``, else ``ftpipe.toml`` in ``folder`` if it is there.
        env: Environment; only ``FTPIPE_*`` is looked at.
        flags: Dotted key → value; ``None`` means that the flag was not given.
        folder: Where ``ftpipe.toml`` is looked for; the current folder by default.

    Raises:
        ConfigError: The file cannot be read, or holds a key or value that is not one.
    """
    found = _find(path, env, folder or Path.cwd())
    values = _read(found) if found else {}
    origins = dict.fromkeys(values, str(found))
    variables = _from_environment(env)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    values |= {_VARIABLES[name]: text for name, text in variables.items()} | given
    origins |= {_VARIABLES[name]: name for name in variables} | {key: flag_of(key) for key in given}
    return Settings(config=_build(values, origins), origins=origins, path=found)


def _find(path: Path | None, env: Mapping[str, str], folder: Path) -> Path | None:
    named = path or (Path(env["FTPIPE_CONFIG"]) if env.get("FTPIPE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"no configuration file at {named}", "name an existing file with --config")
        return named
    usual = folder / CONFIG_FILE
    return usual if usual.is_file() else None


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check the file's permissions") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than 1 MB", "a configuration is a few lines of TOML; see configs/")
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
    """A path of a file, which is relative to the file's folder."""
    return Path(os.path.normpath(folder / Path(text).expanduser()))


def _reject_unknown(keys: Iterable[str], place: str) -> None:
    known = setting_keys()
    for key in keys:
        if key in known:
            continue
        nearest = nearest_dotted_name(key, known)
        hint = f"did you mean {nearest}?" if nearest else "`ftpipe config show` lists every setting"
        if key.startswith("hyperparameters.") and not nearest:
            hint = "what only some endpoints know goes under [hyperparameters.extra]"
        raise ConfigError(f"{place}: there is no setting {key!r}", hint)


def _reject_secrets(values: Mapping[str, object], path: Path) -> None:
    providers = values.get("providers")
    for name, table in providers.items() if isinstance(providers, dict) else ():
        for key in table if isinstance(table, dict) else ():
            if _SECRET.search(key):
                raise ConfigError(
                    f"{path}: providers.{name}.{key} looks like a secret, and secrets do not belong in a file",
                    f'set key_env = "MY_API_KEY" under [providers.{name}] and put the key into the environment or .env',
                )


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    named = {name: text for name, text in env.items() if name.startswith("FTPIPE_") and text}
    for name in named:
        if name not in _VARIABLES and name not in PROCESS_VARIABLES:
            nearest = nearest_dotted_name(name, [*_VARIABLES, *PROCESS_VARIABLES])
            hint = f"did you mean {nearest}?" if nearest else f"unset {name}"
            raise ConfigError(f"the environment holds {name}, which is no setting", hint)
    return {name: text for name, text in named.items() if name in _VARIABLES}


def _build(values: Mapping[str, object], origins: Mapping[str, str]) -> RunConfig:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        table, _, leaf = key.rpartition(".")
        (tree.setdefault(table, {}) if table else tree)[leaf] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise _to_config_error(error.errors(include_url=False)[0], origins) from error


def _to_config_error(fault: ErrorDetails, origins: Mapping[str, str]) -> ConfigError:
    place = [str(part) for part in fault["loc"]]
    key = ".".join(place[:2]) if place[0] == "hyperparameters" else place[0]
    origin = origins.get(key, "the configuration")
    shown = f"{origin}: {key}" if not origin.startswith("--") and not origin.isupper() else origin
    text = repr(fault["input"])
    reason = _VALUE_RANGES.get(key) or fault["msg"].removeprefix("Input ")
    return ConfigError(
        f"{shown}: {text[:80]} will not do: {reason}", "`ftpipe config show` lists every setting and its value"
    )


_VALUE_RANGES = {
    "hyperparameters.n_epochs": "epochs are a whole number from 1 to 50, or auto",
    "hyperparameters.batch_size": "the batch size is a whole number from 1 to 256, or auto",
    "hyperparameters.learning_rate_multiplier": "the multiplier is a number above 0, or auto",
    "hyperparameters.beta": "beta is a number above 0 and at most 2, or auto",
    "method": "methods are supervised, dpo and reinforcement",
    "seed": "the seed is a whole number from 0 to 2147483647",
    "suffix": "the suffix has 1 to 64 characters",
    "max_cost": "the highest cost is a number of USD, 0 or more",
}


def secrets(env: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """The environment, with the secrets of ``.env`` under it; variables that are set win.

    Only names that can hold a secret are taken from the file (``*_API_KEY``, ``*_TOKEN``, the OpenAI organization and
    project, ``FTPIPE_REGISTRY`` with its password); nothing is expanded, run or written.

    Raises:
        ConfigError: ``.env`` is there but cannot be read.
    """
    path = (folder or Path.cwd()) / ".env"
    if not path.is_file():
        return dict(env)
    from dotenv import dotenv_values

    try:
        read = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", "save it as UTF-8 text, readable by you") from error
    kept = {name: text for name, text in read.items() if text and _SECRET_VARIABLES.match(name)}
    return kept | dict(env)
