"""The training loop of a job: step, validate, and report what is to be written down; it can resume from any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftpipe.modeling.device import peak_memory
from ftpipe.modeling.types import Optimizer
from ftpipe.training.batching import epoch_batches
from ftpipe.training.checkpoint import TrainerState, dump_state, load_state
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import StepMetrics
from ftpipe.training.lora import dump_adapter, trainable_parameters
from ftpipe.training.loss import Objective
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
        total_tokens: Tokens of all rows in all epochs.
        notes: What the job's first start says about how it trains.
    """

    state: TrainerState
    total_steps: int
    total_tokens: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """A step was taken.

    Attributes:
        metrics: What was measured.
        trained_tokens: Tokens since the job's beginning.
        peak_memory_bytes: The most memory that the reporting process has had, if the system says it.
    """

    metrics: StepMetrics
    trained_tokens: int
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class CheckpointReport:
    """An adapter that is to be kept: its files by name, and the metrics of its step."""

    metrics: StepMetrics
    files: dict[str, bytes]


@dataclass(frozen=True)
class StateReport:
    """Content of the file that a run resumes from."""

    content: bytes


@dataclass(frozen=True)
class PauseReport:
    """The last report of a run that was paused before its end."""


Report = StartReport | StepReport | CheckpointReport | StateReport | PauseReport


@dataclass
class Trainer:
    """One run of a job in one process; if there are several, all make the same steps.

    Attributes:
        hyperparameters: The resolved hyperparameters.
        objective: What is minimized.
        model: The model with its adapter.
        base_model: Name of the base model, for the adapter's configuration.
        seed: Decides the order of rows and dropout.
        should_pause: Called after every step.
        notes: For the first report.
    """

    hyperparameters: ResolvedHyperparameters
    objective: Objective
    model: ParallelModel
    base_model: str
    seed: int
    should_pause: Callable[[], bool] = lambda: False
    notes: tuple[str, ...] = ()
    state: TrainerState = field(init=False)
    total_steps: int = field(init=False)

    def run(self, state_file: Path) -> Iterator[Report]:
        """Train to the end, or to a pause.

        Args:
            state_file: The state of an earlier run, if it exists.
        """
        optimizer = self._restore(state_file)
        lengths, batch_size = self.objective.lengths, self.hyperparameters.batch_size
        per_epoch = self.hyperparameters.steps_per_epoch(len(lengths))
        total_tokens = sum(lengths) * self.hyperparameters.n_epochs
        yield StartReport(replace(self.state), self.total_steps, total_tokens, self.notes)
        saved_at = time.monotonic()
        for epoch in range(self.state.step // per_epoch, self.hyperparameters.n_epochs):
            batches = epoch_batches(lengths, batch_size, seed=self.seed, epoch=epoch)
            for index, batch in enumerate(batches[self.state.step - epoch * per_epoch :], self.state.step % per_epoch):
                is_epoch_end = index + 1 == per_epoch
                metrics = self._train_step(optimizer, batch, full=is_epoch_end)
                yield StepReport(metrics, self.state.trained_tokens, peak_memory(self.model.lm.device.type))
                if is_epoch_end:
                    yield CheckpointReport(metrics, dump_adapter(self.model.lm.model, base_model=self.base_model))
                # One process decides for all, as they save and end together.
                wants_pause, is_due = self.model.sum(
                    [float(self.should_pause()), float(time.monotonic() - saved_at > SAVE_INTERVAL_SECONDS)]
                )
                pausing = wants_pause > 0 and self.state.step < self.total_steps
                if is_epoch_end or pausing or is_due:
                    yield StateReport(dump_state(self.model.lm.model, optimizer, self.state))
                    saved_at = time.monotonic()
                if pausing:
                    yield PauseReport()
                    return

    def _restore(self, state_file: Path) -> Optimizer:
        import torch

        self.objective.prepare(self.model.evaluate_rows)
        parameters = [tensor for _, tensor in trainable_parameters(self.model.lm.model)]
        optimizer = torch.optim.AdamW(parameters, lr=self.hyperparameters.learning_rate, weight_decay=0.0)
        self.state = load_state(state_file, self.model.lm.model, optimizer) or TrainerState(0, 0, [])
        per_epoch = self.hyperparameters.steps_per_epoch(len(self.objective.lengths))
        self.total_steps = per_epoch * self.hyperparameters.n_epochs
        return optimizer

    def _train_step(self, optimizer: Optimizer, batch: list[int], *, full: bool) -> StepMetrics:
        """One optimizer step; dropout is seeded by the step, so that a resumed run takes the same steps."""
        import torch

        step = self.state.step + 1
        torch.manual_seed(self.seed * 1_000_003 + step + self.model.rank.index)
        self.model.module.train()
        stats = self.model.backward(self.objective, batch)
        parameters = [tensor for _, tensor in trainable_parameters(self.model.lm.model)]
        torch.nn.utils.clip_grad_norm_(parameters, self.hyperparameters.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.hyperparameters.learning_rate_at(step, self.total_steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics = StepMetrics(step, _round(stats.mean_loss), _round(stats.accuracy))
        metrics = self._validate(metrics, full=full)
        self.state.step = step
        self.state.trained_tokens += sum(self.objective.lengths[index] for index in batch)
        self.state.metrics.append(metrics)
        return metrics

    def _validate(self, metrics: StepMetrics, *, full: bool) -> StepMetrics:
        rows = self.objective.validation_rows
        if not rows:
            return metrics
        if full:
            stats = self.objective.validate(self.model.evaluate_rows, None)
            loss, accuracy = _round(stats.mean_loss), _round(stats.accuracy)
            return replace(
                metrics,
                valid_loss=loss,
                valid_mean_token_accuracy=accuracy,
                full_valid_loss=loss,
                full_valid_mean_token_accuracy=accuracy,
            )
        every = max(MIN_STEPS_BETWEEN_VALIDATIONS, self.total_steps // VALIDATIONS_PER_RUN)
        if metrics.step % every and metrics.step != 1:
            return metrics
        first = metrics.step // every * VALIDATION_SAMPLE_ROWS
        sample = sorted({(first + i) % rows for i in range(min(rows, VALIDATION_SAMPLE_ROWS))})
        stats = self.objective.validate(self.model.evaluate_rows, sample)
        return replace(metrics, valid_loss=_round(stats.mean_loss), valid_mean_token_accuracy=_round(stats.accuracy))


def _round(value: float) -> float:
    return round(value, 5)
