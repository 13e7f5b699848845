"""``ftpipe models export``: what a user sees of an export and of its check."""

from __future__ import annotations

import json
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
from tests.inference.test_engine import make_adapter
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
