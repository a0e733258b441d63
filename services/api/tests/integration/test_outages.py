"""What still works while a dependency is away. The bus is needed to accept; the database is not, even to read back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack
from millrace.embedded.keeper import Backoff

STAYS_DOWN = Backoff(initial_s=600, max_s=600)


@pytest.fixture
def servers(server_directory: Callable[[], Path]) -> Iterator[BackgroundStack]:
    """NATS and Postgres of the test's own; what is killed stays down."""
    stack = EmbeddedStack(server_directory(), durability="interval", services={}, backoff=STAYS_DOWN)
    with stack.in_background() as running:
        yield running


async def test_without_the_database_executions_are_accepted_and_read_back(
    servers: BackgroundStack, api_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api_on(servers.nats_url, servers.database_url) as api:
        workflow = await api.workflow()
        await api.execution(workflow)
        await api.database.close()
        servers.kill("postgres")
        monkeypatch.setattr("millrace_api.adapters.catalogue.FRESH_S", 0.0)  # so that each request tries the database
        execution_id = await api.execution(workflow, input={"who": "me"})
        pending = await api.http.get(f"/api/v1/executions/{execution_id}")
        assert (pending.status_code, pending.json()["status"]) == (200, "pending")
        await api.orchestrator.start(execution_id)
        await api.orchestrator.finish(execution_id)
        ended = await api.http.get(f"/api/v1/executions/{execution_id}")
        assert (ended.status_code, ended.json()["status"]) == (200, "completed")
        for path in ("/api/v1/executions", "/api/v1/workflows"):
            refused = await api.http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        ready = await api.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["nats"] == "ok"
        assert ready.json()["checks"]["postgres"] != "ok"
