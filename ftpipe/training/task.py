"""What every process that trains a job needs to know, and the training itself in one of these processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ftpipe.grading.python_grader import run_python
from ftpipe.modeling.base_models import download_base, resolve_base
from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import enable_gradient_checkpointing, load_adapter, load_base, use_fused_kernels
from ftpipe.modeling.types import CausalModel
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.dpo import DPOObjective, Pair
from ftpipe.training.grader_chats import ServerModels
from ftpipe.training.hyperparameters import DEFAULT_BETA, DEFAULT_COMPLETION_TOKENS, ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.lora import add_adapter
from ftpipe.training.loss import Objective, SupervisedObjective
from ftpipe.training.parallel import ALONE, ParallelModel, Rank
from ftpipe.training.reinforcement import Prompt, ReinforcementTrainer
from ftpipe.training.rewards import RewardFunction
from ftpipe.training.rollouts import AnswerSampler
from ftpipe.training.trainer import Report, Trainer, TrainingLoop

Rows: TypeAlias = Sequence[Example] | Sequence[Pair] | Sequence[Prompt]
ROW_CLASSES: dict[str, type[Example] | type[Pair] | type[Prompt]] = {
    "supervised": Example,
    "dpo": Pair,
    "reinforcement": Prompt,
}
"""Method → what a row of its data is."""


@dataclass(frozen=True)
class TrainingTask:
    """A job with its data read and its hyperparameters resolved.

    Attributes:
        method: ``supervised``, ``dpo`` or ``reinforcement``.
        base_model: Name of the base, as ``resolve_base`` takes it.
        models_dir: The models directory.
        device_config: Device and precision.
        hyperparameters: The resolved hyperparameters.
        seed: Decides the order of rows and dropout.
        training: The training rows: examples, pairs for DPO, or prompts for reinforcement.
        validation: The validation rows.
        required_bytes: Memory that a process needs which has the whole base.
        state_file: What an earlier run saved, if it exists.
        initial_adapter: Directory of the adapter that training starts from; ``None`` for a new one.
        grader: Scores the answers in reinforcement, in OpenAI's JSON.
        allow_python_graders: Whether it may run code.
    """

    method: str
    base_model: str
    models_dir: Path
    device_config: DeviceConfig
    hyperparameters: ResolvedHyperparameters
    seed: int
    training: Rows
    validation: Rows
    required_bytes: int
    state_file: Path
    initial_adapter: Path | None = None
    grader: dict[str, Any] | None = None
    allow_python_graders: bool = False

    def as_json(self) -> dict[str, Any]:
        """All fields, for another process."""
        return {
            "method": self.method,
            "base_model": self.base_model,
            "models_dir": str(self.models_dir),
            "device_config": asdict(self.device_config),
            "hyperparameters": self.hyperparameters.as_json(),
            "seed": self.seed,
            "training": [row.to_json() for row in self.training],
            "validation": [row.to_json() for row in self.validation],
            "required_bytes": self.required_bytes,
            "state_file": str(self.state_file),
            "initial_adapter": None if self.initial_adapter is None else str(self.initial_adapter),
            "grader": self.grader,
            "allow_python_graders": self.allow_python_graders,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingTask:
        """The task that ``as_json`` described."""
        row_class = ROW_CLASSES[data["method"]]
        rows: dict[str, Any] = {
            name: [row_class.from_json(row) for row in data[name]] for name in ("training", "validation")
        }
        return cls(
            method=data["method"],
            base_model=data["base_model"],
            models_dir=Path(data["models_dir"]),
            device_config=DeviceConfig(**data["device_config"]),
            hyperparameters=ResolvedHyperparameters.from_json(data["hyperparameters"]),
            seed=data["seed"],
            required_bytes=data["required_bytes"],
            state_file=Path(data["state_file"]),
            initial_adapter=Path(data["initial_adapter"]) if data["initial_adapter"] else None,
            grader=data["grader"],
            allow_python_graders=data["allow_python_graders"],
            **rows,
        )

    def objective(self) -> Objective:
        """What this task minimizes."""
        if self.method == "dpo":
            pairs, validation = ([row for row in rows if isinstance(row, Pair)] for rows in self._rows)
            return DPOObjective(pairs, self.hyperparameters.beta or DEFAULT_BETA, validation)
        examples, others = ([row for row in rows if isinstance(row, Example)] for rows in self._rows)
        return SupervisedObjective(examples, others)

    def prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """The training and the validation rows of reinforcement."""
        training, validation = ([row for row in rows if isinstance(row, Prompt)] for rows in self._rows)
        return training, validation

    @property
    def _rows(self) -> tuple[Sequence[Any], Sequence[Any]]:
        return self.training, self.validation


def train(
    task: TrainingTask,
    rank: Rank = ALONE,
    should_pause: Callable[[], bool] = lambda: False,
    *,
    fetch_base: bool = False,
) -> Iterator[Report]:
    """Train a task in this process, one of those that train it; all must consume their reports.

    Args:
        task: What to train.
        rank: Which process this is; its process group exists already.
        should_pause: Called after every step.
        fetch_base: Whether to download the base if it is missing: on another machine of the operator's cluster. The
            machine of the server has it, so its use is allowed.
    """
    get_base_dir = download_base if fetch_base else resolve_base
    hyperparameters = task.hyperparameters
    base_dir = get_base_dir(task.base_model, models_dir=task.models_dir)
    base = load_base(base_dir, task.device_config)
    has_fused_kernels = use_fused_kernels(base, task.device_config)
    sampler = _answer_sampler(task, base, base_dir) if task.method == "reinforcement" else None
    if task.initial_adapter is None:
        model = add_adapter(base, hyperparameters, seed=task.seed)
    else:
        model = load_adapter(base, task.initial_adapter, trainable=True)
    if hyperparameters.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    lm = LanguageModel(model, micro_batch_tokens=hyperparameters.micro_batch_tokens)
    loop: dict[str, Any] = {
        "hyperparameters": hyperparameters,
        "model": ParallelModel(lm, rank),
        "base_model": task.base_model,
        "seed": task.seed,
        "should_pause": should_pause,
        "notes": tuple(_notes(has_fused_kernels=has_fused_kernels, sampler=sampler)),
    }
    trainer: TrainingLoop
    if sampler is None:
        trainer = Trainer(**loop, objective=task.objective())
    else:
        prompts, validation = task.prompts()
        models = ServerModels(JobDirectory.of_state(task.state_file))
        reward = RewardFunction(task.grader or {}, models.ask, run_python if task.allow_python_graders else None)
        trainer = ReinforcementTrainer(**loop, prompts=prompts, validation=validation, sampler=sampler, reward=reward)
    yield from trainer.run(task.state_file)


def _answer_sampler(task: TrainingTask, base: CausalModel, base_dir: Path) -> AnswerSampler:
    return AnswerSampler(
        base,
        base_dir,
        task.device_config,
        folder=JobDirectory.of_state(task.state_file).policy_dir,
        max_tokens=task.hyperparameters.max_completion_tokens or DEFAULT_COMPLETION_TOKENS,
    )


def _notes(*, has_fused_kernels: bool, sampler: AnswerSampler | None) -> Iterator[str]:
    """What the job's first start says about how it trains."""
    if has_fused_kernels:
        yield "Liger kernels compute norms, rotations and gates"
    if sampler is not None and not sampler.is_batched:
        yield "Answers are sampled one after the other: this base has no batched decoder here"
