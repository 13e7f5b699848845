"""One job from its spec to its result: read, resolve, train, and say how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ftpipe.atomic_files import write_json
from ftpipe.errors import DatasetError, FtpipeError, UsageError
from ftpipe.modeling.base_models import resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer, Example
from ftpipe.modeling.device import DeviceConfig, select_device
from ftpipe.modeling.loading import load_adapter, load_base, load_tokenizer
from ftpipe.modeling.types import CausalModel, Tokenizer
from ftpipe.training.batching import TokenizedDataset, read_rows
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.dpo import DPOObjective, Pair, read_pairs, with_reference_logprobs
from ftpipe.training.hyperparameters import ResolvedHyperparameters, resolve_hyperparameters
from ftpipe.training.job_directory import JobDirectory, JobSpec
from ftpipe.training.launcher import distributed
from ftpipe.training.lora import add_adapter
from ftpipe.training.trainer import Objective, SupervisedObjective, Trainer

METHODS = ("supervised", "dpo")


def run_job(directory: JobDirectory, should_pause: Callable[[], bool] = lambda: False) -> str:
    """Run or go on with the job in ``directory``.

    Args:
        directory: A folder with ``spec.json``.
        should_pause: Asked after every step; true makes the run save its state and end.

    Returns:
        ``succeeded``, ``failed`` or ``paused``.
    """
    directory.clean()
    try:
        spec = directory.spec()
        trainer, device_config = _build_trainer(directory, spec, should_pause)
        on_status = partial(_append_event_once, directory, set(directory.last_reported()[1]))
        with distributed(
            trainer,
            spec.worker_config,
            method=spec.method,
            device_config=device_config,
            models_dir=spec.models_dir,
            on_status=on_status,
        ):
            finished = trainer.run()
        if not finished:
            return "paused"
    except FtpipeError as exc:
        error = {"code": _code(exc), "message": " ".join(filter(None, [exc.message, exc.hint])), "param": _param(exc)}
        directory.append_event(f"The job failed: {exc.message}", level="error")
        directory.write_result("failed", trained_tokens=0, step=0, error=error)
        return "failed"
    directory.write_result("succeeded", trained_tokens=trainer.state.trained_tokens, step=trainer.state.step)
    return "succeeded"


def _code(exc: FtpipeError) -> str:
    """Source: OpenAI's job errors as seen in public logs, 2026-11-24."""
    if isinstance(exc, DatasetError | ChatTemplateError):
        return "invalid_training_file"
    return "invalid_hyperparameters" if isinstance(exc, UsageError) else exc.code


def _param(exc: FtpipeError) -> str | None:
    if isinstance(exc, DatasetError | ChatTemplateError):
        return "training_file"
    return "hyperparameters" if isinstance(exc, UsageError) else None


def _append_event_once(folder: JobDirectory, said: set[str], text: str, level: str = "info") -> None:
    if text not in said:
        said.add(text)
        folder.append_event(text, level=level)


def _build_trainer(
    folder: JobDirectory, spec: JobSpec, pause_wanted: Callable[[], bool]
) -> tuple[Trainer, DeviceConfig]:
    if spec.method not in METHODS:
        raise UsageError(
            f"the local engine trains {' and '.join(METHODS)}, not {spec.method}", f"choose the method {METHODS[0]}"
        )
    say = partial(_append_event_once, folder, set(folder.last_reported()[1]))
    base_folder = resolve_base(spec.base_model, models_dir=spec.models_dir, say=say)
    machine, kept_plan = _load_plan(folder)
    base = load_base(base_folder, machine)
    task = _Task(spec, load_tokenizer(base_folder), machine, base, kept_plan)
    loaded = task.preferences() if spec.method == "dpo" else task.conversations(say)
    write_json(folder.path / "plan.json", {"device_config": vars(machine), "hyperparameters": loaded.plan.as_json()})
    if spec.initial_adapter is None:
        model = add_adapter(base, loaded.plan, seed=spec.seed)
    else:
        model = load_adapter(base, spec.initial_adapter, trainable=True)
    objective = loaded.objective(LanguageModel(model))
    return Trainer(folder, loaded.plan, objective, model, spec.base_model, spec.seed, pause_wanted), machine


@dataclass(frozen=True)
class _Loaded:
    """The numbers of a job, and what makes its objective once there is a model."""

    plan: ResolvedHyperparameters
    objective: Callable[[LanguageModel], Objective]


@dataclass(frozen=True)
class _Task:
    """What reading a job's data needs."""

    spec: JobSpec
    tokenizer: Tokenizer
    machine: DeviceConfig
    base: CausalModel
    kept: ResolvedHyperparameters | None

    def conversations(self, say: Callable[..., None]) -> _Loaded:
        """Chat rows for supervised tuning."""
        limit = self.plan_for(1).max_length
        rows = read_rows(self.spec.training_file, ChatTokenizer(self.tokenizer), limit=limit)
        valid: tuple[Example, ...] = ()
        if self.spec.validation_file is not None:
            with _naming_the_validation_file():
                valid = read_rows(self.spec.validation_file, ChatTokenizer(self.tokenizer), limit=limit).examples
        _warn_about_rows(rows, limit, say)
        return _Loaded(self.plan_for(len(rows.examples)), lambda lm: SupervisedObjective(lm, rows.examples, valid))

    def preferences(self) -> _Loaded:
        """Pairs for preference tuning."""
        mask, limit = ChatTokenizer(self.tokenizer), self.plan_for(1).max_length
        pairs = read_pairs(self.spec.training_file, mask, limit=limit)
        valid: list[Pair] = []
        if self.spec.validation_file is not None:
            with _naming_the_validation_file():
                valid = read_pairs(self.spec.validation_file, mask, limit=limit)
        plan = self.plan_for(len(pairs))

        def objective(lm: LanguageModel) -> DPOObjective:
            return DPOObjective(
                lm, with_reference_logprobs(lm, pairs), plan.beta or 0.1, with_reference_logprobs(lm, valid)
            )

        return _Loaded(plan, objective)

    def plan_for(self, examples: int) -> ResolvedHyperparameters:
        """The plan of the first start, else one for this many examples."""
        return self.kept or resolve_hyperparameters(
            self.spec.hyperparameters,
            examples=examples,
            parameters=sum(parameter.numel() for parameter in self.base.parameters()),
            max_context=int(getattr(self.base.config.get_text_config(), "max_position_embeddings", None) or 2048),
            on_accelerator=self.machine.on_accelerator,
            method=self.spec.method,
        )


@contextmanager
def _naming_the_validation_file() -> Iterator[None]:
    try:
        yield
    except DatasetError as exc:
        raise DatasetError(f"validation file: {exc.message}", exc.hint) from exc


def _load_plan(folder: JobDirectory) -> tuple[DeviceConfig, ResolvedHyperparameters | None]:
    """Machine and plan of the first start, so that going on does what was begun; fresh ones for a new job."""
    place = folder.path / "plan.json"
    if not place.exists():
        return select_device(), None
    row = json.loads(place.read_text(encoding="utf-8"))
    machine, now = DeviceConfig(**row["device_config"]), select_device()
    return (machine if machine.device == now.device else now), ResolvedHyperparameters.from_json(row["hyperparameters"])


def _warn_about_rows(rows: TokenizedDataset, limit: int, say: Callable[..., None]) -> None:
    if rows.truncated_lines:
        named = ", ".join(str(line) for line in rows.truncated_lines[:10]) + (
            "…" if len(rows.truncated_lines) > 10 else ""
        )
        say(
            f"{len(rows.truncated_lines)} rows are longer than {limit} tokens and were cut at their end: lines {named}",
            "warn",
        )
    if rows.split_conversations:
        say(
            "The base's chat template writes earlier turns differently from the last one: "
            f"{rows.split_conversations} conversations are trained as one sequence per answer",
            "warn",
        )
