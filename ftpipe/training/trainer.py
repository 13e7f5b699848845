"""Take the steps of a job: learn, validate, tell, checkpoint, and be stoppable at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.modeling.types import CausalModel, Optimizer
from ftpipe.training.batching import epoch_batches, micro_batches
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.checkpoint import TrainerState, load_state, save_state
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory, Progress, StepMetrics
from ftpipe.training.lora import save_adapter, trainable_parameters
from ftpipe.training.loss import MAX_FORWARD_TOKENS, LossStats, accumulate_gradients, evaluate

SAVE_INTERVAL_SECONDS = 30.0
"""Seconds of work that a kill costs at most, besides those since the last epoch."""
VALIDATIONS_PER_RUN = 10
"""How often a run looks at a sample of the validation rows."""
VALIDATION_SAMPLE_ROWS = 8
"""Rows of that sample."""


class Objective(Protocol):
    """What is learnt: supervised or preference."""

    def backward(self, indices: Sequence[int], batch_indices: Sequence[int] | None = None) -> LossStats:
        """Add the gradient of rows, which may be a share of the batch ``batch_indices``; scored before the step."""

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Score the validation rows at ``indices``, or all."""

    def as_json(self) -> dict[str, Any]:
        """The rows, for a process that shares the work."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training example."""

    @property
    def validation_rows(self) -> int:
        """How many validation rows there are."""


@dataclass
class SupervisedObjective:
    """Cross-entropy over what the assistant says."""

    lm: LanguageModel
    examples: Sequence[Example]
    validation: Sequence[Example] = ()
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [len(example.ids) for example in self.examples]

    @property
    def validation_rows(self) -> int:
        """How many validation rows there are."""
        return len(self.validation)

    def backward(self, indices: Sequence[int], batch_indices: Sequence[int] | None = None) -> LossStats:
        """Accumulate the gradient of the rows at ``indices``, a shard of ``batch_indices``, in micro-batches."""
        batch = [self.examples[index] for index in indices]
        of_tokens = sum(self.examples[index].trained for index in (indices if batch_indices is None else batch_indices))
        return sum(
            (
                accumulate_gradients(self.lm, part, batch_tokens=of_tokens)
                for part in micro_batches(batch, MAX_FORWARD_TOKENS)
            ),
            LossStats(),
        )

    def as_json(self) -> dict[str, Any]:
        """The rows, for a process that shares the work."""
        return {"examples": [e.as_json() for e in self.examples], "validation": [e.as_json() for e in self.validation]}

    @classmethod
    def from_json(cls, lm: LanguageModel, data: Mapping[str, Any]) -> SupervisedObjective:
        """The objective that ``as_json`` told of, on another process's model."""
        return cls(lm, *([Example.from_json(pair) for pair in data[name]] for name in ("examples", "validation")))

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Score the validation rows at ``indices``, or all."""
        return evaluate(self.lm, self.validation if indices is None else [self.validation[i] for i in indices])


@dataclass
class Trainer:
    """A run over one job folder.

    Attributes:
        directory: Where everything is written.
        hyperparameters: The numbers.
        objective: What is learnt.
        model: The model with its adapters.
        base_model: Name of the base, for the adapter's configuration.
        seed: Decides order and dropout.
        should_pause: Asked after every step.
    """

    directory: JobDirectory
    hyperparameters: ResolvedHyperparameters
    objective: Objective
    model: CausalModel
    base_model: str
    seed: int
    should_pause: Callable[[], bool] = lambda: False
    state: TrainerState = field(init=False)
    progress: Progress = field(init=False)
    total_steps: int = field(init=False)
    _last_reported_step: int = field(init=False, default=0)

    def run(self) -> bool:
        """Train to the end; ``False`` where the run was paused on the way."""
        optimizer = self._restore()
        per_epoch = self.hyperparameters.steps_per_epoch(len(self.objective.lengths))
        saved_at = started_at = time.monotonic()
        initial_tokens = self.state.trained_tokens
        for epoch in range(self.state.step // per_epoch, self.hyperparameters.n_epochs):
            batches = epoch_batches(
                self.objective.lengths, self.hyperparameters.batch_size, seed=self.seed, epoch=epoch
            )
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
        self.state = load_state(self.directory.resume, self.model, optimizer) or TrainerState(0, 0, [])
        self.total_steps = (
            self.hyperparameters.steps_per_epoch(len(self.objective.lengths)) * self.hyperparameters.n_epochs
        )
        self.progress = Progress(
            total_steps=self.total_steps, hyperparameters=self.hyperparameters.as_api(), step=self.state.step
        )
        self.directory.write_metrics(self.state.metrics)
        self._last_reported_step, messages = self.directory.last_reported()
        if "Fine-tuning job started" not in messages:
            self.directory.append_event("Fine-tuning job started")
        elif self.state.step:
            self.directory.append_event(f"Training goes on after step {self.state.step}/{self.total_steps}")
        self._write_progress("running")
        return optimizer

    def _train_step(self, optimizer: Optimizer, batch: list[int], *, full: bool) -> StepMetrics:
        """One optimizer step; dropout is seeded by the step, so that going on later changes nothing."""
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
        every = max(5, self.total_steps // VALIDATIONS_PER_RUN)
        if metrics.step % every and metrics.step != 1:
            return metrics
        first = metrics.step // every * VALIDATION_SAMPLE_ROWS
        stats = self.objective.validate(sorted({(first + i) % rows for i in range(min(rows, VALIDATION_SAMPLE_ROWS))}))
        return replace(metrics, valid_loss=_round(stats.mean_loss), valid_mean_token_accuracy=_round(stats.accuracy))

    def _report_step(self, metrics: StepMetrics, speed: float, elapsed_seconds: float) -> None:
        """Metrics event, CSV and progress of a step. Steps taken again after a kill are not told again."""
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
        self.progress.estimated_finish = int(time.time() + seconds_left) if elapsed_seconds > 1 else None
        self._write_progress("running")

    def _write_progress(self, status: str) -> None:
        self.progress.status = status
        self.progress.step = self.state.step
        self.progress.trained_tokens = self.state.trained_tokens
        self.directory.write_progress(self.progress)

    def _save_checkpoint(self, metrics: StepMetrics) -> None:
        with self.directory.checkpoint(metrics) as target:
            save_adapter(self.model, target, base_model=self.base_model)
        message = f"Checkpoint created at step {metrics.step}"
        if message not in self.directory.last_reported()[1]:
            self.directory.append_event(message, data={"step": metrics.step})
        self.directory.prune()

    def _save_state(self, optimizer: Optimizer) -> None:
        save_state(self.directory.resume, self.model, optimizer, self.state)


def _round(value: float) -> float:
    return round(value, 5)
