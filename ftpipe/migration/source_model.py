"""Find the model that is replaced, and the data on which it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import LocalStateError, NotFoundError, UsageError
from ftpipe.file_hash import sha256_of_file
from ftpipe.migration.backup_folder import BackupFolder
from ftpipe.migration.distill import DistillOptions, distill
from ftpipe.pipeline.adopt import adopt
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.provider import Provider
from ftpipe.records import Dataset, Model
from ftpipe.records.migration import TrainingSource
from ftpipe.registry import Registry

OpenProvider = Callable[[], Provider]
"""Opens the host of the old model; it is called only if something has to be read there."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The files that a new model is trained on."""

    path: Path
    validation: Path | None
    source: TrainingSource


def find_model(name: str, *, registry: Registry, open_provider: OpenProvider) -> Model:
    """The model of that name, alias or job; one that the registry does not know is adopted from its host.

    Raises:
        UsageError: Neither the registry nor the host knows it.
    """
    try:
        return registry.models.get(name)
    except UsageError as unknown:
        if not name.startswith(("ft:", "ftjob-")):
            raise
        provider = open_provider()
        for job in provider.jobs.recent():
            if name in (job.id, job.fine_tuned_model):
                run = adopt(job.id, provider=provider, registry=registry)
                run = Pipeline(provider=provider, registry=registry).refresh(run)
                if run.model is not None:
                    return run.model
        title = provider.profile.title or provider.profile.name
        raise UsageError(
            f"neither the registry nor {title} knows a model {name!r}",
            "`ftpipe models inventory` lists the models that your key can see; --from names another provider",
        ) from unknown


def find_training_data(
    model: Model,
    *,
    registry: Registry,
    open_provider: OpenProvider,
    folder: Path,
    data: Path | None = None,
    validation: Path | None = None,
) -> TrainingData:
    """The data of a model: as named, else where it was trained from on this machine, else downloaded from its host.

    Args:
        model: The model.
        registry: Knows the run that trained it, or the backup that it was restored from.
        open_provider: Opens the model's host.
        folder: Where downloads are written.
        data: The training file, if the user names it.
        validation: The validation file, if the user names it.

    Raises:
        UsageError: The data is nowhere; the hint says how to name it.
        LocalStateError: A download cannot be written.
    """
    if data is not None:
        return TrainingData(data.absolute(), validation.absolute() if validation else None, TrainingSource.FILE)
    run = registry.runs.find(model.id)
    if run is not None and (path := _unchanged_file(run.dataset, model.dataset_sha256)):
        found = validation or _unchanged_file(run.validation, model.validation_sha256)
        return TrainingData(path, found, TrainingSource.REGISTRY)
    provider = open_provider()
    path = _download(provider, model.file_id, folder / "training.jsonl", model)
    if validation is None:
        job = registry.jobs.get(model.job_id)
        if job is not None and job.validation_file:
            try:
                validation = _download(provider, job.validation_file, folder / "validation.jsonl", model)
            except UsageError:
                validation = None  # a deleted validation file does not stop the training
    return TrainingData(path, validation, TrainingSource.PROVIDER)


def read_backup(model: Model, path: Path, *, validation_file: str | None) -> TrainingData:
    """The data of a model in a backup that ``ftpipe models backup`` wrote; each file is compared with its digest.

    Args:
        model: The model.
        path: The folder of the backup.
        validation_file: Id of the validation file, if the job had one.

    Raises:
        UsageError: The folder is no backup, or has no training file of this model.
        LocalStateError: The backup was changed.
    """
    folder = BackupFolder.open(path)
    training = _in_backup(folder, model.file_id)
    if training is None:
        raise UsageError(
            f"the backup in {path} has no training file of {model.id}",
            "`ftpipe models backup` completes it while the file is at its host; or name the file with --data",
        )
    validation = _in_backup(folder, validation_file) if validation_file else None
    return TrainingData(training, validation, TrainingSource.BACKUP)


def _in_backup(folder: BackupFolder, file_id: str) -> Path | None:
    entry = folder.content(file_id)
    if entry is None:
        return None
    if problem := folder.problem_of(entry):
        raise LocalStateError(f"{entry.path} in {folder.path} {problem}", "use another copy of the backup")
    return (folder.path / entry.path).absolute()


def distill_training_data(recording: Path, *, folder: Path, target: str, held_out: Path | None) -> TrainingData:
    """Training data made of recorded answers, without the prompts that the models are compared on.

    Args:
        recording: From ``ftpipe models record``.
        folder: Where the file and the origin of each row are written; the same recording gives the same bytes.
        target: Whose dataset rules the rows must pass.
        held_out: Further prompts that must not become training rows.

    Raises:
        DatasetError: The recording is damaged, or no row is left.
    """
    options = DistillOptions(target=target, holdouts=(held_out,) if held_out else ())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    result = distill([recording], folder / "distilled.jsonl", options, force=True)
    return TrainingData(result.output, None, TrainingSource.DISTILLED)


def _unchanged_file(dataset: Dataset | None, sha256: str | None) -> Path | None:
    """The file of a dataset, if it still has these bytes."""
    if dataset is None or not sha256 or not dataset.path.is_file():
        return None
    try:
        return dataset.path if sha256_of_file(dataset.path) == sha256 else None
    except OSError:
        return None


def _download(provider: Provider, file_id: str, path: Path, model: Model) -> Path:
    """Download a file once: a download that ended is not repeated."""
    if path.is_file():
        return path
    try:
        content = provider.files.content(file_id)
    except NotFoundError as exc:
        raise UsageError(
            f"{file_id}, the data of {model.id}, was deleted at {provider.profile.title or provider.profile.name}",
            "name the file with --data, or train on recorded answers with --distill",
        ) from exc
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, content, mode=0o600)
    except OSError as exc:
        raise LocalStateError(
            f"{path} cannot be written: {exc.strerror}", "free space on the disk, then run the same command again"
        ) from exc
    return path
