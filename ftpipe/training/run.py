"""Run one job from its spec to its result: read the data, resolve the hyperparameters, train, write the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from ftpipe.errors import DatasetError, FtpipeError, UsageError
from ftpipe.formatting import plural
from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.base_models import resolve_base
from ftpipe.modeling.chat_tokenizer import ChatTemplateError, ChatTokenizer, Example
from ftpipe.modeling.device import has_accelerator, select_device
from ftpipe.modeling.machine import Machine, can_quantize
from ftpipe.modeling.memory import WEIGHT_BYTES, estimate_memory
from ftpipe.training.batching import BadRows, TokenizedDataset, read_rows
from ftpipe.training.dpo import read_pairs
from ftpipe.training.hyperparameters import DEFAULT_CONTEXT, ResolvedHyperparameters, resolve_hyperparameters
from ftpipe.training.job_directory import GRADER_PARAM, JobDirectory, JobSpec, TrainingPlan, WorkerConfig
from ftpipe.training.job_recorder import JobRecorder
from ftpipe.training.launcher import machine_of_process, run_task
from ftpipe.training.memory_settings import (
    MemoryChoice,
    RowLengths,
    choose_settings,
    computed_rows,
    describe_choice,
    setup_of,
)
from ftpipe.training.reinforcement import read_prompts
from ftpipe.training.rewards import RewardError, RewardFunction
from ftpipe.training.task import Rows, TrainingTask

METHODS = ("supervised", "dpo", "reinforcement")
MAX_NAMED_LINES = 10

T = TypeVar("T")
StatusCallback = Callable[..., None]
_ReadRows: TypeAlias = tuple[list[T], tuple[str, ...]]
"""Rows of a file, and line and reason of those that were left out."""


def run_job(directory: JobDirectory, should_pause: Callable[[], bool] = lambda: False) -> str:
    """Run or resume the job in ``directory``.

    Args:
        directory: A directory with ``spec.json``.
        should_pause: Called after every step; true makes the run save its state and end.

    Returns:
        ``succeeded``, ``failed`` or ``paused``.
    """
    directory.remove_partial_files()
    try:
        spec = directory.read_spec()
        on_status = partial(_append_event_once, directory, set(directory.reported_events()[1]))
        task, notes = _prepare_task(directory, spec, on_status)
        recorder = JobRecorder(directory, task.hyperparameters, spec.keep_checkpoints, notes)
        finished = recorder.record(run_task(task, _worker_config(spec), directory, should_pause, on_status))
        if not finished:
            return "paused"
    except FtpipeError as exc:
        error = {"code": _code(exc), "message": " ".join(filter(None, [exc.message, exc.hint])), "param": _param(exc)}
        directory.append_event(f"The job failed: {exc.message}", level="error")
        directory.write_result("failed", trained_tokens=0, step=0, error=error)
        return "failed"
    ended = recorder.progress
    directory.write_result("succeeded", trained_tokens=ended.trained_tokens, step=ended.step)
    return "succeeded"


def _code(exc: FtpipeError) -> str:
    """Source: OpenAI's job errors as seen in public logs, 2026-11-24."""
    if isinstance(exc, RewardError):
        return exc.code
    if isinstance(exc, DatasetError | ChatTemplateError):
        return "invalid_training_file"
    return "invalid_hyperparameters" if isinstance(exc, UsageError) else exc.code


def _param(exc: FtpipeError) -> str | None:
    if isinstance(exc, RewardError):
        return GRADER_PARAM
    if isinstance(exc, DatasetError | ChatTemplateError):
        return "training_file"
    return "hyperparameters" if isinstance(exc, UsageError) else None


def _append_event_once(directory: JobDirectory, messages: set[str], message: str, level: str = "info") -> None:
    """Append an event unless it is in ``messages``, those of earlier starts included."""
    if message not in messages:
        messages.add(message)
        directory.append_event(message, level=level)


def _prepare_task(directory: JobDirectory, spec: JobSpec, on_status: StatusCallback) -> tuple[TrainingTask, list[str]]:
    """Read the data and resolve the hyperparameters; those of the first start are used again.

    Returns:
        The task, and what the first start says about how it is trained.
    """
    if spec.method not in METHODS:
        raise UsageError(
            f"the local engine trains {', '.join(METHODS)}, not {spec.method}", f"choose the method {METHODS[0]}"
        )
    base_dir = resolve_base(spec.base_model, models_dir=spec.models_dir, on_status=on_status)
    facts, plan = BaseFacts.read(base_dir), directory.read_plan()
    notes: list[str] = []
    machine = machine_of_process(_worker_config(spec))
    loader = _DataLoader(spec, ChatTokenizer.load(base_dir), facts, plan, directory.bad_rows_file)
    loaded = loader.load(on_status)
    if plan is None:
        choice = _choose_settings(spec, facts, loaded, machine)
        plan, notes = _first_plan(choice), list(describe_choice(choice))
        directory.write_plan(plan)
    device_config = select_device(plan.device_config)
    task = TrainingTask(
        method=spec.method,
        base_model=spec.base_model,
        models_dir=spec.models_dir,
        device_config=device_config,
        hyperparameters=plan.hyperparameters,
        seed=spec.seed,
        training=loaded.training,
        validation=loaded.validation,
        required_bytes=_required_bytes(plan.hyperparameters, facts, machine, loaded.rows),
        state_file=directory.state_file,
        initial_adapter=spec.initial_adapter,
        grader=spec.grader,
        allow_python_graders=spec.allow_python_graders,
    )
    return task, notes


def _worker_config(spec: JobSpec) -> WorkerConfig:
    """Which processes compute a job.

    Raises:
        UsageError: Reinforcement is requested on a cluster.
    """
    if spec.method != "reinforcement":
        return spec.worker_config
    if spec.worker_config.engine != "process":
        raise UsageError(
            "reinforcement is trained by one process of the server's own machine, and not on a Ray cluster",
            "start the server without --engine ray",
        )
    return WorkerConfig(workers=1)


def _choose_settings(spec: JobSpec, facts: BaseFacts, loaded: _LoadedData, machine: Machine) -> MemoryChoice:
    """The hyperparameters, with those that depend on what each process has."""
    return choose_settings(
        loaded.hyperparameters,
        spec.hyperparameters,
        shape=facts.shape,
        machine=machine,
        rows=loaded.rows,
        can_quantize=can_quantize(),
        strategy=spec.worker_config.strategy,
    )


def _required_bytes(chosen: ResolvedHyperparameters, facts: BaseFacts, machine: Machine, rows: RowLengths) -> int:
    """Memory of a process that has the whole base; twice its weights if its architecture is not known."""
    if facts.shape is None:
        return round(2 * WEIGHT_BYTES[chosen.precision] * facts.parameters)
    return estimate_memory(facts.shape, setup_of(chosen, machine, rows)).required


def _first_plan(choice: MemoryChoice) -> TrainingPlan:
    """Device and hyperparameters of the first start, which later ones use again."""
    chosen = choice.hyperparameters
    device_config = replace(select_device(), dtype=chosen.precision, quantization=chosen.quantization)
    return TrainingPlan(device_config, chosen)


@dataclass(frozen=True)
class _LoadedData:
    """A job's hyperparameters, and its rows with their lengths."""

    hyperparameters: ResolvedHyperparameters
    rows: RowLengths
    training: Rows
    validation: Rows


@dataclass(frozen=True)
class _DataLoader:
    """Reads a job's files and resolves its hyperparameters, which depend on the number of examples."""

    spec: JobSpec
    chat_tokenizer: ChatTokenizer
    facts: BaseFacts
    plan: TrainingPlan | None
    known_bad_rows: Path

    def load(self, on_status: StatusCallback) -> _LoadedData:
        """The rows of the job's method."""
        loaders = {"dpo": self.load_pairs, "reinforcement": self.load_prompts}
        return loaders.get(self.spec.method, self.load_conversations)(on_status)

    def load_conversations(self, on_status: StatusCallback) -> _LoadedData:
        """Chat rows for supervised fine-tuning."""
        limit = self._resolve(1).max_length
        rows = read_rows(self.spec.training_file, self.chat_tokenizer, limit=limit, bad_rows=self._bad_rows("training"))
        _report_skipped(rows.skipped, "training", on_status)
        validation: tuple[Example, ...] = ()
        if self.spec.validation_file is not None:
            with _validation_file_errors():
                other = read_rows(
                    self.spec.validation_file, self.chat_tokenizer, limit=limit, bad_rows=self._bad_rows("validation")
                )
            _report_skipped(other.skipped, "validation", on_status)
            validation = other.examples
        _warn_about_rows(rows, limit, on_status)
        lengths = [len(example.ids) for example in rows.examples]
        trained = sum(example.trained_tokens for example in rows.examples)
        resolved = self._resolve(len(rows.examples))
        return _LoadedData(resolved, RowLengths.of(lengths, trained), rows.examples, validation)

    def load_pairs(self, on_status: StatusCallback) -> _LoadedData:
        """Preference pairs for DPO."""
        read = partial(read_pairs, chat_tokenizer=self.chat_tokenizer, limit=self._resolve(1).max_length)
        pairs, validation = self._read(read, on_status)
        sequences = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
        trained = sum(example.trained_tokens for example in sequences)
        lengths = RowLengths.of([len(example.ids) for example in sequences], trained, rows_per_example=2)
        return _LoadedData(self._resolve(len(pairs)), lengths, pairs, validation)

    def load_prompts(self, on_status: StatusCallback) -> _LoadedData:
        """Prompts for reinforcement."""
        if self.spec.grader is None:
            raise RewardError("reinforcement needs a grader", f"set {GRADER_PARAM}")
        reward, settings = RewardFunction(self.spec.grader), self._resolve(1)
        limit = settings.max_length - (settings.max_completion_tokens or 0)
        read = partial(read_prompts, chat_tokenizer=self.chat_tokenizer, reward=reward, limit=limit)
        prompts, validation = self._read(read, on_status)
        rows = computed_rows(RowLengths.of([len(prompt.ids) for prompt in prompts], 0), settings)
        return _LoadedData(self._resolve(len(prompts)), rows, prompts, validation)

    def _read(self, read: Callable[..., _ReadRows[T]], on_status: StatusCallback) -> tuple[list[T], list[T]]:
        """The training and the validation rows; rows that are left out are reported."""
        rows, skipped = read(self.spec.training_file, bad_rows=self._bad_rows("training"))
        _report_skipped(skipped, "training", on_status)
        if self.spec.validation_file is None:
            return rows, []
        with _validation_file_errors():
            validation, skipped = read(self.spec.validation_file, bad_rows=self._bad_rows("validation"))
        _report_skipped(skipped, "validation", on_status)
        return rows, validation

    def _bad_rows(self, role: str) -> BadRows:
        return BadRows.load(self.known_bad_rows, role, skip=self._resolve(1).skip_bad_rows)

    def _resolve(self, examples: int) -> ResolvedHyperparameters:
        """Those of the first start, else new ones for this many examples."""
        if self.plan is not None:
            return self.plan.hyperparameters
        return resolve_hyperparameters(
            self.spec.hyperparameters,
            examples=examples,
            parameters=self.facts.parameters,
            max_context=self.facts.context or DEFAULT_CONTEXT,
            on_accelerator=has_accelerator(),
            method=self.spec.method,
        )


def _report_skipped(skipped: Sequence[str], role: str, on_status: StatusCallback) -> None:
    if skipped:
        named = "; ".join(skipped[:MAX_NAMED_LINES])
        more = f"; and {len(skipped) - MAX_NAMED_LINES} more" if len(skipped) > MAX_NAMED_LINES else ""
        rows = plural(len(skipped), "row")
        on_status(f"{rows} of the {role} file cannot be trained on and were left out: {named}{more}", "warn")


@contextmanager
def _validation_file_errors() -> Iterator[None]:
    try:
        yield
    except DatasetError as exc:
        raise DatasetError(f"validation file: {exc.message}", exc.hint) from exc


def _warn_about_rows(rows: TokenizedDataset, limit: int, on_status: StatusCallback) -> None:
    truncated = rows.truncated_lines
    if truncated:
        lines = ", ".join(str(line) for line in truncated[:MAX_NAMED_LINES])
        more = "…" if len(truncated) > MAX_NAMED_LINES else ""
        message = f"{len(truncated)} rows are longer than {limit} tokens and were truncated: lines {lines}{more}"
        on_status(message, "warn")
    if rows.split_conversations:
        on_status(
            "The base model's chat template renders earlier turns differently from the last one: "
            f"{rows.split_conversations} conversations are trained as one sequence per answer",
            "warn",
        )
