"""The configuration: order of its sources, origins, refusals with the nearest right word, and secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftpipe.config import FLAGS, PROCESS_VARIABLES, RunConfig, load, secrets, setting_keys
from ftpipe.errors import ConfigError

ROOT = Path(__file__).parent.parent


def written(text: str, name: str = "ftpipe.toml") -> Path:
    """A configuration file in the working folder."""
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def refused(text: str) -> ConfigError:
    """The error that a configuration file earns."""
    with pytest.raises(ConfigError) as caught:
        load(written(text), env={})
    return caught.value


def test_without_a_file_every_setting_has_its_default() -> None:
    """Nothing has to be written to begin."""
    settings = load(env={})
    assert settings.config == RunConfig()
    assert settings.origins == {}
    assert settings.path is None


def test_a_file_gives_way_to_the_environment_and_that_to_flags() -> None:
    """The three sources, each over the one before, and each named as the origin."""
    written('provider = "openai"\nmodel = "a"\nseed = 1\n[hyperparameters]\nn_epochs = 2\n')
    settings = load(
        env={"FTPIPE_MODEL": "b", "FTPIPE_EPOCHS": "4", "PATH": "x"},
        flags={"hyperparameters.n_epochs": "5", "seed": None},
    )
    config = settings.config
    assert (config.provider, config.model, config.seed, config.hyperparameters.n_epochs) == ("openai", "b", 1, 5)
    assert settings.origins["model"] == "FTPIPE_MODEL"
    assert settings.origins["hyperparameters.n_epochs"] == "--epochs"
    assert settings.origins["provider"].endswith("ftpipe.toml")


def test_a_named_file_is_read_instead_of_the_usual_one() -> None:
    """``--config`` and FTPIPE_CONFIG name another file; a missing one is an error."""
    written('provider = "openai"\n')
    other = written('provider = "azure"\n', "other.toml")
    assert load(other, env={}).config.provider == "azure"
    assert load(env={"FTPIPE_CONFIG": str(other)}).config.provider == "azure"
    with pytest.raises(ConfigError, match="no configuration file"):
        load(Path("gone.toml"), env={})


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    """A configuration works from whatever folder it is used."""
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
        ("[hyperparameters]\nlora_rank = 3", "hyperparameters.extra"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(text: str, hint: str) -> None:
    """A slip of the pen never trains with a default unnoticed."""
    error = refused(text)
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
        "seed = -1",
        "max_cost = nan",
        'max_cost = "much"',
        'suffix = ""',
    ],
)
def test_a_value_out_of_range_is_named_with_its_place_and_range(text: str) -> None:
    """File, key, value and what would do are all in the message."""
    error = refused(text)
    assert error.message.startswith("ftpipe.toml: ")
    assert "will not do" in error.message


@pytest.mark.parametrize("text", ["a = [[", "a = " + "[" * 100_000, "\x00\x01\x02"])
def test_a_file_that_is_no_toml_is_refused_without_a_traceback(text: str) -> None:
    """Broken, deeply nested and binary files are one kind of error."""
    assert "is not TOML" in refused(text).message


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    """A configuration is a few lines."""
    assert "larger than 1 MB" in refused("# " + "x" * 1_100_000).message


def test_nothing_in_a_file_is_expanded_or_run() -> None:
    """``$HOME`` stays text."""
    assert load(written('suffix = "$HOME"'), env={"HOME": "/x"}).config.suffix == "$HOME"


def test_an_unknown_variable_is_refused_with_the_nearest_right_one() -> None:
    """FTPIPE_PROVDER would otherwise train somewhere else without a word."""
    with pytest.raises(ConfigError) as caught:
        load(env={"FTPIPE_PROVDER": "openai"})
    assert "FTPIPE_PROVIDER" in caught.value.hint


def test_a_wrong_variable_and_a_wrong_flag_are_named_themselves() -> None:
    """The origin of a bad value is where the user typed it."""
    with pytest.raises(ConfigError, match=r"^FTPIPE_EPOCHS: '99' will not do"):
        load(env={"FTPIPE_EPOCHS": "99"})
    with pytest.raises(ConfigError, match=r"^--epochs: 'many' will not do"):
        load(env={}, flags={"hyperparameters.n_epochs": "many"})


def test_a_key_in_a_file_is_refused() -> None:
    """Secrets come from the environment alone."""
    error = refused('[providers.openai]\napi_key = "canary-key-123"')
    assert "looks like a secret" in error.message
    assert "canary" not in error.message + error.hint


def test_an_env_file_gives_secrets_and_nothing_else() -> None:
    """Other names in ``.env`` change nothing, and the environment wins."""
    Path(".env").write_text("OPENAI_API_KEY='from file'\nexport NEBIUS_API_KEY=n\nPATH=/evil\nFTPIPE_MODEL=x\n")
    found = secrets({"PATH": "/bin", "NEBIUS_API_KEY": "set"})
    assert found == {"PATH": "/bin", "NEBIUS_API_KEY": "set", "OPENAI_API_KEY": "from file"}


def test_an_env_file_is_not_expanded() -> None:
    """No variable of the environment leaks into a secret."""
    Path(".env").write_text("OPENAI_API_KEY=${HOME}x\n")
    assert secrets({"HOME": "/root"})["OPENAI_API_KEY"] == "${HOME}x"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_comes_along_is_valid(path: Path) -> None:
    """The examples are runnable as they are."""
    config = load(path, env={}).config
    assert config.provider == path.stem
    assert config.data is not None
    assert config.model


def test_every_variable_in_the_code_is_a_setting_or_known() -> None:
    """A variable that a room reads is never refused as a slip."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ftpipe").rglob("*.py"))
    named = set(re.findall(r"\bFTPIPE_[A-Z][A-Z_]*[A-Z]\b", text))
    for name in named - PROCESS_VARIABLES:
        load(env={name: "1"}) if name not in {"FTPIPE_METHOD"} else load(env={name: "dpo"})


def test_config_flags_are_settings() -> None:
    assert set(FLAGS) <= set(setting_keys())
