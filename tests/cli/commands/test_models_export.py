"""``ftpipe models export``: what a user sees of an export and of its check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.modeling.export import check, weights
from ftpipe.modeling.export import export_model as module
from ftpipe.paths import server_dir
from ftpipe.records import RunState
from ftpipe.registry import open_registry
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.training.job_directory import JobDirectory, JobSpec
from tests.cli.cli_runner import CliEnvironment
from tests.inference.batch_models import make_adapter
from tests.modeling.export.fake_hub import TOKEN, FakeHub, running_hub
from tests.modeling.export.test_check import change_json
from tests.registry.test_registry import model_of, run_of
from tests.training.tiny_model import rows, save_base, write_rows

MODEL = "ft:tiny:local:bot:abcdefgh"


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_PROMPTS", 3)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export-command")
    make_adapter(save_base(folder / "tiny"), folder / "adapter", 0.03)
    return folder / "tiny"


def register_local_model(data: Path) -> JobDirectory:
    """A model in the registry, and the directory of its job, still without a job."""
    registry = open_registry()
    run = run_of(data.parent)
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"data": data})})
    run = registry.runs.start(run, key="k", ordinal=0)
    local = model_of(MODEL).model_copy(update={"provider": "local", "job_id": "ftjob-local"})
    assert registry.runs.register(local, run, price_row="").state == RunState.REGISTERED
    registry.close()
    return DataDirectory(server_dir()).job("ftjob-local")


def add_weights(directory: JobDirectory, base_dir: Path) -> None:
    directory.checkpoints_dir.mkdir(parents=True)
    directory.checkpoint_dir(5).symlink_to(base_dir.parent / "adapter")
    spec = JobSpec("ftjob-local", "supervised", str(base_dir), Path("t"), None, {}, 1, MODEL, Path("m"), 3)
    directory.write_spec(spec)
    directory.write_result("succeeded", trained_tokens=1, step=5)


def test_models_export_finds_the_weights_of_a_local_model(cli: CliEnvironment, own_home: Path) -> None:
    """By the spec and the result of its job; the error names the directory if they are missing."""
    directory = register_local_model(own_home / "train.jsonl")
    ran = cli.run("models", "export", MODEL)
    assert ran.code == 5
    assert str(directory.path) in ran.err.replace("\n", "")
    directory.checkpoint_dir(5).mkdir(parents=True)
    directory.write_spec(JobSpec("ftjob-local", "supervised", "org/base", Path("t"), None, {}, 1, MODEL, Path("m"), 3))
    directory.write_result("succeeded", trained_tokens=1, step=5)
    ran = cli.run("models", "export", MODEL)
    assert (ran.code, "step-5" in ran.err) == (5, True)


def test_models_export_checks_answers_to_training_prompts(cli: CliEnvironment, own_home: Path, base_dir: Path) -> None:
    """Figures of the check on stderr, the folder alone on stdout; it is named after the model."""
    data = write_rows(own_home / "train.jsonl", rows(12))
    add_weights(register_local_model(data), base_dir)
    ran = cli.run("models", "export", MODEL)
    assert (ran.code, ran.out) == (0, "ft-tiny-local-bot-abcdefgh\n")
    assert "3 of 3 greedy answers agree with the trainer's model token for token" in ran.err
    assert "Note:" in ran.err
    assert (Path("ft-tiny-local-bot-abcdefgh") / "adapter_model.safetensors").is_file()
    again = cli.run("models", "export", MODEL)
    assert (again.code, "exists already" in again.err) == (2, True)


def test_models_export_json_has_the_figures_of_the_check(
    cli: CliEnvironment, own_home: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a good export and of one that fails, whose exit code is 1."""
    add_weights(register_local_model(own_home / "gone.jsonl"), base_dir)
    document = cli.run("models", "export", MODEL, "-o", "good", "--merged", "--json").document
    assert (document["ok"], document["check"]["passed"], document["check"]["prompts"]) == (True, True, 3)
    assert document["check"]["max_logprob_difference"] <= document["check"]["limit"]
    assert "model.safetensors" in document["files"]

    def write_untuned(base: Path, _adapter: Path, folder: Path) -> None:
        weights.write_merged(base, base.parent / "adapter", folder)
        (folder / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())

    monkeypatch.setattr(module, "write_merged", write_untuned)
    ran = cli.run("models", "export", MODEL, "-o", "bad", "--merged", "--json")
    assert ran.code == 1
    document = json.loads(ran.out)
    assert (document["ok"], document["error"]["code"]) == (False, "export_check")
    assert document["folder"].endswith("bad-failed-check")
    assert document["check"]["problems"]
    assert not Path("bad").exists()


def test_models_export_writes_one_format(cli: CliEnvironment, own_home: Path) -> None:
    register_local_model(own_home / "train.jsonl")
    ran = cli.run("models", "export", MODEL, "--merged", "--gguf")
    assert (ran.code, "--merged and --gguf" in ran.err) == (2, True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with a token in the environment, and none on the disk."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield hub


def test_models_export_sends_a_checked_export_to_a_private_repository(
    cli: CliEnvironment, own_home: Path, base_dir: Path, hub: FakeHub
) -> None:
    """The plan is said before anything is computed; the token is in no output and no file."""
    add_weights(register_local_model(own_home / "gone.jsonl"), base_dir)
    ran = cli.run("models", "export", MODEL, "-o", "out", "--push-to-hub", "alice/bot", "--yes", "--json")
    assert ran.code == 0
    assert ran.err.index(f"private repository {hub.endpoint}/alice/bot (new), as alice") < ran.err.index("exporting")
    assert ran.document["hub"]["url"] == f"{hub.endpoint}/alice/bot"
    assert hub.repositories == {"alice/bot": True}
    assert {name.removeprefix("alice/bot/") for name in hub.files} == set(ran.document["files"])
    assert hub.files["alice/bot/README.md"] == (Path("out") / "README.md").read_bytes()
    assert TOKEN not in ran.out + ran.err
    assert not [content for content in hub.files.values() if str(own_home.parent).encode() in content]


def test_models_export_asks_before_it_sends(cli: CliEnvironment, own_home: Path, base_dir: Path, hub: FakeHub) -> None:
    """Without a terminal and without --yes nothing is computed, and the hub is not asked."""
    add_weights(register_local_model(own_home / "gone.jsonl"), base_dir)
    ran = cli.run("models", "export", MODEL, "-o", "out", "--push-to-hub", "alice/bot")
    assert (ran.code, "add --yes" in ran.err) == (2, True)
    assert (hub.requests, Path("out").exists()) == ([], False)


def test_models_export_sends_nothing_that_fails_its_check(
    cli: CliEnvironment, own_home: Path, base_dir: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_weights(register_local_model(own_home / "gone.jsonl"), base_dir)

    def write_without_stop(_base: Path, folder: Path, _stop_ids: object) -> None:
        change_json(folder / "tokenizer_config.json", eos_token="<|im_start|>")

    monkeypatch.setattr(module, "write_generation_config", write_without_stop)
    ran = cli.run("models", "export", MODEL, "-o", "out", "--push-to-hub", "alice/bot", "--yes")
    assert (ran.code, "ends an answer in training" in ran.err.replace("\n", " ")) == (1, True)
    assert (hub.files, hub.repositories) == ({}, {})


def test_models_export_refuses_repositories_and_tokens_first(
    cli: CliEnvironment, own_home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public repository without --public, a name that is none, a bad token, and no token."""
    register_local_model(own_home / "train.jsonl")
    hub.repositories["alice/open"] = False
    command = ["models", "export", MODEL, "--yes", "--push-to-hub"]
    ran = cli.run(*command, "alice/open")
    assert (ran.code, "exists and is public" in ran.err, "--public" in ran.err) == (2, True, True)
    assert cli.run(*command, "no-owner").code == 2
    assert cli.run("models", "export", MODEL, "--public").code == 2
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert cli.run(*command, "alice/bot").code == 4
    monkeypatch.delenv("HF_TOKEN")
    ran = cli.run(*command, "alice/bot")
    assert (ran.code, "hf auth login" in ran.err) == (4, True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert cli.run(*command, "alice/bot").code == 5


def test_models_export_keeps_an_export_that_the_hub_refuses(
    cli: CliEnvironment, own_home: Path, base_dir: Path, hub: FakeHub
) -> None:
    """A token that can only read: exit 4, and the checked folder is there."""
    add_weights(register_local_model(own_home / "gone.jsonl"), base_dir)
    hub.commits_refused = True
    ran = cli.run("models", "export", MODEL, "-o", "out", "--push-to-hub", "alice/bot", "--yes")
    assert (ran.code, "the export is still in out" in ran.err.replace("\n", " ")) == (4, True)
    assert (Path("out") / "README.md").is_file()
