"""``ftpipe plan`` and the plan of ``train``: what a job needs, and a refusal that names what makes it fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.modeling.machine import Machine
from tests.cli.cli_runner import CliEnvironment, chat_file

LARGE = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with 16 GB, without GPU and without hub cache."""
    monkeypatch.setattr("ftpipe.modeling.machine.this_machine", lambda: Machine("cpu", 16 * 10**9))
    monkeypatch.setattr("ftpipe.modeling.machine.can_quantize", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_plan_shows_memory_time_and_cost(cli: CliEnvironment) -> None:
    """Nothing is sent."""
    ran = cli.run("plan", "smollm2-135m-instruct", str(chat_file()))
    assert ran.code == 0
    assert "14.4 GB can be used: fits" in ran.out
    assert "a rough guess" in ran.out
    assert "free" in ran.out
    assert not cli.server.calls


def test_plan_as_json_has_the_parts_of_memory(cli: CliEnvironment) -> None:
    estimate = cli.run("plan", "smollm2-135m-instruct", str(chat_file()), "--epochs", "2", "--json").document[
        "estimate"
    ]
    assert estimate["memory_bytes"] == sum(estimate["memory_parts"].values())
    assert (estimate["fits"], estimate["n_epochs"], estimate["device"], estimate["price"]) == (True, 2, "cpu", 0)
    assert estimate["seconds"] == pytest.approx(
        2 * estimate["tokens_per_epoch"] / estimate["tokens_per_second"], rel=0.05
    )


def test_plan_of_a_recipe_has_its_adapter(cli: CliEnvironment) -> None:
    """It needs less memory than adapters on all layers."""
    needed = [
        cli.run("plan", "smollm2-135m-instruct", "--json", *options).document["estimate"]["memory_parts"]["adapter"]
        for options in (
            ("--recipe", "brief"),
            ("--target-modules", "all-linear"),
            ("--target-modules", "q_proj,v_proj"),
        )
    ]
    assert needed[0] == needed[2] < needed[1]


def test_plan_for_a_gpu_that_is_too_small_names_what_makes_it_fit(cli: CliEnvironment) -> None:
    """4 bits are chosen by themselves; what the user forbids is the remedy."""
    assert "the base model is loaded with 4bit weights" in cli.run("plan", LARGE, "--gpu", "16GB").out
    ran = cli.run("plan", LARGE, "--gpu", "16GB", "--quantization", "none")
    assert ran.code == 1
    assert "does not fit" in ran.out
    assert "add --quantization 4bit" in " ".join(ran.err.split())


def test_plan_of_several_gpus_shares_the_weights(cli: CliEnvironment) -> None:
    ran = cli.run("plan", LARGE, "--gpu", "12GB", "--gpus", "8", "--quantization", "none")
    assert ran.code == 0
    assert "on each of 8 GPUs, which share the base model's weights" in ran.out


def test_plan_prices_the_time_of_the_machine(cli: CliEnvironment) -> None:
    arguments = ("plan", "smollm2-135m-instruct", str(chat_file()), "--price-per-hour", "36", "--json")
    estimate = cli.run(*arguments).document["estimate"]
    assert estimate["price"] == pytest.approx(estimate["seconds"] / 100)


def test_plan_reads_a_configuration(cli: CliEnvironment, tmp_path: Path) -> None:
    """Of a model that is not here."""
    config = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "vocab_size": 32, "max_position_embeddings": 64}), encoding="utf-8")
    estimate = cli.run("plan", str(path), "--json").document["estimate"]
    assert (estimate["fits"], estimate["max_length"]) == (True, 64)
    path.write_text(json.dumps({**config, "vocab_size": 32, "text_config": "x"}), encoding="utf-8")
    assert cli.run("plan", str(path), "--json").document["estimate"]["fits"]
    broken = {**config, "vocab_size": 32, "num_key_value_heads": "2", "head_dim": [4]}
    path.write_text(json.dumps(broken), encoding="utf-8")
    message = cli.run("plan", str(path), "--json").document["error"]["message"]
    assert "num_key_value_heads, head_dim must be given" in message
    path.write_text("[]", encoding="utf-8")
    assert "is not a JSON object" in cli.run("plan", str(path)).err


def test_plan_refuses_a_base_with_code_of_its_own(
    cli: CliEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job would; the code is not run."""
    folder = tmp_path / "models" / "coded"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "coded.Model"}}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "coded.py").write_text("raise SystemExit(99)", encoding="utf-8")
    monkeypatch.setattr("ftpipe.pipeline.training_estimates.models_dir", lambda: tmp_path / "models")
    assert "needs its own code, which ftpipe does not run" in " ".join(cli.run("plan", "coded").err.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "config.json cannot be read: it is nested too deeply"),
        ("{}", "num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, vocab_size must be given"),
        (None, "there is no file"),
    ],
)
def test_plan_names_what_is_wrong_with_a_configuration(
    cli: CliEnvironment, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    ran = cli.run("plan", str(path), "--gpu", "24GB")
    assert ran.code == 2
    assert message in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("org/unknown",), "are not known here"),
        ((LARGE, "--gpu", "big"), "is not an amount of memory"),
        ((LARGE, "--gpus", "2"), "this machine has no GPU"),
        ((LARGE, "missing.jsonl"), "there is no file missing.jsonl"),
        ((LARGE, "--max-length", "1"), "--max-length"),
    ],
)
def test_plan_refuses_what_it_cannot_plan(cli: CliEnvironment, arguments: tuple[str, ...], message: str) -> None:
    ran = cli.run("plan", *arguments)
    assert ran.code != 0
    assert message in " ".join(ran.err.split())


def test_train_shows_memory_and_time_and_refuses_what_does_not_fit(cli: CliEnvironment) -> None:
    """Before anything is sent."""
    shown = cli.run("train", str(chat_file()), "--dry-run")
    assert shown.code == 0
    assert "can be used: fits" in shown.err
    refused = cli.run("train", str(chat_file()), "--provider", "local", "--model", LARGE, "--quantization", "none")
    assert refused.code == 1
    assert "add --quantization 4bit" in " ".join(refused.err.split())
    assert not cli.server.calls


def test_train_says_nothing_about_memory_of_other_machines(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of hosts, nor of a server at an address of its own."""
    assert "memory" not in cli.run("train", str(chat_file()), "--provider", "openai", "--dry-run").err
    monkeypatch.setenv("FTPIPE_LOCAL_BASE_URL", "http://127.0.0.1:1/v1")
    assert "memory" not in cli.run("train", str(chat_file()), "--dry-run").err


@pytest.mark.parametrize(
    "option",
    [
        ("--quantization", "4bit"),
        ("--precision", "bfloat16"),
        ("--max-length", "512"),
        ("--gradient-checkpointing",),
    ],
)
def test_train_memory_settings_are_refused_at_hosted_provider(cli: CliEnvironment, option: tuple[str, ...]) -> None:
    ran = cli.run("train", str(chat_file()), "--provider", "openai", "--dry-run", *option)
    assert ran.code == 2
    assert f"({option[0]})" in ran.err
    assert "--provider local" in ran.err
