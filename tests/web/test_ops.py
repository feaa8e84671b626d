"""For those who watch: /healthz, /readyz, /metrics."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app import metrics, queue
from app.config import settings
from app.database import db, transaction
from app.federation.identity import ensure_identity
from app.protocol.states import DeliveryState
from app.reports import health
from tests.exchange import make_scene
from tests.reports.rows import add_delivery, add_event


def test_the_process_answers_whatever_else_is_missing(make_app: Callable[..., Flask]) -> None:
    client = make_app(REDIS_URL="redis://127.0.0.1:1/0").test_client()

    answer = client.get("/healthz")

    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_an_instance_with_all_its_parts_is_ready(client: FlaskClient) -> None:
    queue.beat()

    answer = client.get("/readyz")

    assert (answer.status_code, answer.json["status"], answer.json["missing"]) == (200, "ready", [])
    assert [check["name"] for check in answer.json["checks"]] == ["database", "redis", "migrations", "worker"]


def test_a_missing_worker_is_named(client: FlaskClient) -> None:
    answer = client.get("/readyz")

    assert (answer.status_code, answer.json["missing"]) == (503, ["worker"])


def test_missing_redis_is_named(make_app: Callable[..., Flask]) -> None:
    client = make_app(REDIS_URL="redis://127.0.0.1:1/0").test_client()

    answer = client.get("/readyz")

    assert (answer.status_code, answer.json["missing"]) == (503, ["redis", "worker"])


def test_a_database_behind_the_code_is_named(client: FlaskClient) -> None:
    queue.beat()
    with transaction():
        db.session.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))

    answer = client.get("/readyz")

    assert (answer.status_code, answer.json["missing"]) == (503, ["migrations"])
    assert "0000" in answer.json["checks"][2]["detail"]


def test_the_doctor_names_what_to_do(app: Flask) -> None:
    checks = {check["name"]: check for check in health.doctor()}

    assert checks["database"]["ok"]
    assert not checks["identity"]["ok"]
    assert "flask init" in checks["identity"]["fix"]
    assert all(check["ok"] or check["fix"] for check in checks.values())


def test_the_doctor_finds_keys_of_another_secret(make_app: Callable[..., Flask]) -> None:
    first = make_app()
    with first.app_context():
        ensure_identity(settings())
        url = settings().database_url
    second = make_app(DATABASE_URL=url, SECRET_KEY="quite another secret key")

    with second.app_context():
        [check] = [check for check in health.doctor() if check["name"] == "identity"]

    assert not check["ok"]
    assert "SECRET_KEY" in check["fix"]


def test_the_doctor_finds_what_waits_for_a_person(app: Flask) -> None:
    scene = make_scene()
    with transaction():
        scene.connection.hold_code = "access_denied"

    [check] = [check for check in health.doctor() if check["name"] == "holds"]

    assert not check["ok"]
    assert scene.connection.public_id in check["detail"]


def test_the_doctor_goes_on_without_redis_and_tables(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    bare = make_app(REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=url, BASE_URL="http://a.example")

    with bare.app_context():
        failed = {check["name"] for check in health.doctor() if not check["ok"]}

    assert failed == {
        "database",
        "redis",
        "migrations",
        "worker",
        "identity",
        "settings",
        "queues",
        "address",
        "clocks",
        "peers",
        "holds",
        "paused",
    }


def test_metrics_leave_out_what_cannot_be_read(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    client = make_app(REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=url).test_client()

    answer = client.get("/metrics")

    shown = {line.split("{")[0].split()[0] for line in answer.text.splitlines() if line[:1] != "#"}
    assert answer.status_code == 200
    assert shown == {"tidings_check_ok", "tidings_disk_free_bytes"}
    assert 'tidings_check_ok{check="database"} 0.0' in answer.text.splitlines()


def test_a_database_that_is_away_is_named(make_app: Callable[..., Flask]) -> None:
    away = make_app(DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/none")
    client = away.test_client()

    ready = client.get("/readyz")
    called = client.get("/api/v1/federation/connections", headers={"Authorization": "Bearer tdg_x"})

    assert (ready.status_code, ready.json["missing"]) == (503, ["database", "migrations", "worker"])
    assert (called.status_code, called.json["code"]) == (503, "overloaded")
    assert called.headers["Retry-After"] == "5"


def test_the_doctor_sends_nobody_to_init_for_a_database_that_is_away(make_app: Callable[..., Flask]) -> None:
    away = make_app(DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/none")

    with away.app_context():
        fixes = {check["name"]: check["fix"] for check in health.doctor()}

    assert fixes["identity"] == fixes["holds"] == "Mend the database first."


def test_metrics_count_requests_and_show_what_waits(app: Flask, client: FlaskClient) -> None:
    metrics.start(settings().data_dir / "metrics", fresh=True)
    scene = make_scene()
    queue.beat()
    for state in (DeliveryState.PENDING, DeliveryState.DEAD):
        add_delivery(add_event(scene.workspace.id), scene.connection, state=state)
    client.get("/healthz")

    answer = client.get("/metrics")
    text = answer.get_data(as_text=True)

    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    for line in (
        'tidings_http_requests_total{endpoint="ops.healthz",status="200"} 1.0',
        'tidings_http_request_seconds_count{endpoint="ops.healthz"} 1.0',
        'tidings_connections{status="active"} 1.0',
        'tidings_deliveries_open{status="pending"} 1.0',
        'tidings_deliveries_open{status="dead"} 1.0',
        "tidings_workers 1.0",
        'tidings_check_ok{check="redis"} 1.0',
        'tidings_queue_jobs{queue="deliveries"} 0.0',
        'tidings_connections_ailing{kind="breaker"} 0.0',
    ):
        assert line in text.splitlines()


@pytest.fixture(autouse=True)
def unshared_metrics() -> object:
    """Metrics of one test stay out of the next."""
    yield
    metrics.stop()
