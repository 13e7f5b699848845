"""The parts of wandb, mlflow and trackio that are called, each over a small memory.

They take what wandb 0.31, mlflow-skinny 3.17 and trackio 0.43 take, and no other keyword.
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
    """A run at the fake W&B."""

    config: dict[str, Any]
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    finished: int = 0
    offline: bool = True
    dir: str = "wandb/offline-run-1/files"
    url: str = ""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Steps that are there are not taken twice, as the real one says."""
        if step > max(self.history, default=-1):
            self.history[step] = dict(values)

    def log_artifact(self, artifact: WandbArtifact) -> None:
        """Keep a file."""
        self.artifacts.append(artifact.file)

    def finish(self) -> None:
        """The run is over."""
        self.finished += 1


@dataclass
class WandbArtifact:
    """A file at the fake W&B."""

    name: str
    type: str
    metadata: dict[str, str]
    file: str = ""

    def add_file(self, path: str, *, name: str) -> None:
        """Put a file in."""
        assert Path(path).is_file()
        self.file = name


class FakeWandb:
    """The package ``wandb``."""

    class Error(Exception):
        """Its base error."""

    Artifact = WandbArtifact

    def __init__(self, *, has_key: bool = True) -> None:
        self.runs: dict[str, WandbRun] = {}
        self.asked: list[dict[str, Any]] = []
        self._has_key = has_key

    def Settings(self, *, silent: bool, console: str) -> dict[str, Any]:  # its own name
        """Its settings."""
        return {"silent": silent, "console": console}

    def init(self, *, id: str, config: dict[str, Any], **asked: Any) -> WandbRun:  # its own name
        """Begin a run, or go on with one."""
        if not self._has_key:
            raise self.Error("api_key not configured (no-tty)")
        assert asked.keys() == {"project", "name", "group", "job_type", "tags", "resume", "reinit", "settings"}
        self.asked.append(asked)
        return self.runs.setdefault(id, WandbRun(config))


class FakeMlflow:
    """The package ``mlflow``, its own client and entities."""

    class exceptions:  # its own name
        """Its errors."""

        class MlflowException(Exception):  # its own name
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
        """Where it keeps things."""
        return "sqlite:///mlflow.db"

    def MlflowClient(self) -> FakeMlflow:  # its own name
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
        wanted = filter_string.partition("= ")[2].strip("'")
        return [run for run in self.runs if run.tags["ftpipe.id"] == wanted][:max_results]

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
        """Keep a file."""
        assert Path(path).is_file()
        self.files.append(path)

    def set_terminated(self, run_id: str) -> None:
        """The run is over."""
        self.ended[run_id] += 1


class FakeTrackio:
    """The package ``trackio``."""

    def __init__(self, *, has_room: bool = True) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self._current: dict[str, Any] = {}
        self._has_room = has_room

    def Api(self) -> FakeTrackio:  # its own name
        """Its look at what is stored."""
        return self

    def runs(self, project: str) -> list[Any]:
        """The runs of a project that is there."""
        if not self.stored:
            raise ValueError(f"Project '{project}' does not exist")
        return [SimpleNamespace(name=name, delete=lambda name=name: self.stored.pop(name)) for name in self.stored]

    def init(self, *, name: str, config: dict[str, Any], **asked: Any) -> None:
        """Begin a run; there can be two of one name."""
        assert asked.keys() == {"project", "group", "embed", "auto_log_gpu", "auto_log_cpu"}
        if not self._has_room:
            raise OSError(28, "No space left on device")
        assert name not in self.stored
        self._current = self.stored[name] = {"config": config, "steps": [], "files": []}

    def log(self, values: dict[str, float], *, step: int) -> None:
        """One step."""
        self._current["steps"].append((step, values))

    def log_artifact(self, path: Path, *, name: str, type: str) -> None:  # its own name
        """Keep a file."""
        assert path.is_file()
        self._current["files"].append(name)

    def finish(self) -> None:
        """The run is over."""
        self._current = {}
