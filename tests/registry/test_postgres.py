"""The registry on a real PostgreSQL: the same end as on SQLite, also when it restarts in the middle of everything."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ftpipe.errors import LocalStateError
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import RunState
from ftpipe.registry import open_registry
from tests.fakes.scripted_server import LOST
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import ONE_OF_EACH, FaultEnvironment, provider_at
from tests.registry.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.needs("psycopg")]


def test_postgres_run_ends_as_on_sqlite(pg_environment: FaultEnvironment) -> None:
    """Run, file, job, events, metrics, model, cost and alias are there, also after a lost answer."""
    pg_environment.endpoint.script("POST /fine_tuning/jobs", LOST)
    run = pg_environment.train()
    assert run.state == RunState.REGISTERED
    assert pg_environment.counts() == ONE_OF_EACH
    registry = open_registry(pg_environment.url)
    model = registry.models.set_alias("support@production", "ftjob-0001", reason="first")
    assert registry.models.get("support@production").id == model.id
    assert registry.models.alias_history("support@production")[0].to_model == model.id
    assert [metric.step for metric in registry.jobs.metrics("ftjob-0001")] == [1, 2, 3, 4]
    assert registry.runs.latest() == registry.runs.find("ftjob-0001")
    registry.close()


def test_postgres_concurrent_first_open(postgres: PostgresServer) -> None:
    """The tables are made once, however many come first."""
    url, errors = postgres.url(), list[BaseException]()

    def open_it() -> None:
        try:
            open_registry(url).close()
        except LocalStateError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_postgres_shared_registry_pays_once(endpoint: FaultEndpoint, tmp_path: Path, postgres: PostgresServer) -> None:
    """Row 22: the same data from several machines at once: one creates, the others wait for it and attach."""
    url = postgres.url()
    benches = [FaultEnvironment(tmp_path / str(number), endpoint, registry_url=url) for number in range(5)]
    ends: list[RunState] = []
    threads = [threading.Thread(target=lambda b=environment: ends.append(b.train().state)) for environment in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [RunState.REGISTERED] * 5
    assert benches[0].counts() == ONE_OF_EACH
    for environment in benches:
        environment.close()


@pytest.mark.parametrize("route", ["POST /files", "POST /fine_tuning/jobs", "GET /fine_tuning/jobs/{id}"])
def test_postgres_restart_during_run_loses_nothing(
    pg_environment: FaultEnvironment, postgres: PostgresServer, route: str
) -> None:
    """Row 48: killed and started again while a call is under way: the run goes on, or resume ends it; one job."""
    restarts: list[str] = []

    def restart(called: str) -> None:
        if called == route and not restarts:
            restarts.append(called)
            postgres.stop()
            threading.Timer(0.4, postgres.start).start()

    pg_environment.endpoint.after = restart
    try:
        run = pg_environment.train()
    except LocalStateError as error:
        assert "resume" in error.hint
        time.sleep(1.5)
        run = pg_environment.resume()
    assert run.state == RunState.REGISTERED
    assert pg_environment.counts() == ONE_OF_EACH
    assert pg_environment.endpoint.calls["POST /fine_tuning/jobs"] == 1


def test_postgres_unreachable_server_is_reported(tmp_path: Path, endpoint: FaultEndpoint) -> None:
    """Nobody listens: exit 6 with a next step, and no password in the message."""
    with pytest.raises(LocalStateError) as caught:
        open_registry("postgresql://me:s3cret-word@127.0.0.1:9/none?connect_timeout=1")
    assert caught.value.exit_code == 6
    assert "s3cret-word" not in f"{caught.value.message} {caught.value.hint}"


def test_postgres_missing_database_is_not_retried(postgres: PostgresServer) -> None:
    """A wrong name will not become right: no patience is spent on it."""
    started = time.monotonic()
    with pytest.raises(LocalStateError, match="does not exist"):
        open_registry(postgres.url() + "x")
    assert time.monotonic() - started < 3


def test_postgres_lock_is_released_with_connection(pg_environment: FaultEnvironment) -> None:
    """Row 23: a connection that ends, however it ends, holds nothing."""
    registry, other = pg_environment.registry, open_registry(pg_environment.url)
    waited: list[bool] = []
    with registry.lock("run"):
        thread = threading.Thread(target=lambda: _enter(other, waited))
        thread.start()
        time.sleep(0.3)
        assert waited == [True]
        with other.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            holders = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            connection.exec_driver_sql(holders)
        thread.join(60)
        assert not thread.is_alive()
    other.close()


def _enter(registry: object, waited: list[bool]) -> None:
    from ftpipe.registry import Registry

    if isinstance(registry, Registry):
        with registry.lock("run", on_wait=lambda: waited.append(True)):
            pass


def test_postgres_pipeline_takes_registry_url(pg_environment: FaultEnvironment) -> None:
    """Nothing in the pipeline knows which database it is."""
    pipeline = Pipeline(provider=provider_at(pg_environment.endpoint.base_url), registry=pg_environment.registry)
    assert pipeline.registry.engine.dialect.name == "postgresql"
