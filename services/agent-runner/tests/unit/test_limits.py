import pytest

from millrace_agent_runner.domain.buckets import Bucket
from millrace_agent_runner.domain.limits import Limit, demands_of, merged, read_limits, room_for
from millrace_agent_runner.settings import RunnerSettings
from millrace_shared.errors import SettingsInvalid

GROQ = Limit("groq", "llama", requests_per_minute=30, tokens_per_minute=6_000)
ALL_OF_GROQ = Limit("groq", requests_per_minute=100)
TEAM = Limit("groq", "llama", "team", tokens_per_minute=1_000)
NOW = 1_700_000_000.0


def test_every_limit_that_names_the_call_or_all_of_them_holds() -> None:
    limits = [GROQ, ALL_OF_GROQ, TEAM, Limit("openai", "llama", requests_per_minute=1)]
    assert [demand.bucket for demand in demands_of(limits, "team", "groq", "llama", 500)] == [
        "requests * groq llama",
        "tokens * groq llama",
        "requests * groq *",
        "tokens team groq llama",
    ]
    assert [demand.units for demand in demands_of([GROQ], "other", "groq", "llama", 500)] == [1, 500]
    assert demands_of(limits, "team", "mistral", "llama", 500) == []


def test_a_call_asks_for_no_more_than_the_whole_minute() -> None:
    assert [demand.units for demand in demands_of([TEAM], "team", "groq", "llama", 5_000)] == [1_000]


def test_the_narrowest_bucket_says_when() -> None:
    requests, tokens = demands_of([GROQ], "team", "groq", "llama", 500)
    full = Bucket(6_000).take(6_000, NOW)
    room = room_for([(requests, Bucket(30), 0), (tokens, full, 0)], 0.0, NOW)
    assert (room.at, room.narrowest, room.is_paused) == (full.room_at(500, 0, NOW), tokens, False)
    assert room.narrowest.text == "500 of 6,000 tokens/min of groq:llama"
    paused = room_for([(requests, Bucket(30), 0)], NOW + 500, NOW)
    assert (paused.at, paused.is_paused) == (NOW + 500, True)
    assert room_for([(requests, Bucket(30), 0)], NOW - 1, NOW).at == NOW


def test_limits_are_read_from_the_environment() -> None:
    text = '[{"provider": "groq", "model": "llama", "requests_per_minute": 30, "tokens_per_minute": 6000}]'
    assert read_limits(text) == (GROQ,)
    assert RunnerSettings.load({"MILLRACE_RATE_LIMITS": text}).limits == (GROQ,)
    assert RunnerSettings.load({}).limits == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a JSON array"),
        ('[{"provider": "x", "rpm": 1}]', "unknown field"),
        ('[{"provider": "x"}]', "neither requests_per_minute nor tokens_per_minute"),
        ('[{"provider": "x", "requests_per_minute": 0}]', "between 1 and"),
        ('[{"provider": "x y", "requests_per_minute": 1}]', "without spaces"),
        ('[{"provider": "x", "requests_per_minute": 1}, {"provider": "x", "tokens_per_minute": 1}]', "two limits"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_at_the_start(text: str, words: str) -> None:
    with pytest.raises(SettingsInvalid, match=words):
        RunnerSettings.load({"MILLRACE_RATE_LIMITS": text})


def test_what_the_database_keeps_goes_before_a_default() -> None:
    kept = Limit("groq", "llama", tokens_per_minute=1)
    assert merged([GROQ, ALL_OF_GROQ], [kept]) == (kept, ALL_OF_GROQ)
