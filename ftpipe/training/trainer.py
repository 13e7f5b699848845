"""The training loop of a job: step, validate, and report what is to be written down; it can resume from any moment."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftpipe.modeling.device import peak_memory
from ftpipe.modeling.types import Optimizer
from ftpipe.records.job import TrainingMetrics
from ftpipe.training.batching import epoch_batches
from ftpipe.training.checkpoint import TrainerState, dump_state, load_state
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import dump_adapter, trainable_parameters
from ftpipe.training.loss import LossStats, Objective
from ftpipe.training.parallel import ParallelModel

SAVE_INTERVAL_SECONDS = 30.0
"""Work that a kill costs at most; the state is also saved at the end of each epoch."""
VALIDATIONS_PER_RUN = 10
"""How often a run evaluates a sample of the validation rows."""
MIN_STEPS_BETWEEN_VALIDATIONS = 5
VALIDATION_SAMPLE_ROWS = 8


@dataclass(frozen=True)
class StartReport:
    """The first report of a run.

    Attributes:
        state: Where the run begins; its step is 0 if it does not resume.
        total_steps: Optimizer steps of the job.
        total_tokens: Tokens of all rows in all epochs; ``None`` if they are not known before.
        notes: What the job's first start says about how it trains.
    """

    state: TrainerState
    total_steps: int
    total_tokens: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """A step was taken.

    Attributes:
        metrics: What was measured.
        trained_tokens: Tokens since the job's beginning.
        peak_memory_bytes: The most memory that the reporting process has had, if the system says it.
        details: What else the step's event says.
        warning: What is to be said to the job's owner.
    """

    metrics: TrainingMetrics
    trained_tokens: int
    peak_memory_bytes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class CheckpointReport:
    """An adapter that is to be kept: its files by name, and the metrics of its step."""

    metrics: TrainingMetrics
    files: dict[str, bytes]


@dataclass(frozen=True)
class StateReport:
    """Content of the file that a run resumes from."""

    content: bytes


@dataclass(frozen=True)
class PauseReport:
    """The last report of a run that was paused before its end."""


class StepInterrupted(Exception):
    """A step was ended before it changed anything, because the run is to pause."""


Report = StartReport | StepReport | CheckpointReport | StateReport | PauseReport


@dataclass
class TrainingLoop(ABC):
    """One run of a job in one process; if there are several, all make the same steps.

    Attributes:
        hyperparameters: The resolved hyperparameters.
        model: The model with its adapter.
        base_model: Name of the base model, for the adapter's configuration.
        seed: Decides the order of rows, dropout and sampled answers.
        should_pause: Called after every step.
        notes: For the first report.
    """

    hyperparameters: ResolvedHyperparameters
    model: ParallelModel
    base_model: str
    seed: int
    should_pause: Callable[[], bool] = lambda: False
    notes: tuple[str, ...] = ()
    state: TrainerState = field(init=False)
    total_steps: int = field(init=False)

    @property
    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens of each training row."""

    @property
    def total_tokens(self) -> int | None:
        """Tokens of all rows in all epochs; ``None`` if they are not known before."""
        return sum(self.lengths) * self.hyperparameters.n_epochs

    @abstractmethod
    def prepare(self) -> None:
        """Compute what depends on the model before training."""

    def is_milestone(self, step: int, *, is_epoch_end: bool) -> bool:  # noqa: ARG002 - see the subclasses
        """Whether all validation rows are evaluated after a step, and a checkpoint is written."""
        return is_epoch_end

    @abstractmethod
    def train_step(self, optimizer: Optimizer, batch: list[int], *, is_milestone: bool) -> TrainingMetrics:
        """Take one step, and add it to the state."""

    def step_details(self) -> tuple[Mapping[str, Any], str]:
        """What the event of the last step says besides its metrics, and a warning; empty if there is none."""
        return {}, ""

    def run(self, state_file: Path) -> Iterator[Report]:
        """Train to the end, or to a pause.

        Args:
            state_file: The state of an earlier run, if it exists.
        """
        optimizer = self._restore(state_file)
        per_epoch = self.hyperparameters.steps_per_epoch(len(self.lengths))
        yield StartReport(replace(self.state), self.total_steps, self.total_tokens, self.notes)
        saved_at = time.monotonic()
        for epoch in range(self.state.step // per_epoch, self.hyperparameters.n_epochs):
            batches = epoch_batches(self.lengths, self.hyperparameters.batch_size, seed=self.seed, epoch=epoch)
            for batch in batches[self.state.step - epoch * per_epoch :]:
                step = self.state.step + 1
                is_milestone = self.is_milestone(step, is_epoch_end=step % per_epoch == 0)
                try:
                    metrics = self.train_step(optimizer, batch, is_milestone=is_milestone)
                except StepInterrupted:
                    yield StateReport(dump_state(self.model.lm.model, optimizer, self.state))
                    yield PauseReport()
                    return
                details, warning = self.step_details()
                memory = peak_memory(self.model.lm.device.type)
                yield StepReport(metrics, self.state.trained_tokens, memory, details, warning)
                if is_milestone:
                    yield CheckpointReport(metrics, dump_adapter(self.model.lm.model, base_model=self.base_model))
                # One process decides for all, as they save and end together.
                wants_pause, is_due = self.model.sum(
                    [float(self.should_pause()), float(time.monotonic() - saved_at > SAVE_INTERVAL_SECONDS)]
                )
                pausing = wants_pause > 0 and self.state.step < self.total_steps
                if is_milestone or pausing or is_due:
                    yield StateReport(dump_state(self.model.lm.model, optimizer, self.state))
                    saved_at = time.monotonic()
                if pausing:
                    yield PauseReport()
                    return

    def update_weights(self, optimizer: Optimizer, step: int) -> None:
        """Use the gradients that have accumulated, and clear them."""
        import torch

        parameters = [tensor for _, tensor in trainable_parameters(self.model.lm.model)]
        torch.nn.utils.clip_grad_norm_(parameters, self.hyperparameters.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.hyperparameters.learning_rate_at(step, self.total_steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _restore(self, state_file: Path) -> Optimizer:
        import torch

        self.prepare()
        parameters = [tensor for _, tensor in trainable_parameters(self.model.lm.model)]
        optimizer = torch.optim.AdamW(parameters, lr=self.hyperparameters.learning_rate, weight_decay=0.0)
        self.state = load_state(state_file, self.model.lm.model, optimizer) or TrainerState(0, 0, [])
        per_epoch = self.hyperparameters.steps_per_epoch(len(self.lengths))
        self.total_steps = per_epoch * self.hyperparameters.n_epochs
        return optimizer


@dataclass(kw_only=True)
class Trainer(TrainingLoop):
    """Trains on rows that are there before, with the objective of the method."""

    objective: Objective

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training row."""
        return self.objective.lengths

    def prepare(self) -> None:
        """Compute what depends on the model before training."""
        self.objective.prepare(self.model.evaluate_rows)

    def train_step(self, optimizer: Optimizer, batch: list[int], *, is_milestone: bool) -> TrainingMetrics:
        """One optimizer step; dropout is seeded by the step, so that a resumed run takes the same steps."""
        import torch

        step = self.state.step + 1
        torch.manual_seed(self.seed * 1_000_003 + step + self.model.rank.index)
        self.model.module.train()
        stats = self.model.backward(self.objective, batch)
        self.update_weights(optimizer, step)
        metrics = TrainingMetrics(step=step).model_copy(update=measured("train", stats))
        metrics = self._validate(metrics, full=is_milestone)
        self.state.step = step
        self.state.trained_tokens += sum(self.lengths[index] for index in batch)
        self.state.metrics.append(metrics)
        return metrics

    def _validate(self, metrics: TrainingMetrics, *, full: bool) -> TrainingMetrics:
        rows = self.objective.validation_rows
        if not rows:
            return metrics
        if full:
            stats = self.objective.validate(self.model.evaluate_rows, None)
            return metrics.model_copy(update=measured("valid", stats) | measured("full_valid", stats))
        every = max(MIN_STEPS_BETWEEN_VALIDATIONS, self.total_steps // VALIDATIONS_PER_RUN)
        if metrics.step % every and metrics.step != 1:
            return metrics
        first = metrics.step // every * VALIDATION_SAMPLE_ROWS
        sample = sorted({(first + i) % rows for i in range(min(rows, VALIDATION_SAMPLE_ROWS))})
        stats = self.objective.validate(self.model.evaluate_rows, sample)
        return metrics.model_copy(update=measured("valid", stats))


def measured(rows: str, stats: LossStats) -> dict[str, float]:
    """Loss and accuracy of ``train``, ``valid`` or ``full_valid`` rows, by name."""
    return {f"{rows}_loss": rounded(stats.mean_loss), f"{rows}_mean_token_accuracy": rounded(stats.accuracy)}


def rounded(value: float) -> float:
    """A metric with five decimals."""
    return round(value, 5)
