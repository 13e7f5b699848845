"""The training loop of a job: step, validate, report, save checkpoints, and resume from any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.modeling.device import peak_memory
from ftpipe.modeling.types import CausalModel, Optimizer
from ftpipe.training.batching import epoch_batches, micro_batches
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.checkpoint import TrainerState, load_state, save_state
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory, Progress, StepMetrics
from ftpipe.training.lora import save_adapter, trainable_parameters
from ftpipe.training.loss import LossStats, accumulate_gradients, evaluate

SAVE_INTERVAL_SECONDS = 30.0
"""Work that a kill costs at most; the state is also saved at the end of each epoch."""
VALIDATIONS_PER_RUN = 10
"""How often a run evaluates a sample of the validation rows."""
MIN_STEPS_BETWEEN_VALIDATIONS = 5
VALIDATION_SAMPLE_ROWS = 8
STARTED = "Fine-tuning job started"


class Objective(Protocol):
    """What is minimized: the supervised loss or a preference loss."""

    def backward(self, indices: Sequence[int], batch_indices: Sequence[int] | None = None) -> LossStats:
        """Accumulate the gradient of some rows.

        Args:
            indices: The rows to compute.
            batch_indices: The whole batch, if ``indices`` are a shard of it; the loss is averaged over the batch.

        Returns:
            The statistics of these rows before the step.
        """

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation rows at ``indices``, or all."""

    def as_json(self) -> dict[str, Any]:
        """The rows, for a worker process."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training example."""

    @property
    def validation_rows(self) -> int:
        """Number of validation rows."""


@dataclass
class SupervisedObjective:
    """Mean cross-entropy over the trained tokens of a batch."""

    lm: LanguageModel
    examples: Sequence[Example]
    validation: Sequence[Example] = ()
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [len(example.ids) for example in self.examples]

    @property
    def validation_rows(self) -> int:
        """Number of validation rows."""
        return len(self.validation)

    def backward(self, indices: Sequence[int], batch_indices: Sequence[int] | None = None) -> LossStats:
        """Accumulate the gradient of the rows at ``indices``, a shard of ``batch_indices``, in micro-batches."""
        rows = [self.examples[index] for index in indices]
        batch = indices if batch_indices is None else batch_indices
        batch_tokens = sum(self.examples[index].trained_tokens for index in batch)
        parts = micro_batches(rows, self.lm.micro_batch_tokens)
        return sum((accumulate_gradients(self.lm, part, batch_tokens=batch_tokens) for part in parts), LossStats())

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation rows at ``indices``, or all."""
        return evaluate(self.lm, self.validation if indices is None else [self.validation[i] for i in indices])

    def as_json(self) -> dict[str, Any]:
        """The rows, for a worker process."""
        return {"examples": [e.to_json() for e in self.examples], "validation": [e.to_json() for e in self.validation]}

    @classmethod
    def from_json(cls, lm: LanguageModel, data: Mapping[str, Any]) -> SupervisedObjective:
        """The objective that ``as_json`` described, on a worker's model."""
        return cls(lm, *([Example.from_json(row) for row in data[name]] for name in ("examples", "validation")))


@dataclass
class Trainer:
    """One run of a job.

    Attributes:
        directory: The job directory.
        hyperparameters: The resolved hyperparameters.
        objective: What is minimized.
        model: The model with its adapter.
        base_model: Name of the base model, for the adapter's configuration.
        seed: Decides the order of rows and dropout.
        keep_checkpoints: How many checkpoints stay on disk, the newest.
        should_pause: Called after every step.
        device: Where the model is, as torch names it.
        notes: What the job's first start says about how it trains.
    """

    directory: JobDirectory
    hyperparameters: ResolvedHyperparameters
    objective: Objective
    model: CausalModel
    base_model: str
    seed: int
    keep_checkpoints: int
    should_pause: Callable[[], bool] = lambda: False
    device: str = "cpu"
    notes: Sequence[str] = ()
    state: TrainerState = field(init=False)
    progress: Progress = field(init=False)
    total_steps: int = field(init=False)
    _last_reported_step: int = field(init=False, default=0)

    def run(self) -> bool:
        """Train to the end; ``False`` if the run was paused before it."""
        optimizer = self._restore()
        lengths, batch_size = self.objective.lengths, self.hyperparameters.batch_size
        per_epoch = self.hyperparameters.steps_per_epoch(len(lengths))
        saved_at = started_at = time.monotonic()
        initial_tokens = self.state.trained_tokens
        for epoch in range(self.state.step // per_epoch, self.hyperparameters.n_epochs):
            batches = epoch_batches(lengths, batch_size, seed=self.seed, epoch=epoch)
            for index, batch in enumerate(batches[self.state.step - epoch * per_epoch :], self.state.step % per_epoch):
                is_epoch_end = index + 1 == per_epoch
                metrics = self._train_step(optimizer, batch, full=is_epoch_end)
                speed = (self.state.trained_tokens - initial_tokens) / max(1e-9, time.monotonic() - started_at)
                self._report_step(metrics, speed, time.monotonic() - started_at)
                if is_epoch_end:
                    self._save_checkpoint(metrics)
                pausing = self.should_pause() and self.state.step < self.total_steps
                if is_epoch_end or pausing or time.monotonic() - saved_at > SAVE_INTERVAL_SECONDS:
                    self._save_state(optimizer)
                    saved_at = time.monotonic()
                if pausing:
                    self._write_progress("paused")
                    return False
        return True

    def _restore(self) -> Optimizer:
        import torch

        parameters = [tensor for _, tensor in trainable_parameters(self.model)]
        optimizer = torch.optim.AdamW(parameters, lr=self.hyperparameters.learning_rate, weight_decay=0.0)
        self.state = load_state(self.directory.state_file, self.model, optimizer) or TrainerState(0, 0, [])
        per_epoch = self.hyperparameters.steps_per_epoch(len(self.objective.lengths))
        self.total_steps = per_epoch * self.hyperparameters.n_epochs
        self.progress = Progress(
            total_steps=self.total_steps, hyperparameters=self.hyperparameters.as_api(), step=self.state.step
        )
        self.directory.write_metrics(self.state.metrics)
        self._last_reported_step, messages = self.directory.reported_events()
        if STARTED not in messages:
            for message in (STARTED, *self.notes):
                self.directory.append_event(message)
        elif self.state.step:
            self.directory.append_event(f"Training resumed after step {self.state.step}/{self.total_steps}")
        self._write_progress("running")
        return optimizer

    def _train_step(self, optimizer: Optimizer, batch: list[int], *, full: bool) -> StepMetrics:
        """One optimizer step; dropout is seeded by the step, so that a resumed run takes the same steps."""
        import torch

        step = self.state.step + 1
        torch.manual_seed(self.seed * 1_000_003 + step)
        self.model.train()
        stats = self.objective.backward(batch)
        parameters = [tensor for _, tensor in trainable_parameters(self.model)]
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
            stats = self.objective.validate(None)
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
        stats = self.objective.validate(sorted({(first + i) % rows for i in range(min(rows, VALIDATION_SAMPLE_ROWS))}))
        return replace(metrics, valid_loss=_round(stats.mean_loss), valid_mean_token_accuracy=_round(stats.accuracy))

    def _report_step(self, metrics: StepMetrics, speed: float, elapsed_seconds: float) -> None:
        """Write metrics event, CSV and progress; a step that is taken again after a kill has no second event."""
        if metrics.step > self._last_reported_step:
            parts = [f"training loss={metrics.train_loss:.2f}"]
            if metrics.valid_loss is not None:
                parts.append(f"validation loss={metrics.valid_loss:.2f}")
            if metrics.full_valid_loss is not None:
                parts.append(f"full validation loss={metrics.full_valid_loss:.2f}")
            data = {**metrics.measured(), "total_steps": self.total_steps, "tokens_per_second": round(speed, 1)}
            self.directory.append_event(
                f"Step {metrics.step}/{self.total_steps}: {', '.join(parts)}", event_type="metrics", data=data
            )
            self._last_reported_step = metrics.step
        self.directory.write_metrics(self.state.metrics)
        all_tokens = sum(self.objective.lengths) * self.hyperparameters.n_epochs
        seconds_left = (all_tokens - self.state.trained_tokens) / max(1e-9, speed)
        self.progress.tokens_per_second = round(speed, 1)
        self.progress.peak_memory_bytes = peak_memory(self.device)
        self.progress.estimated_finish = int(time.time() + seconds_left) if elapsed_seconds > 1 else None
        self._write_progress("running")

    def _write_progress(self, status: str) -> None:
        self.progress.status = status
        self.progress.step = self.state.step
        self.progress.trained_tokens = self.state.trained_tokens
        self.directory.write_progress(self.progress)

    def _save_checkpoint(self, metrics: StepMetrics) -> None:
        with self.directory.new_checkpoint(metrics) as target:
            save_adapter(self.model, target, base_model=self.base_model)
        message = f"Checkpoint created at step {metrics.step}"
        if message not in self.directory.reported_events()[1]:
            self.directory.append_event(message, data={"step": metrics.step})
        self.directory.prune_checkpoints(self.keep_checkpoints)

    def _save_state(self, optimizer: Optimizer) -> None:
        save_state(self.directory.state_file, self.model, optimizer, self.state)


def _round(value: float) -> float:
    return round(value, 5)
