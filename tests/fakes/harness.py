"""A user's folder, a fake endpoint and a clock: what the tests of stages, pipeline and sweeps start from."""

from __future__ import annotations

from pathlib import Path

from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.pipeline.preflight import Plan
from ftpipe.providers.provider import Provider
from ftpipe.records import Dataset, Event, Job, JobRequest, Run, UploadedFile
from ftpipe.registry import Registry
from ftpipe.registry.database import open_engine
from ftpipe.stages.create_job import CreateJob
from ftpipe.stages.poll import PollJob
from ftpipe.stages.upload import UploadDataset
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import MODEL, dataset_at, provider_over, report_of, spec_of

UPLOADED = UploadedFile(id="file-1", endpoint="e", sha256="0" * 64, bytes=1, filename="a.jsonl", created_at=0)
REQUEST = JobRequest(model=MODEL, training_file=UPLOADED, suffix="support")


class SimulatedCrash(BaseException):
    """SIGKILL: no line after this one is executed, and no code of ftpipe catches it."""


class Harness:
    """One user's folder over one fake endpoint.

    Args:
        folder: Where the dataset and the registry are.
        profile: Changes to the endpoint's profile.
    """

    def __init__(self, folder: Path, **profile: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.profile = profile
        self.client = FakeOpenAI()
        self.clock = Clock()
        self.dataset = dataset_at(folder / "a.jsonl")
        self.validation = dataset_at(folder / "v.jsonl", b'{"messages": [1]}\n')
        self.spec = spec_of(self.dataset, validation=self.validation)
        self.report = report_of(self.dataset, validation=self.validation)
        self.registry = self.open_registry()
        self.messages: list[str] = []
        self.events: list[Event] = []

    def open_registry(self, name: str = "registry.db") -> Registry:
        """The registry in a file of the folder, as a new process would open it."""
        return Registry(open_engine(str(self.folder / name)), self.clock)

    @property
    def provider(self) -> Provider:
        """A provider over the client, with the profile as it is now."""
        return provider_over(self.client, self.clock, **self.profile)

    def create(self, key: str = "key-1") -> Job:
        """Run the create stage as the pipeline does."""
        return CreateJob(
            REQUEST,
            key=key,
            run_id="run-1",
            provider=self.provider,
            journal=self.registry.journal,
            on_status=self.messages.append,
            sleep=self.clock.sleep,
            clock=self.clock,
        ).run()

    def operation_state(self, key: str = "key-1") -> str:
        """The state of a paid call in the journal."""
        operation = self.registry.journal.find(key)
        return operation.state.value if operation else "none"

    def upload(self, dataset: Dataset | None = None) -> UploadedFile:
        """Run the upload stage as the pipeline does."""
        return UploadDataset(
            dataset or self.dataset, self.provider, self.registry, sleep=self.clock.sleep, clock=self.clock
        ).run()

    def poll(self, *statuses: str, timeout: float | None = None) -> Job:
        """Run the poll stage on a job that goes through these statuses."""
        self.client.statuses = list(statuses)
        job_id = self.client.seed_job().id
        job = Job(
            id=job_id,
            endpoint="e",
            provider="openai",
            status="queued",
            model="m",
            training_file="f",
            created_at=0,
        )
        return PollJob(
            job,
            self.provider,
            timeout=timeout,
            on_events=self.events.extend,
            on_status=self.messages.append,
            sleep=self.clock.sleep,
            clock=self.clock,
        ).run()

    def pipeline(self, observer: PipelineObserver | None = None) -> Pipeline:
        """A pipeline with its own registry connection, as a new process would open it."""
        return Pipeline(
            provider=self.provider,
            registry=self.open_registry(),
            observer=observer,
            sleep=self.clock.sleep,
            clock=self.clock,
        )

    def plan(self) -> Plan:
        """The plan for spec and report as they are now."""
        return self.pipeline().plan_for(self.spec, self.report)

    def train(self, observer: PipelineObserver | None = None, *, force_new: bool = False) -> Run:
        """Run everything from the plan to the model, as a new process."""
        pipeline = self.pipeline(observer)
        return pipeline.advance(pipeline.start(self.plan(), force_new=force_new))
