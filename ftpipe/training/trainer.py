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
from ftpipe.training.lora import save_adapter, trained_parameters
from ftpipe.training.loss import MOST_TOKENS, LossStats, accumulate_gradients, score

SAVE_INTERVAL_S = 30.0
"""Seconds of work that a kill costs at most, besides those since the last epoch."""
VALIDATIONS = 10
"""How often a run looks at a sample of the validation rows."""
VALIDATION_SAMPLE = 8
"""Rows of that sample."""


class Objective(Protocol):
    """What is learnt: supervised or preference."""

    def backward(self, indices: Sequence[int], of: Sequence[int] | None = None) -> LossStats:
        """Add the gradient of rows, which may be a share of the batch ``of``; scored before the step."""

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

    def backward(self, indices: Sequence[int], of: Sequence[int] | None = None) -> LossStats:
        """Add the gradient of rows of the batch ``of``, in parts that fit into memory; scored before the step."""
        batch = [self.examples[index] for index in indices]
        of_tokens = sum(self.examples[index].trained for index in (indices if of is None else of))
        return sum(
            (accumulate_gradients(self.lm, part, of_tokens=of_tokens) for part in micro_batches(batch, MOST_TOKENS)),
            LossStats(),
        )

    def as_json(self) -> dict[str, Any]:
        """The rows, for a process that shares the work."""
        return {"examples": [e.as_json() for e in self.examples], "validation": [e.as_json() for e in self.validation]}

    @classmethod
    def from_json(cls, lm: LanguageModel, row: Mapping[str, Any]) -> SupervisedObjective:
        """The objective that ``as_json`` told of, on another process's model."""
        return cls(lm, *([Example.from_json(pair) for pair in row[name]] for name in ("examples", "validation")))

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Score the validation rows at ``indices``, or all."""
        return score(self.lm, self.validation if indices is None else [self.validation[i] for i in indices])


@dataclass
class Trainer:
    """A run over one job folder.

    Attributes:
        folder: Where everything is written.
        plan: The numbers.
        objective: What is learnt.
        model: The model with its adapters.
        base: Name of the base, for the adapter's configuration.
        seed: Decides order and dropout.
        pause_wanted: Asked after every step.
    """

    folder: JobDirectory
    plan: ResolvedHyperparameters
    objective: Objective
    model: CausalModel
    base: str
    seed: int
    pause_wanted: Callable[[], bool] = lambda: False
    reached: TrainerState = field(init=False)
    progress: Progress = field(init=False)
    total: int = field(init=False)
    _told: int = field(init=False, default=0)

    def run(self) -> bool:
        """Train to the end; ``False`` where the run was paused on the way."""
        optimizer = self._start()
        per_epoch = self.plan.steps_per_epoch(len(self.objective.lengths))
        saved_at = started_at = time.monotonic()
        began_with = self.reached.trained_tokens
        for epoch in range(self.reached.step // per_epoch, self.plan.n_epochs):
            batches = epoch_batches(self.objective.lengths, self.plan.batch_size, seed=self.seed, epoch=epoch)
            for place, batch in enumerate(
                batches[self.reached.step - epoch * per_epoch :], self.reached.step % per_epoch
            ):
                last = place + 1 == per_epoch
                metrics = self._step(optimizer, batch, full=last)
                speed = (self.reached.trained_tokens - began_with) / max(1e-9, time.monotonic() - started_at)
                self._report_step(metrics, speed, time.monotonic() - started_at)
                if last:
                    self._checkpoint(metrics)
                pausing = self.pause_wanted() and self.reached.step < self.total
                if last or pausing or time.monotonic() - saved_at > SAVE_INTERVAL_S:
                    self._save(optimizer)
                    saved_at = time.monotonic()
                if pausing:
                    self._write_progress("paused")
                    return False
        return True

    def _start(self) -> Optimizer:
        import torch

        parameters = [tensor for _, tensor in trained_parameters(self.model)]
        optimizer = torch.optim.AdamW(parameters, lr=self.plan.learning_rate, weight_decay=0.0)
        self.reached = load_state(self.folder.resume, self.model, optimizer) or TrainerState(0, 0, [])
        self.total = self.plan.steps_per_epoch(len(self.objective.lengths)) * self.plan.n_epochs
        self.progress = Progress(total_steps=self.total, hyperparameters=self.plan.public(), step=self.reached.step)
        self.folder.write_metrics(self.reached.metrics)
        self._told, messages = self.folder.last_reported()
        if "Fine-tuning job started" not in messages:
            self.folder.event("Fine-tuning job started")
        elif self.reached.step:
            self.folder.event(f"Training goes on after step {self.reached.step}/{self.total}")
        self._write_progress("running")
        return optimizer

    def _step(self, optimizer: Optimizer, batch: list[int], *, full: bool) -> StepMetrics:
        """One optimizer step; dropout is seeded by the step, so that going on later changes nothing."""
        import torch

        step = self.reached.step + 1
        torch.manual_seed(self.seed * 1_000_003 + step)
        self.model.train()
        scored = self.objective.backward(batch)
        parameters = [tensor for _, tensor in trained_parameters(self.model)]
        torch.nn.utils.clip_grad_norm_(parameters, self.plan.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(step, self.total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics = StepMetrics(step, _rounded(scored.mean_loss), _rounded(scored.accuracy))
        metrics = self._validated(metrics, full=full)
        self.reached.step = step
        self.reached.trained_tokens += sum(self.objective.lengths[index] for index in batch)
        self.reached.metrics.append(metrics)
        return metrics

    def _validated(self, metrics: StepMetrics, *, full: bool) -> StepMetrics:
        rows = self.objective.validation_rows
        if not rows:
            return metrics
        if full:
            scored = self.objective.validate(None)
            loss, accuracy = _rounded(scored.mean_loss), _rounded(scored.accuracy)
            return replace(
                metrics,
                valid_loss=loss,
                valid_mean_token_accuracy=accuracy,
                full_valid_loss=loss,
                full_valid_mean_token_accuracy=accuracy,
            )
        every = max(5, self.total // VALIDATIONS)
        if metrics.step % every and metrics.step != 1:
            return metrics
        first = metrics.step // every * VALIDATION_SAMPLE
        scored = self.objective.validate(sorted({(first + i) % rows for i in range(min(rows, VALIDATION_SAMPLE))}))
        return replace(
            metrics, valid_loss=_rounded(scored.mean_loss), valid_mean_token_accuracy=_rounded(scored.accuracy)
        )

    def _report_step(self, metrics: StepMetrics, speed: float, spent_s: float) -> None:
        """Metrics event, CSV and progress of a step. Steps taken again after a kill are not told again."""
        if metrics.step > self._told:
            said = [f"training loss={metrics.train_loss:.2f}"]
            if metrics.valid_loss is not None:
                said.append(f"validation loss={metrics.valid_loss:.2f}")
            if metrics.full_valid_loss is not None:
                said.append(f"full validation loss={metrics.full_valid_loss:.2f}")
            data = {**metrics.known(), "total_steps": self.total, "tokens_per_second": round(speed, 1)}
            self.folder.event(f"Step {metrics.step}/{self.total}: {', '.join(said)}", kind="metrics", data=data)
            self._told = metrics.step
        self.folder.write_metrics(self.reached.metrics)
        all_tokens = sum(self.objective.lengths) * self.plan.n_epochs
        left = (all_tokens - self.reached.trained_tokens) / max(1e-9, speed)
        self.progress.tokens_per_second = round(speed, 1)
        self.progress.estimated_finish = int(time.time() + left) if spent_s > 1 else None
        self._write_progress("running")

    def _write_progress(self, status: str) -> None:
        self.progress.status = status
        self.progress.step = self.reached.step
        self.progress.trained_tokens = self.reached.trained_tokens
        self.folder.write_progress(self.progress)

    def _checkpoint(self, metrics: StepMetrics) -> None:
        with self.folder.checkpoint(metrics) as target:
            save_adapter(self.model, target, base=self.base)
        message = f"Checkpoint created at step {metrics.step}"
        if message not in self.folder.last_reported()[1]:
            self.folder.event(message, data={"step": metrics.step})
        self.folder.prune()

    def _save(self, optimizer: Optimizer) -> None:
        save_state(self.folder.resume, self.model, optimizer, self.reached)


def _rounded(value: float) -> float:
    return round(value, 5)
