"""The configuration: order of its sources, origins, errors with the nearest valid name, and secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftpipe.config import FLAGS, PROCESS_VARIABLES, RunConfig, load, secrets, setting_keys
from ftpipe.errors import ConfigError

ROOT = Path(__file__).parent.parent


def write_config(text: str, name: str = "ftpipe.toml") -> Path:
    """Write a configuration file into the working folder."""
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(text: str) -> ConfigError:
    """The error of loading a configuration file."""
    with pytest.raises(ConfigError) as caught:
        load(write_config(text), env={})
    return caught.value


def test_config_without_a_file_has_defaults() -> None:
    settings = load(env={})
    assert settings.config == RunConfig()
    assert settings.origins == {}
    assert settings.path is None


def test_config_flags_override_variables_and_file() -> None:
    """Each source is named as the origin of its values."""
    write_config('provider = "openai"\nmodel = "a"\nseed = 1\n[hyperparameters]\nn_epochs = 2\n')
    settings = load(
        env={"FTPIPE_MODEL": "b", "FTPIPE_EPOCHS": "4", "PATH": "x"},
        flags={"hyperparameters.n_epochs": "5", "seed": None},
    )
    config = settings.config
    assert (config.provider, config.model, config.seed, config.hyperparameters.n_epochs) == ("openai", "b", 1, 5)
    assert settings.origins["model"] == "FTPIPE_MODEL"
    assert settings.origins["hyperparameters.n_epochs"] == "--epochs"
    assert settings.origins["provider"].endswith("ftpipe.toml")


def test_config_reads_a_named_file() -> None:
    """``--config`` and FTPIPE_CONFIG name another file; a missing one is an error."""
    write_config('provider = "openai"\n')
    other = write_config('provider = "azure"\n', "other.toml")
    assert load(other, env={}).config.provider == "azure"
    assert load(env={"FTPIPE_CONFIG": str(other)}).config.provider == "azure"
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(Path("gone.toml"), env={})


def test_config_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A configuration works from any folder."""
    path = tmp_path / "configs" / "local.toml"
    path.parent.mkdir()
    path.write_text('data = "../data/train.jsonl"\nregistry = "here.db"\n', encoding="utf-8")
    config = load(path, env={}).config
    assert config.data == tmp_path / "data" / "train.jsonl"
    assert config.registry == str(tmp_path / "configs" / "here.db")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('provder = "openai"', "provider"),
        ("epochs = 3", "hyperparameters.n_epochs"),
        ("[hyperparameters]\nn_epoch = 3", "hyperparameters.n_epochs"),
        ("[hyperparameters]\nlora_rank = 3", "hyperparameters.lora_r"),
        ("[hyperparameters]\npacking = true", "hyperparameters.extra"),
    ],
)
def test_config_rejects_an_unknown_key_with_the_nearest(text: str, hint: str) -> None:
    """A typo never trains with a default unnoticed."""
    error = error_of(text)
    assert "there is no setting" in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "text",
    [
        "[hyperparameters]\nn_epochs = 0",
        "[hyperparameters]\nn_epochs = 51",
        "[hyperparameters]\nbatch_size = 1000",
        "[hyperparameters]\nlearning_rate_multiplier = -1",
        'method = "sft"',
        'recipe = "short"',
        "recipe = []",
        "seed = -1",
        "[hyperparameters]\nlearning_rate = 2",
        "[hyperparameters]\nlora_r = 0",
        "[hyperparameters]\nlora_alpha = 0.5",
        "[hyperparameters]\nlora_dropout = 1",
        "[hyperparameters]\ntarget_modules = []",
        "max_cost = nan",
        'max_cost = "much"',
        'suffix = ""',
    ],
)
def test_config_rejects_a_value_with_its_range(text: str) -> None:
    """The message names the file, the key, the value and what is valid."""
    error = error_of(text)
    assert error.message.startswith("ftpipe.toml: ")
    assert "is not valid" in error.message


@pytest.mark.parametrize("text", ["a = [[", "a = " + "[" * 100_000, "\x00\x01\x02"])
def test_config_rejects_invalid_toml(text: str) -> None:
    """Broken, deeply nested and binary files."""
    assert "is not TOML" in error_of(text).message


def test_config_rejects_a_huge_file() -> None:
    """Before it is parsed."""
    assert "larger than 1 MB" in error_of("# " + "x" * 1_100_000).message


def test_config_expands_nothing() -> None:
    """``$HOME`` stays text."""
    assert load(write_config('suffix = "$HOME"'), env={"HOME": "/x"}).config.suffix == "$HOME"


def test_config_warns_of_an_unknown_variable() -> None:
    """FTPIPE_PROVDER would otherwise train with another provider unnoticed. Other programs may have such variables."""
    settings = load(
        env={"FTPIPE_PROVDER": "openai", "FTPIPE_BUILD_NUMBER": "1", "FTPIPE_EMPTY": "", "FTPIPE_MODEL": "b"}
    )
    assert settings.config.model == "b"
    assert settings.config.provider is None
    misspelt, foreign = settings.warnings
    assert "FTPIPE_PROVDER" in misspelt
    assert "did you mean FTPIPE_PROVIDER?" in misspelt
    assert "FTPIPE_BUILD_NUMBER" in foreign
    assert "did you mean" not in foreign


def test_config_names_the_origin_of_an_invalid_value() -> None:
    with pytest.raises(ConfigError, match=r"^FTPIPE_EPOCHS: '99' is not valid"):
        load(env={"FTPIPE_EPOCHS": "99"})
    with pytest.raises(ConfigError, match=r"^--epochs: 'many' is not valid"):
        load(env={}, flags={"hyperparameters.n_epochs": "many"})


def test_a_key_in_a_file_is_error_of() -> None:
    error = error_of('[providers.openai]\napi_key = "canary-key-123"')
    assert "looks like a secret" in error.message
    assert "canary" not in error.message + error.hint


def test_secrets_reads_only_secrets_from_env_file() -> None:
    """Other names in ``.env`` are ignored, and the environment overrides it."""
    Path(".env").write_text("OPENAI_API_KEY='from file'\nexport NEBIUS_API_KEY=n\nPATH=/evil\nFTPIPE_MODEL=x\n")
    env = secrets({"PATH": "/bin", "NEBIUS_API_KEY": "set"})
    assert env == {"PATH": "/bin", "NEBIUS_API_KEY": "set", "OPENAI_API_KEY": "from file"}


def test_secrets_expands_nothing() -> None:
    """No environment variable leaks into a secret."""
    Path(".env").write_text("OPENAI_API_KEY=${HOME}x\n")
    assert secrets({"HOME": "/root"})["OPENAI_API_KEY"] == "${HOME}x"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_config_examples_are_valid(path: Path) -> None:
    config = load(path, env={}).config
    assert config.provider == path.stem
    assert config.data is not None
    assert config.model


def test_config_knows_every_variable_in_the_code() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ftpipe").rglob("*.py"))
    named = set(re.findall(r"\bFTPIPE_[A-Z][A-Z_]*[A-Z]\b", text))
    values = {"FTPIPE_METHOD": "dpo", "FTPIPE_LORA_DROPOUT": "0.5", "FTPIPE_MAX_LENGTH": "64"}
    values |= {"FTPIPE_RECIPE": "brief", "FTPIPE_PRECISION": "float32", "FTPIPE_QUANTIZATION": "4bit"}
    for name in named - PROCESS_VARIABLES:
        assert load(env={name: values.get(name, "1")}).warnings == ()


@pytest.mark.parametrize("value", ['"v_proj, q_proj"', '["q_proj", "v_proj"]'])
def test_config_target_modules_are_names_in_one_order(value: str) -> None:
    """The order says nothing, so it must not make another job."""
    config = load(write_config(f"[hyperparameters]\ntarget_modules = {value}"), env={}).config
    assert config.hyperparameters.target_modules == ("q_proj", "v_proj")


def test_config_recipe_sets_the_adapter() -> None:
    """Values of the same source win; the recipe is the origin of the others."""
    settings = load(env={}, flags={"recipe": "brief", "hyperparameters.lora_r": "8"})
    chosen = settings.config.hyperparameters
    assert (chosen.lora_r, chosen.lora_alpha, chosen.lora_dropout) == (8, 32, 0.05)
    assert chosen.target_modules == ("q_proj", "v_proj")
    assert settings.origins["hyperparameters.lora_r"] == "--lora-rank"
    assert settings.origins["hyperparameters.lora_alpha"] == "--recipe"


def test_config_recipe_overrides_earlier_sources() -> None:
    """Also the default one: it takes back what the file sets."""
    write_config('recipe = "brief"\n[hyperparameters]\nlora_r = 4\nlearning_rate = 0.5\n')
    assert load(env={}).config.hyperparameters.lora_r == 4
    assert load(env={"FTPIPE_RECIPE": "brief"}).config.hyperparameters.lora_r == 16
    chosen = load(env={"FTPIPE_RECIPE": "brief"}, flags={"recipe": "default"}).config.hyperparameters
    assert (chosen.lora_r, chosen.target_modules, chosen.learning_rate) == (None, None, 0.5)


def test_config_flags_are_settings() -> None:
    assert set(FLAGS) <= set(setting_keys())
