"""The form that starts a run: its fields, the plan that they make, and the command that does the same."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from ftpipe.catalog.trainable_bases import hosted_bases, local_bases
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.config import FLAGS, Settings, load
from ftpipe.errors import FtpipeError, UsageError
from ftpipe.formatting import format_money
from ftpipe.modeling.base_models import DEFAULT_BASE
from ftpipe.modeling.device import has_accelerator
from ftpipe.paths import models_dir
from ftpipe.pipeline.preflight import Plan, local_base, make_plan, spec_of_config
from ftpipe.pipeline.training_estimates import estimate_run, require_memory
from ftpipe.providers.profiles import Profile
from ftpipe.records import Method, Run, RunState
from ftpipe.records.idempotency_keys import run_key
from ftpipe.records.trainable_base import TrainableBase
from ftpipe.records.training_estimate import TrainingEstimate
from ftpipe.stages.count import count
from ftpipe.training.hyperparameters import DEFAULT_CONTEXT, resolve_hyperparameters
from ftpipe.ui.datasets.check_result import CheckResult
from ftpipe.ui.datasets.checks import CheckRequest, TaskState
from ftpipe.ui.datasets.files import DatasetFile
from ftpipe.ui.fields import FormFields
from ftpipe.ui.project import Project

T = TypeVar("T")
HYPERPARAMETERS = {flag.removeprefix("--").replace("-", "_"): key for key, flag in FLAGS.items()}
"""Field of the form → key of the configuration."""
SETTINGS = ("model", "method", "suffix", "seed", "max_cost")
FILES = ("data", "validation", "evaluate")
GRADER = "grader"
LABELS = {
    "epochs": "Epochs",
    "batch_size": "Batch size",
    "learning_rate_multiplier": "Learning rate multiplier",
    "beta": "Beta",
    "learning_rate": "Learning rate",
    "lora_rank": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "target_modules": "Layers with an adapter",
    "max_length": "Maximum tokens of a row",
    "precision": "Precision",
    "quantization": "Quantization of the base model",
    "gradient_checkpointing": "Gradient checkpointing",
    "compute_multiplier": "Answers to each prompt, as a factor",
    "max_completion_tokens": "Maximum tokens of an answer",
    "eval_interval": "Steps between evaluations",
    "eval_samples": "Answers to each validation row",
}
MAX_AGE_SECONDS = 60.0
"""How long a list of base models, or an estimate, is used."""
MAX_CACHED_VALUES = 32
UNKNOWN_PARAMETERS = 135_000_000
MAX_ESTIMATED_BYTES = 32 * 1024 * 1024
"""Size of a file whose rows are read for an estimate of memory and time; the command that starts reads any file."""


class TrainingForm(FormFields):
    """What was chosen; an empty field leaves the choice to the configuration or the provider."""

    NAMES = ("provider", *FILES, GRADER, *SETTINGS, *HYPERPARAMETERS)
    MAX_CHARACTERS = 400


class TrainingPlan:
    """What a form asks for, worked out as far as the check of the data allows.

    Args:
        project: The project.
        form: The form.
        wait_seconds: How long to wait for the check.

    Raises:
        FtpipeError: A field is wrong, or a file does not exist.
    """

    def __init__(self, project: Project, form: TrainingForm, *, wait_seconds: float = 0) -> None:
        self.form = form
        self._project, self._datasets = project, project.datasets
        self.profile: Profile = self._datasets.profile(form["provider"])
        self.data, self.validation, self.test = (self._file(name) for name in FILES)
        self.grader = project.graders.get(form[GRADER]) if form[GRADER] else None
        self.settings = self._load_settings()
        self.bases = bases_of(self.settings, self.profile)
        self.check: CheckResult | TaskState | None = None
        if self.data is not None:
            self.check = self._datasets.tasks.check(self._check_request(self.data), wait_seconds=wait_seconds)

    def _file(self, name: str) -> DatasetFile | None:
        return self._datasets.files.get(self.form[name]) if self.form[name] else None

    def _load_settings(self) -> Settings:
        """The configuration, with the fields as ``ftpipe train`` takes its options."""
        flags: dict[str, object] = {name: self.form[name] or None for name in SETTINGS}
        flags |= {key: self.form[name] or None for name, key in HYPERPARAMETERS.items()}
        flags |= {"provider": self.profile.name, "validation": self.validation.path if self.validation else None}
        flags["grader"] = self.grader.fields if self.grader else None
        return load(self._project.settings.path, env=os.environ, flags=flags, folder=self._project.folder)

    @property
    def requested_model(self) -> str:
        """The base model as it is requested."""
        return self.settings.config.model or self.profile.default_model

    @property
    def model(self) -> str:
        """The base model that is trained: on this machine another one in the place of a hosted one."""
        return local_base(self.requested_model, self.profile) or self.requested_model

    @property
    def base(self) -> TrainableBase | None:
        """What is known of the base model."""
        return next((base for base in self.bases if base.name == self.model), None)

    def _check_request(self, data: DatasetFile) -> CheckRequest:
        validation = self.settings.config.validation
        return CheckRequest.for_model(data.path, self.settings, self.profile, validation=validation, for_job=True)

    @cached_property
    def plan(self) -> Plan | None:
        """The plan, as the command line makes it; ``None`` until the data are checked."""
        if not isinstance(self.check, CheckResult) or self.data is None:
            return None
        config, profile = self.settings.config, self.profile
        epochs = config.hyperparameters.n_epochs
        report = count(
            self.check.report,
            model=self.model,
            epochs=epochs if isinstance(epochs, int) else None,
            prices=PriceTable.load(config.prices, target=profile.target),
        )
        spec = spec_of_config(
            config,
            provider=profile.name,
            report=report,
            data=self.data.path,
            validation=config.validation,
            model=self.model,
            requested_model=self.requested_model if self.model != self.requested_model else None,
        )
        today = datetime.now(UTC).date()
        return make_plan(spec, report, profile=profile, today=today, max_cost=config.max_cost)

    @cached_property
    def existing_run(self) -> Run | None:
        """The run that has this plan already: the same data with the same settings are one run."""
        plan = self.plan
        if plan is None:
            return None
        report, runs = plan.report, self._project.registry.runs
        same_data = [run for run in runs.recent() if run.dataset_sha256 == report.dataset.sha256]
        for endpoint in dict.fromkeys(run.endpoint for run in same_data if run.spec.provider == plan.spec.provider):
            key = run_key(
                plan.spec,
                endpoint=endpoint,
                dataset_sha256=report.dataset.sha256,
                validation_sha256=report.validation.sha256 if report.validation else None,
            )
            earlier = runs.with_key(key)
            if earlier and earlier[-1][1].state not in (RunState.FAILED, RunState.DELETED):
                return earlier[-1][1]
        return None

    @property
    def resolved(self) -> dict[str, str]:
        """The values that ``auto`` stands for, by the names of the fields, as far as they are known."""
        plan = self.plan
        if plan is None:
            return {}
        if self.profile.target != "local":
            epochs = plan.cost.epochs if plan.cost else None
            return {"epochs": f"about {epochs}"} if epochs and self.profile.chooses_epochs else {}
        return self._resolved_here(plan)

    def _resolved_here(self, plan: Plan) -> dict[str, str]:
        requested = plan.spec.hyperparameters.model_dump(exclude={"extra"}, exclude_none=True)
        try:
            values = resolve_hyperparameters(
                {**requested, **plan.spec.hyperparameters.extra},
                examples=plan.report.dataset.examples,
                parameters=self.base.parameters or UNKNOWN_PARAMETERS if self.base else UNKNOWN_PARAMETERS,
                max_context=(self.base.context if self.base else None) or DEFAULT_CONTEXT,
                on_accelerator=has_accelerator(),
                method=(plan.spec.method or Method.SUPERVISED).value,
            )
        except FtpipeError:
            return {}
        shown = {
            "epochs": f"{values.n_epochs}",
            "batch_size": f"{values.batch_size}",
            "learning_rate_multiplier": f"{values.learning_rate_multiplier:g}",
            "learning_rate": f"{values.learning_rate:.3g}",
            "lora_rank": f"{values.lora_r}",
            "lora_alpha": f"{values.lora_alpha}",
            "lora_dropout": f"{values.lora_dropout:g}",
            "target_modules": ", ".join(values.target_modules),
            "max_length": f"{values.max_length}",
        }
        return shown if values.beta is None else {**shown, "beta": f"{values.beta:g}"}

    @cached_property
    def estimate(self) -> TrainingEstimate | None:
        """Memory and time on this machine, as the command line estimates them; ``None`` if they are not known."""
        plan = self.plan
        if plan is None or plan.blockers or plan.report.dataset.bytes > MAX_ESTIMATED_BYTES:
            return None
        key = (plan.report.dataset.sha256, plan.spec.model_dump_json())
        return _estimates.get(key, lambda: estimate_run(self.settings, plan.spec, plan.report))

    @property
    def blocker(self) -> FtpipeError | None:
        """Why the run cannot start; ``None`` if it can."""
        if self.plan is not None and self.plan.blockers:
            return self.plan.blockers[0]
        try:
            if self.estimate is not None:
                require_memory(self.estimate)
        except FtpipeError as exc:
            return exc
        return None

    @property
    def steps(self) -> int | None:
        """Optimizer steps on this machine; ``None`` if they are not known."""
        resolved, plan = self.resolved, self.plan
        if plan is None or "batch_size" not in resolved:
            return None
        return math.ceil(plan.report.dataset.examples / int(resolved["batch_size"])) * int(resolved["epochs"])

    @property
    def price(self) -> str:
        """The price that the button names; empty if it is free, ``unknown`` if nobody knows it."""
        cost = self.plan.cost if self.plan else None
        if not self.profile.paid:
            return ""
        if cost is None or cost.expected is None or cost.high is None:
            return "unknown"
        return (
            f"about {format_money(cost.expected, cost.currency)}, at most {format_money(self.max_cost, cost.currency)}"
        )

    @property
    def max_cost(self) -> float | None:
        """What the job may cost at most: the user's limit, or the high end of the estimate."""
        cost, limit = self.plan.cost if self.plan else None, self.settings.config.max_cost
        if not self.profile.paid or cost is None or cost.high is None:
            return limit
        high = math.ceil(cost.high * 100) / 100
        return high if limit is None else min(limit, high)

    def arguments(self) -> list[str]:
        """The command that does the same; ``--yes`` is not part of it.

        Raises:
            UsageError: There is no dataset.
        """
        if self.data is None:
            raise UsageError("no dataset was chosen", "choose one")
        words = ["train", "--provider", self.profile.name]
        for name, file in (("validation", self.validation), ("evaluate", self.test), (GRADER, self.grader)):
            if file is not None:
                words += [f"--{name}", self._shown_path(file.path)]
        for name in (*SETTINGS, *HYPERPARAMETERS):
            value = self.form[name]
            if name == "max_cost":
                value = f"{self.max_cost:g}" if self.max_cost is not None else ""
            if value:
                words += ["--" + name.replace("_", "-"), value]
        path = self._shown_path(self.data.path)
        return [*words, *(["--"] if path.startswith("-") else []), path]

    def _shown_path(self, path: Path) -> str:
        try:
            return str(path.relative_to(self._project.folder.absolute()))
        except ValueError:
            return str(path)


class ExpiringCache(Generic[T]):
    """Keeps values for a minute: base models are downloaded and deleted, and memory is taken and freed."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, str], tuple[float, T]] = OrderedDict()

    def get(self, key: tuple[str, str], make: Callable[[], T]) -> T:
        """The value of a key, which is made if there is none or it is too old."""
        known = self._values.get(key)
        if known is not None and time.monotonic() - known[0] < MAX_AGE_SECONDS:
            return known[1]
        value = make()
        self._values[key] = (time.monotonic(), value)
        if len(self._values) > MAX_CACHED_VALUES:
            self._values.popitem(last=False)
        return value


_estimates = ExpiringCache[TrainingEstimate | None]()
_bases = ExpiringCache[Sequence[TrainableBase]]()


def bases_of(settings: Settings, profile: Profile) -> Sequence[TrainableBase]:
    """The base models of a provider, as ``ftpipe models bases`` lists them; those that were shut down are left out."""
    return _bases.get((profile.name, repr(settings.config.prices)), lambda: _list_bases(settings, profile))


def _list_bases(settings: Settings, profile: Profile) -> Sequence[TrainableBase]:
    prices = PriceTable.load(settings.config.prices, target=profile.target)
    if profile.target == "local":
        return local_bases(models_dir(), prices, default=profile.default_model or DEFAULT_BASE)
    today = datetime.now(UTC).date().isoformat()
    hosted = hosted_bases(
        profile.name,
        profile.target,
        prices,
        default=profile.default_model,
        last_day_to_create=profile.last_day_to_create,
    )
    return [base for base in hosted if base.last_day is None or base.last_day >= today]
