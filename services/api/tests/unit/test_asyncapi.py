"""The AsyncAPI document: sound as such, and about the subject that the service really takes events from."""

import re
from typing import Any

from millrace_api.adapters.trigger_asyncapi import document
from millrace_shared import subjects


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [one for item in value.values() for one in references(item)]
    return [one for item in value for one in references(item)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere():
    described = document()
    found = references(described)
    assert len(found) >= 4
    for reference in found:
        place: Any = described
        for key in reference.removeprefix("#/").split("/"):
            place = place[key]
        assert place


def test_it_describes_the_one_channel_that_is_served():
    described = document()
    assert described["asyncapi"] == "3.0.0"
    (channel,) = described["channels"].values()
    assert channel["address"] == subjects.trigger_event("{workspace}", "{name}")
    assert set(channel["parameters"]) == set(re.findall(r"\{(\w+)\}", channel["address"]))
    (operation,) = described["operations"].values()
    assert operation["action"] == "receive"


def test_keys_of_components_are_those_that_the_format_allows():
    components = document()["components"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for group in components.values() for key in group)


def test_it_holds_no_credentials():
    assert "@" not in str(document()["servers"])
