"""The list of models, one model, and what moves an alias, exports and deletes."""

from __future__ import annotations

import datetime as dt

import pytest
from starlette.testclient import TestClient

from ftpipe.records import Model
from ftpipe.registry import Registry
from ftpipe.ui.project import Project
from tests.reports.xss_payloads import PAYLOADS, hostile
from tests.ui import seeds
from tests.ui.conftest import SAME_ORIGIN, csrf_of
from tests.ui.html import active_parts

ALIAS = "support@production"


def registered(registry: Registry, number: int = 1) -> Model:
    """A model that a run has trained."""
    model = seeds.succeeded_run(registry, number).model
    assert model is not None
    return model


def post(client: TestClient, path: str, model: Model, **data: str) -> tuple[int, str]:
    """Send a form as a page does; status, and location or text."""
    values = {"csrf": csrf_of(client), "name": model.id, "endpoint": model.endpoint, **data}
    answer = client.post(path, data=values, headers=SAME_ORIGIN)
    return answer.status_code, answer.headers.get("location", answer.text)


def test_models_empty_says_where_they_come_from(client: TestClient) -> None:
    assert "There is no model yet" in client.get("/models").text


def test_models_shows_aliases_first_and_what_stops_soon(client: TestClient, registry: Registry) -> None:
    first, second = registered(registry, 1), registered(registry, 2)
    registry.models.set_alias(ALIAS, first.id)
    registry.models.set_alias(ALIAS, second.id, reason="fewer wrong labels")
    day = (dt.datetime.now(dt.UTC).date() + dt.timedelta(days=17)).isoformat()
    ending = second.model_copy(update={"id": "ft:ending", "base_shutdown_date": day, "job_id": "ftjob-ending"})
    later = second.model_copy(update={"id": "ft:later", "base_shutdown_date": "2099-01-01", "job_id": "ftjob-later"})
    registry.models.add(ending)
    registry.models.add(later)
    text = client.get("/models").text
    notice = text.partition("will stop within 60 days")[2].partition("</section>")[0]
    assert "ft:<wbr>ending" in notice
    assert "in 17 days" in notice
    assert "later" not in notice
    assert text.index(">Aliases<") < text.index(">All models<")
    assert "fewer wrong labels" in text
    assert "Move back" in text


def test_models_pages(client: TestClient, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftpipe.ui.pages.models.MODELS_PER_PAGE", 2)
    model = registered(registry)
    for number in range(3):
        registry.models.add(model.model_copy(update={"id": f"ft:{number}", "job_id": f"ftjob-{number}"}))
    assert "Page 1 of 2" in client.get("/models").text
    assert "Page 2 of 2" in client.get("/models?page=2").text


def test_model_shows_where_it_comes_from(client: TestClient, registry: Registry) -> None:
    model = registered(registry)
    registry.models.set_alias(ALIAS, model.id, reason="the first one")
    text = client.get("/models/show", params={"name": model.id, "endpoint": model.endpoint}).text
    for part in ("abababababab", "ftjob-", "file-1", ALIAS, "the first one", "1.25 USD", "ckpt-step-20", "/runs/run-"):
        assert part in text, part
    assert client.get("/models/show?name=unknown").status_code == 400


def test_alias_move_shows_old_and_new_and_keeps_the_reason(client: TestClient, registry: Registry) -> None:
    first, second = registered(registry, 1), registered(registry, 2)
    registry.models.set_alias(ALIAS, first.id)
    page = client.get("/models/alias", params={"name": second.id, "alias": ALIAS}).text
    assert page.index("support-1") < page.index("support-2")
    assert "No evaluation has compared these two models" in page
    status, _ = post(client, "/models/alias", second, alias=ALIAS, old=first.id, reason="better")
    assert status == 303
    assert registry.models.aliases() == {ALIAS: second.id}
    assert registry.models.alias_history(ALIAS)[-1].reason == "better"


def test_alias_move_refuses_if_it_was_moved_meanwhile(client: TestClient, registry: Registry) -> None:
    first, second = registered(registry, 1), registered(registry, 2)
    registry.models.set_alias(ALIAS, second.id)
    status, text = post(client, "/models/alias", first, alias=ALIAS, old=first.id)
    assert status == 400
    assert "moved meanwhile" in text
    assert registry.models.aliases() == {ALIAS: second.id}


def test_alias_of_job_name_is_refused(client: TestClient, registry: Registry) -> None:
    assert post(client, "/models/alias", registered(registry), alias="ftjob-1", old="")[0] == 400
    assert registry.models.aliases() == {}


def test_deletion_needs_answers(client: TestClient, registry: Registry) -> None:
    model = registered(registry)
    registry.models.set_alias(ALIAS, model.id)
    assert "gone for good" in client.get("/models/delete", params={"name": model.id}).text
    assert post(client, "/models/delete", model, scope="registry")[0] == 400, "an alias points to it"
    assert post(client, "/models/delete", model, aliases="yes")[0] == 400, "it was not said where"
    assert registry.models.count() == 1
    status, location = post(client, "/models/delete", model, aliases="yes", scope="registry")
    assert (status, location) == (303, "/models")
    assert registry.models.count() == 0


def test_export_starts_command(client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(type(project.commands), "start", lambda _self, words, *, title: started.append(words))
    model = registered(project.registry)
    assert post(client, "/models/export", model, format="gguf")[0] == 303
    assert started == [["models", "export", "--gguf", "--", model.id]]
    assert post(client, "/models/export", model, format="--push-to-hub")[0] == 400
    hosted = model.model_copy(update={"id": "ft:hosted", "provider": "openai", "endpoint": "https://x"})
    project.registry.models.add(hosted)
    assert post(client, "/models/export", hosted, format="gguf")[0] == 400


@pytest.mark.parametrize("payload", PAYLOADS)
def test_models_hostile_text_is_inert(client: TestClient, registry: Registry, payload: str) -> None:
    text = payload.encode("utf-8", "replace").decode()
    evaluation, context = hostile(text)
    model = next(iter(context.models.values())).model_copy(update={"created_at": 1, "checkpoints": ()})
    registry.models.add(model)
    registry.evaluations.save(evaluation)
    name = text if text.strip() == text else "alias"
    registry.models.set_alias(name, model.id, reason=text)
    query = {"name": model.id, "endpoint": model.endpoint}
    pages = [
        client.get("/models"),
        client.get("/models/show", params=query),
        client.get("/models/alias", params={**query, "alias": text}),
        client.get("/models/delete", params=query),
    ]
    assert [page.status_code for page in pages] == [200] * 4
    assert [active_parts(page.text) for page in pages] == [[]] * 4
