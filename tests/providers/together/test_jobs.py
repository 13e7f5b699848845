"""Jobs at Together: the full body, the key in the suffix, statuses, events, metrics, prices and weights."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ftpipe.errors import InvalidResponseError, NotFoundError, OutcomeUnknownError, RequestRefusedError
from ftpipe.providers.provider import Provider
from ftpipe.providers.weights_archive import extract_weights
from ftpipe.records import Hyperparameters, Job, JobRequest, Method, UploadedFile
from tests.fakes.openapi_check import OpenApiCheck
from tests.fakes.scripted_server import LOST, Fault, Request, refusal
from tests.fakes.together import BASE, DESCRIPTION, TogetherServer, weights_archive

KEY = "0123456789abcdef"


@pytest.fixture
def request_(server: TogetherServer, provider: Provider, tmp_path: Path) -> JobRequest:
    """A request for a job on a file that was checked."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"{}\n")
    file = provider.files.upload(path, filename="a.jsonl", on_bytes=lambda _done: None)
    provider.files.get(file.id)
    server.files[file.id]["processing_status"] = "COMPLETED"
    uploaded = UploadedFile(id=file.id, endpoint="e", sha256="0" * 64, bytes=3, filename="a.jsonl", created_at=0)
    return JobRequest(
        model=BASE,
        training_file=uploaded,
        hyperparameters=Hyperparameters(n_epochs=2, learning_rate=1e-4),
        suffix="support",
        seed=7,
    )


def test_create_states_every_field(server: TogetherServer, provider: Provider, request_: JobRequest) -> None:
    """The server takes an absent field for zero, so none is left out."""
    provider.jobs.create(request_, key=KEY)
    assert server.bodies[0] == {
        "training_file": "file-0001",
        "model": BASE,
        "n_epochs": 2,
        "n_evals": 0,
        "n_checkpoints": 1,
        "batch_size": "max",
        "learning_rate": 1e-4,
        "lr_scheduler": {"lr_scheduler_type": "cosine", "lr_scheduler_args": {"min_lr_ratio": 0.0, "num_cycles": 0.5}},
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "packing": True,
        "max_seq_length": 32768,
        "training_method": {"method": "sft", "train_on_inputs": "auto"},
        "training_type": {
            "type": "Lora",
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_trainable_modules": "q_proj,k_proj,v_proj,o_proj",
        },
        "suffix": "support-" + server.bodies[0]["suffix"][-10:],
        "random_seed": 7,
    }
    assert len(server.bodies[0]["suffix"]) <= 40


def test_create_preference_job_with_validation(
    server: TogetherServer, provider: Provider, request_: JobRequest
) -> None:
    """Without evaluations the host would ignore the validation file."""
    request = request_.model_copy(
        update={
            "method": Method.DPO,
            "validation_file": request_.training_file,
            "hyperparameters": Hyperparameters(
                n_epochs=3, beta=0.2, learning_rate=1e-5, lora_r=8, target_modules=("q_proj",), extra={"packing": False}
            ),
        }
    )
    provider.jobs.create(request, key=KEY)
    body = server.bodies[0]
    assert body["training_method"]["dpo_beta"] == 0.2
    assert (body["n_evals"], body["packing"], body["max_seq_length"]) == (3, False, 16384)
    assert (body["training_type"]["lora_r"], body["training_type"]["lora_trainable_modules"]) == (8, "q_proj")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_epochs": 21}, "epochs can be from 1 to 20"),
        ({"batch_size": 4}, "batch size can be from 8 to 32"),
        ({"batch_size": 64}, "batch size can be from 8 to 32"),
        ({"learning_rate": 0.5}, "learning rate can be from 1e-07 to 0.01"),
        ({"lora_r": 128}, "LoRA rank can be from 1 to 64"),
        ({"target_modules": ("gate_proj",)}, "not on gate_proj"),
        ({"extra": {"max_seq_length": 100_000}}, "sequence length"),
        ({"extra": {"pakcing": True}}, "pakcing"),
    ],
)
def test_hyperparameters_outside_limits_are_refused_before_upload(
    server: TogetherServer, provider: Provider, values: dict[str, object], message: str
) -> None:
    """By the limits that the host gives for the base."""
    with pytest.raises(RequestRefusedError, match=message):
        provider.jobs.check_can_create(BASE, hyperparameters=Hyperparameters.model_validate(values))
    assert set(server.calls) == {"GET /v1/fine-tunes/models/limits"}


def test_base_that_cannot_be_served_is_told_before_paying(server: TogetherServer, provider: Provider) -> None:
    """It is no reason to refuse: the adapter can be served elsewhere. Without an answer nothing is said."""
    assert provider.jobs.check_can_create(BASE).notice == ""
    server.is_servable = False
    assert "not be served there" in provider.jobs.check_can_create(BASE).notice
    server.always("GET /v2/supported-models", refusal(500))
    assert provider.jobs.check_can_create(BASE).notice == ""


def test_base_that_is_not_fine_tuned_is_refused(provider: Provider) -> None:
    """Its limits do not exist, and it is not in the list."""
    with pytest.raises(NotFoundError, match="does not fine-tune meta/none"):
        provider.jobs.check_can_create("meta/none")
    with pytest.raises(NotFoundError):
        provider.models.require_base("meta/none")
    provider.models.require_base("openai/gpt-oss-20b")


def test_lost_job_is_found_by_the_key_in_its_suffix(
    server: TogetherServer, provider: Provider, request_: JobRequest
) -> None:
    """There is neither metadata nor an idempotency key."""
    server.script("POST /v1/fine-tunes", LOST)
    with pytest.raises(OutcomeUnknownError):
        provider.jobs.create(request_, key=KEY)
    server.seed_job(suffix="support")
    assert [job.id for job in provider.jobs.find_by_key(KEY)] == ["ft-0001"]
    assert provider.jobs.find_by_key("another key") == []


def test_match_key_uses_the_output_name_if_the_suffix_is_not_shown(
    server: TogetherServer, provider: Provider, request_: JobRequest
) -> None:
    """A truncated job may lack it; before it has an output name nothing is known."""
    server.lists_suffix = False
    created = provider.jobs.create(request_, key=KEY)
    listed = next(provider.jobs.recent())
    assert provider.jobs.match_key(listed, KEY) is None
    server.statuses = ("completed",)
    job = provider.jobs.get(created.id).model_copy(update={"suffix": None})
    assert provider.jobs.match_key(job, KEY) is True
    assert provider.jobs.match_key(job, "another key") is False


@pytest.mark.parametrize(
    ("reported", "status", "is_finished"),
    [
        ("pending", "validating_files", False),
        ("queued", "queued", False),
        ("compressing", "running", False),
        ("uploading", "running", False),
        ("cancel_requested", "running", False),
        ("completed", "succeeded", True),
        ("cancelled", "cancelled", True),
        ("error", "failed", True),
        ("user_error", "failed", True),
        ("on_the_moon", "on_the_moon", False),
    ],
)
def test_job_status_is_translated(
    server: TogetherServer, provider: Provider, reported: str, status: str, *, is_finished: bool
) -> None:
    """An unknown word is neither running nor failed."""
    server.statuses = (reported,)
    job = provider.jobs.get(server.seed_job()["id"])
    assert (job.status, job.is_finished) == (status, is_finished)


def test_failed_job_has_the_message_of_its_last_error_event(server: TogetherServer, provider: Provider) -> None:
    """There is no error object."""
    server.statuses = ("user_error",)
    events = [
        {"type": "job_start", "level": "info", "message": "started"},
        {"type": "job_error", "level": "error", "message": "line 3 has no role"},
        {"type": "refund", "level": "info", "message": "refunded"},
    ]
    job = provider.jobs.get(server.seed_job(events=events)["id"])
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("user_error", "line 3 has no role")


def test_price_is_in_nano_dollars(server: TogetherServer, provider: Provider) -> None:
    """4,000,000,000 of them are 4 USD."""
    server.statuses = ("completed",)
    job = provider.jobs.get(server.seed_job(n_epochs=3)["id"])
    assert (job.price, job.trained_tokens) == (4.0, 1200)


def test_events_have_stable_ids_and_metrics(server: TogetherServer, provider: Provider) -> None:
    """Read twice they are the same; what is known is left out; metrics are events with their step."""
    server.statuses = ("running",)
    job_id = server.seed_job()["id"]
    provider.jobs.get(job_id)
    provider.jobs.get(job_id)
    first = provider.jobs.events(job_id)
    assert {event.id for event in first} == {event.id for event in provider.jobs.events(job_id)}
    assert provider.jobs.events(job_id, known=[event.id for event in first]) == []
    metrics = [event.data for event in first if event.type == "metrics"]
    assert {"step": 1, "valid_loss": 0.5} in metrics
    assert {"step": 2, "train_loss": 0.5} in metrics
    assert all(event.level in ("info", "warn", "error") for event in first)


def test_events_without_metrics_are_events_still(server: TogetherServer, provider: Provider) -> None:
    """A job is polled without its curves rather than not at all."""
    job_id = server.seed_job()["id"]
    provider.jobs.get(job_id)
    server.always("GET /v1/fine-tunes/{id}/metrics", refusal(404))
    assert [event.type for event in provider.jobs.events(job_id)] == ["message"]


def test_checkpoints_are_by_step(server: TogetherServer, provider: Provider) -> None:
    """Model and adapter of a step are one."""
    job_id = server.seed_job()["id"]
    assert [one.model for one in provider.jobs.checkpoints(job_id)] == [f"{job_id}:4", f"{job_id}:8"]


def test_cancel_delete_and_pause(server: TogetherServer, provider: Provider) -> None:
    """A job is never paused there, and says so before anything is sent."""
    job_id = server.seed_job()["id"]
    provider.jobs.cancel(job_id)
    assert provider.jobs.get(job_id).status == "cancelled"
    with pytest.raises(RequestRefusedError, match="cannot pause"):
        provider.jobs.pause(job_id)
    provider.jobs.delete(job_id)
    assert server.jobs == {}


def test_quote_reads_the_estimate(server: TogetherServer, provider: Provider, request_: JobRequest) -> None:
    """Also that there is none, and that the account does not allow the job."""
    quote = provider.jobs.quote(request_)
    assert quote is not None
    assert (quote.price, quote.tokens, quote.allowed) == (4.0, 1200, True)
    server.is_allowed = False
    refused = provider.jobs.quote(request_)
    assert refused is not None
    assert (refused.allowed, refused.why) == (False, "the account's limit is 25 USD")
    server.price = None
    unknown = provider.jobs.quote(request_)
    assert unknown is not None
    assert (unknown.price, unknown.why) == (None, "no price for this base")


@pytest.mark.parametrize(
    "body", [b"[]", b'{"data": 3}', b'{"id": 3, "status": "queued"}', b'{"id": "ft-1"}', b"{", b""]
)
def test_broken_job_is_a_typed_error(server: TogetherServer, provider: Provider, body: bytes) -> None:
    """Nothing of it is stored."""
    job_id = server.seed_job()["id"]
    server.always("GET /v1/fine-tunes/{id}", Fault(body=body))
    with pytest.raises(InvalidResponseError):
        provider.jobs.get(job_id)


@pytest.mark.needs("zstandard")
def test_weights_are_downloaded_and_extracted(server: TogetherServer, provider: Provider, tmp_path: Path) -> None:
    """The adapter's files, from a presigned address that gets no key."""
    job_id = server.seed_job()["id"]
    folder = tmp_path / "adapter"
    folder.mkdir()
    seen: list[tuple[int, int | None]] = []
    files = provider.jobs.download_weights(job_id, folder, on_bytes=lambda done, total: seen.append((done, total)))
    names = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert sorted(file.relative_to(folder).as_posix() for file in files) == names
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == names
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.needs("zstandard")
@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a/ev\nil", ".hidden/../../x"])
def test_weights_with_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    """Nothing is written outside the folder."""
    archive, folder = tmp_path / "weights", tmp_path / "folder"
    folder.mkdir()
    archive.write_bytes(weights_archive({name: b"x"}))
    with pytest.raises(InvalidResponseError):
        extract_weights(archive, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "weights"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_weights_with_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """Only plain files are extracted."""
    archive, folder = tmp_path / "weights", tmp_path / "folder"
    folder.mkdir()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        member = tarfile.TarInfo("adapter_config.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    archive.write_bytes(raw.getvalue())
    with pytest.raises(InvalidResponseError):
        extract_weights(archive, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.realsize"])
def test_weights_with_broken_extended_headers_are_refused(tmp_path: Path, name: str) -> None:
    """``tarfile`` raises ``ValueError`` for them."""
    archive, folder = tmp_path / "weights", tmp_path / "folder"
    folder.mkdir()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("adapter_config.json")
        member.pax_headers = {name: "1,x"}
        tar.addfile(member)
    archive.write_bytes(raw.getvalue())
    with pytest.raises(InvalidResponseError):
        extract_weights(archive, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a/" * 2000 + "x", "folders"])
def test_weights_with_too_many_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In each other, or beside each other: a small archive can have millions."""
    monkeypatch.setattr("ftpipe.providers.weights_archive.MAX_FILES", 20)
    archive, folder = tmp_path / "weights", tmp_path / "folder"
    folder.mkdir()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for number in range(21) if name == "folders" else ():
            member = tarfile.TarInfo(f"folder{number}")
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("x" if name == "folders" else name))
    archive.write_bytes(raw.getvalue())
    with pytest.raises(InvalidResponseError):
        extract_weights(archive, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.needs("zstandard")
@pytest.mark.parametrize("cut", [0, 1, 20, -8])
def test_weights_that_are_cut_off_are_an_error(tmp_path: Path, cut: int) -> None:
    """Not an adapter without its end."""
    archive, folder = tmp_path / "weights", tmp_path / "folder"
    folder.mkdir()
    archive.write_bytes(weights_archive({"adapter_config.json": b"x" * 5000})[:cut])
    with pytest.raises(InvalidResponseError):
        extract_weights(archive, folder)


def test_description_check_finds_what_is_not_described(server: TogetherServer) -> None:
    """Check of the check: an unknown field, a wrong type, a missing field, an unknown parameter and path."""
    check = OpenApiCheck(DESCRIPTION)

    def problems(route: str, path: str, body: bytes, **query: str) -> list[str]:
        return check.problems(Request(route, [], path, query, body, {"content-type": "application/json"}))

    create, path = "POST /v1/fine-tunes", "/v1/fine-tunes"
    assert problems(create, path, b'{"model": "m", "training_file": "f"}') == []
    assert len(problems(create, path, b'{"model": "m", "training_file": "f", "metadata": {}}')) == 1
    assert len(problems(create, path, b'{"model": "m"}')) == 1
    assert len(problems(create, path, b'{"model": "m", "training_file": "f", "n_epochs": "3"}')) == 1
    assert len(problems(create, path, b'{"model": "m", "training_file": "f", "lr_scheduler": "cosine"}')) == 1
    assert len(problems("GET /v1/fine-tunes", path, b"", limit="3")) == 1
    assert len(problems("GET /v1/none", "/v1/none", b"")) == 1
    server.violations.clear()


def test_job_record_survives_its_json(server: TogetherServer, provider: Provider) -> None:
    """The registry stores it."""
    server.statuses = ("completed",)
    job = provider.jobs.get(server.seed_job()["id"])
    assert Job.model_validate_json(job.model_dump_json()) == job
