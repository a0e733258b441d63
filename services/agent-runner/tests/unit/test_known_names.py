"""What a definition may name is what the runner has."""

from millrace_agent_runner.executors.agent.models import KEYS, OFFLINE
from millrace_agent_runner.executors.agent.tools import http, human, sandbox, web
from millrace_shared.definition.agents import PROVIDERS
from millrace_shared.definition.tools import TOOLS


def test_every_provider_that_a_definition_may_name_is_known() -> None:
    assert {*KEYS, OFFLINE} == set(PROVIDERS)


def test_every_tool_that_a_definition_may_name_is_known() -> None:
    own = {http.HTTP_GET, http.HTTP_REQUEST, web.WEB_SCRAPE, web.WEB_SEARCH, sandbox.PYTHON_SANDBOX, human.HUMAN_ASK}
    assert own == set(TOOLS)
