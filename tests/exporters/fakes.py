"""Fakes of wandb, mlflow and trackio that store runs in memory.

They accept the same arguments as wandb 0.31, mlflow-skinny 3.17 and trackio 0.43, and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass
class WandbRun:
    """A run of the fake W&B."""

    config: dict[str, Any]
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    finished: int = 0
    offline: bool = True
    dir: str = "wandb/offline-run-1/files"
    url: str = ""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Existing steps are ignored, as W&B does."""
        if step > max(self.history, default=-1):
            self.history[step] = dict(values)

    def log_artifact(self, artifact: WandbArtifact) -> None:
        """Store a file."""
        self.artifacts.append(artifact.file)

    def finish(self) -> None:
        """End the run."""
        self.finished += 1


@dataclass
class WandbArtifact:
    """A file at the fake W&B."""

    name: str
    type: str
    metadata: dict[str, str]
    file: str = ""

    def add_file(self, path: str, *, name: str) -> None:
        """Add a file."""
        assert Path(path).is_file()
        self.file = name


class FakeWandb:
    """The package ``wandb``."""

    class Error(Exception):
        """Its base error."""

    Artifact = WandbArtifact

    def __init__(self, *, has_key: bool = True) -> None:
        self.runs: dict[str, WandbRun] = {}
        self.init_arguments: list[dict[str, Any]] = []
        self._has_key = has_key

    def Settings(self, *, silent: bool, console: str) -> dict[str, Any]:  # the name in that package
        """Its settings."""
        return {"silent": silent, "console": console}

    def init(self, *, id: str, config: dict[str, Any], **arguments: Any) -> WandbRun:  # the name in that package
        """Start a run, or continue it."""
        if not self._has_key:
            raise self.Error("api_key not configured (no-tty)")
        assert arguments.keys() == {"project", "name", "group", "job_type", "tags", "resume", "reinit", "settings"}
        self.init_arguments.append(arguments)
        return self.runs.setdefault(id, WandbRun(config))


class FakeMlflow:
    """The package ``mlflow``, its own client and entities."""

    class exceptions:  # the name in that package
        """Its errors."""

        class MlflowException(Exception):  # the name in that package
            """Its base error."""

    entities = SimpleNamespace(
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
        RunTag=lambda key, value: SimpleNamespace(key=key, value=value),
        Metric=lambda key, value, timestamp, step: SimpleNamespace(
            key=key, value=value, timestamp=timestamp, step=step
        ),
    )

    def __init__(self, *, is_up: bool = True) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: list[Any] = []
        self.metrics: list[Any] = []
        self.files: list[str] = []
        self.ended: Counter[str] = Counter()
        self.batches: list[int] = []
        self._is_up = is_up

    def get_tracking_uri(self) -> str:
        """The tracking server."""
        return "sqlite:///mlflow.db"

    def MlflowClient(self) -> FakeMlflow:  # the name in that package
        """Its client."""
        if not self._is_up:
            raise self.exceptions.MlflowException("connection\nrefused")
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        """An experiment, if there is one."""
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        """A new experiment."""
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def search_runs(self, experiments: list[str], *, filter_string: str, max_results: int) -> list[Any]:
        """Runs by their tag."""
        run_id = filter_string.partition("= ")[2].strip("'")
        return [run for run in self.runs if run.tags["ftpipe.id"] == run_id][:max_results]

    def create_run(self, experiment: str, *, run_name: str, tags: dict[str, str]) -> Any:
        """A new run."""
        data = SimpleNamespace(params={})
        self.runs.append(SimpleNamespace(info=SimpleNamespace(run_id=f"r{len(self.runs)}"), data=data, tags=tags))
        return self.runs[-1]

    def log_batch(self, run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        """At most 1,000 metrics and 100 of the others; a parameter never changes."""
        assert (len(metrics) <= 1000, len(params) <= 100, len(tags) <= 100) == (True, True, True)
        run = next(run for run in self.runs if run.info.run_id == run_id)
        for param in params:
            if run.data.params.setdefault(param.key, param.value) != param.value:
                raise self.exceptions.MlflowException(f"changing {param.key} is not allowed")
        run.tags |= {tag.key: tag.value for tag in tags}
        self.metrics += metrics
        self.batches.append(len(metrics))

    def log_artifact(self, run_id: str, path: str) -> None:
        """Store a file."""
        assert Path(path).is_file()
        self.files.append(path)

    def set_terminated(self, run_id: str) -> None:
        """End the run."""
        self.ended[run_id] += 1


class FakeTrackio:
    """The package ``trackio``."""

    def __init__(self, *, has_space: bool = True) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self._current: dict[str, Any] = {}
        self._has_space = has_space

    def Api(self) -> FakeTrackio:  # the name in that package
        """The API to stored runs."""
        return self

    def runs(self, project: str) -> list[Any]:
        """The runs of an existing project."""
        if not self.stored:
            raise ValueError(f"Project '{project}' does not exist")
        return [SimpleNamespace(name=name, delete=lambda name=name: self.stored.pop(name)) for name in self.stored]

    def init(self, *, name: str, config: dict[str, Any], **arguments: Any) -> None:
        """Start a run; two runs can have the same name."""
        assert arguments.keys() == {"project", "group", "embed", "auto_log_gpu", "auto_log_cpu"}
        if not self._has_space:
            raise OSError(28, "No space left on device")
        assert name not in self.stored
        self._current = self.stored[name] = {"config": config, "steps": [], "files": []}

    def log(self, values: dict[str, float], *, step: int) -> None:
        """One step."""
        self._current["steps"].append((step, values))

    def log_artifact(self, path: Path, *, name: str, type: str) -> None:  # the name in that package
        """Store a file."""
        assert path.is_file()
        self._current["files"].append(name)

    def finish(self) -> None:
        """End the run."""
        self._current = {}
