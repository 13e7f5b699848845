"""Responses of an endpoint are checked before anything is stored; profiles and providers are opened by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import AuthenticationError, ConfigError, InvalidResponseError, OutcomeUnknownError
from ftpipe.providers import find_profile, load_profiles, open_provider
from ftpipe.providers.jobs import JobsClient
from ftpipe.providers.responses import event_of, file_of, job_of, metric_of
from ftpipe.records import Hyperparameters, JobRequest, Method, UploadedFile
from tests.fakes.openai_client import FakeOpenAI, Fault
from tests.fakes.records import MODEL, provider_over

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FILE = UploadedFile(id="file-1", endpoint="e", sha256="0" * 64, bytes=1, filename="a.jsonl", created_at=0)
REQUEST = JobRequest(model=MODEL, training_file=FILE)


@given(JSON)
def test_job_of_any_json_returns_job_or_invalid_response(answer: object) -> None:
    """No body, however broken, raises anything else or becomes a job without an id."""
    try:
        job = job_of(answer, endpoint="e", provider="openai")
    except InvalidResponseError:
        return
    assert job.id


OPTIONAL = ["method", "hyperparameters", "error", "metadata", "result_files", "seed"]


@given(st.dictionaries(st.sampled_from(OPTIONAL), JSON))
def test_job_of_accepts_odd_optional_fields(odd: dict[str, object]) -> None:
    """Hosts put nulls, words and numbers where objects were promised; the id and status still count."""
    try:
        job = job_of({"id": "ftjob-1", "status": "running", **odd}, endpoint="e", provider="openai")
    except (InvalidResponseError, AttributeError, TypeError):
        pytest.fail("an optional field broke the job")
    assert job.status == "running"


def test_job_of_error_object_of_nulls_is_none() -> None:
    """OpenAI sends one on healthy jobs."""
    fields = {"id": "ftjob-1", "status": "running", "error": {"code": None, "message": None, "param": None}}
    assert job_of(fields, endpoint="e", provider="openai").error is None


def test_job_of_success_without_model_is_not_finished() -> None:
    """The name comes a little later than the status."""
    job = job_of({"id": "ftjob-1", "status": "succeeded"}, endpoint="e", provider="openai")
    assert not job.is_finished


def test_job_of_unknown_status_is_not_finished() -> None:
    """Azure has ``pending`` and ``paused``; tomorrow there are others."""
    job = job_of({"id": "ftjob-1", "status": "pondering"}, endpoint="e", provider="openai")
    assert not job.is_finished


@pytest.mark.parametrize(
    ("status", "own", "shown"),
    [
        ("queued", {"paused": True, "reason": "requested"}, "paused"),
        ("queued", {"paused": "yes"}, "queued"),
        ("queued", 5, "queued"),
        ("succeeded", {"paused": True}, "succeeded"),
    ],
)
def test_job_that_ftpipe_server_has_paused_is_paused(status: str, own: object, shown: str) -> None:
    """Its status is one of OpenAI's, which has no such word."""
    job = job_of({"id": "ftjob-1", "status": status, "x_ftpipe": own}, endpoint="e", provider="local")
    assert job.status == shown


def test_metric_of_omits_values_that_are_not_finite() -> None:
    """NaN, infinity and words are gaps, not zeros."""
    found = metric_of({"step": 3, "train_loss": float("nan"), "valid_loss": "low", "full_valid_loss": 0.5})
    assert found is not None
    assert (found.train_loss, found.valid_loss, found.full_valid_loss) == (None, None, 0.5)


def test_metric_of_omits_number_that_no_float_can_hold() -> None:
    found = metric_of({"step": 3, "train_loss": 10**400, "valid_loss": 0.5})
    assert found is not None
    assert (found.train_loss, found.valid_loss) == (None, 0.5)


@pytest.mark.parametrize("broken", ["<html>", None, {}, {"id": None}, {"id": "../../etc"}, {"id": ""}, []])
def test_jobs_create_broken_response_is_unknown(broken: object) -> None:
    """The SDK hands over text, nothing or an object without an id; the job may exist all the same."""
    client = FakeOpenAI()
    client.fail_next("jobs.create", Fault(response=broken, executed=True))
    with pytest.raises(OutcomeUnknownError):
        provider_over(client).jobs.create(REQUEST, key="k")
    assert client.calls["jobs.create"] == 1


@pytest.mark.parametrize("parse", [file_of, event_of])
def test_file_and_event_without_id_are_invalid(parse: object) -> None:
    """Files and events need one too."""
    with pytest.raises(InvalidResponseError):
        parse({"bytes": 3})  # type: ignore[operator]  # one of two functions


def body_of(request: JobRequest, **profile: Any) -> dict[str, Any]:
    jobs = provider_over(FakeOpenAI(), **profile).jobs
    assert isinstance(jobs, JobsClient)
    return jobs.body(request, key="k")


def test_jobs_body_places_hyperparameters_by_profile() -> None:
    """Under ``method`` for OpenAI, at the top level for hosts that know only that."""
    request = REQUEST.model_copy(update={"hyperparameters": REQUEST.hyperparameters.model_copy(update={"n_epochs": 3})})
    modern = body_of(request)
    assert modern["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    top = body_of(request, hyperparameters_at="top", metadata_stored=False)
    assert top["hyperparameters"] == {"n_epochs": 3}
    assert "metadata" not in top
    assert "method" not in top


def test_jobs_local_hyperparameters_are_sent_and_read_back() -> None:
    """With the names of peft, next to those of OpenAI; a list of layers stays a list."""
    chosen = Hyperparameters(learning_rate=1e-3, lora_r=8, lora_alpha=16, lora_dropout=0.0, target_modules=("q_proj",))
    request = REQUEST.model_copy(update={"hyperparameters": chosen})
    body = body_of(request, target="local")
    sent = body["method"]["supervised"]["hyperparameters"]
    assert sent == {
        "learning_rate": 1e-3, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj"]
    }  # fmt: skip
    response = {"id": "ftjob-1", "status": "running", "method": body["method"], "hyperparameters": {"n_epochs": 2}}
    assert job_of(response, endpoint="e", provider="local").resolved == chosen.model_copy(update={"n_epochs": 2})


def test_jobs_events_are_oldest_first() -> None:
    """And those that are known are not told again."""
    client = FakeOpenAI()
    job = client.seed_job()
    provider = provider_over(client)
    for _ in range(3):
        provider.jobs.get(job.id)
    first = provider.jobs.events(job.id)
    assert [event.data["step"] for event in first] == [1, 2, 3]
    assert provider.jobs.events(job.id, known=[event.id for event in first]) == []


def test_find_profile_suggests_closest_name() -> None:
    """A typing error is answered with the name that was meant."""
    with pytest.raises(ConfigError) as caught:
        find_profile("opnai")
    assert "'openai'" in caught.value.hint


def test_load_profiles_suggests_closest_key() -> None:
    """The same for a key of a profile."""
    with pytest.raises(ConfigError) as caught:
        load_profiles({"mine": {"base_ulr": "http://127.0.0.1/v1"}})
    assert "base_url" in caught.value.hint


def test_open_provider_without_key_names_variable() -> None:
    """And the way without a key."""
    with pytest.raises(AuthenticationError) as caught:
        open_provider("openai", env={})
    assert "OPENAI_API_KEY" in caught.value.message
    assert "--provider local" in caught.value.hint


def test_open_provider_without_base_url_names_setting() -> None:
    """Its base URL has the resource's name in it, so nobody can guess it."""
    with pytest.raises(ConfigError) as caught:
        open_provider("azure", env={"AZURE_OPENAI_API_KEY": "k"})
    assert "AZURE_OPENAI_BASE_URL" in caught.value.hint


def test_provider_endpoint_never_contains_key() -> None:
    """Ids are valid for those, and a new key must find the old files."""
    env = {"OPENAI_API_KEY": "sk-canary", "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-1"}
    assert open_provider("openai", env=env).endpoint == "https://api.openai.com/v1#org-1/proj-1"


def test_profiles_are_complete() -> None:
    """Each has a target and a method, and its end dates are dates."""
    for profile in load_profiles().values():
        assert profile.methods
        assert (Method.SUPERVISED in profile.methods) == (profile.name != "bedrock")  # which has reinforcement only
        assert profile.default_model
