from collections.abc import Callable
from typing import Any

import pytest

from millrace_shared.errors import MessageInvalid, UpgradeNeeded
from millrace_shared.messages import LOG_VERSION
from millrace_shared.upcast import UPCASTERS, upcast

CHAIN: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda message: {**message, "name": message["title"]},
    2: lambda message: {key: value for key, value in message.items() if key != "title"},
}


def test_every_version_before_this_one_has_an_upcaster():
    assert sorted(UPCASTERS) == list(range(1, LOG_VERSION))


def test_an_old_message_is_lifted_one_version_at_a_time():
    assert upcast({"v": 1, "title": "x"}, CHAIN, 3) == {"v": 3, "name": "x"}
    assert upcast({"v": 2, "title": "x", "name": "y"}, CHAIN, 3) == {"v": 3, "name": "y"}


def test_a_current_message_is_left_as_it_is():
    message = {"v": 3, "title": "x"}
    assert upcast(message, CHAIN, 3) is message


def test_the_message_that_was_read_is_not_changed():
    message = {"v": 1, "title": "x"}
    upcast(message, CHAIN, 3)
    assert message == {"v": 1, "title": "x"}


def test_a_newer_message_asks_for_an_upgrade():
    with pytest.raises(UpgradeNeeded, match="log version 4 is newer than 3: upgrade this service"):
        upcast({"v": 4}, CHAIN, 3)


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused(version: int):
    with pytest.raises(MessageInvalid, match=f"no upcaster from log version {version}"):
        upcast({"v": version}, CHAIN, 3)


@pytest.mark.parametrize("message", [None, [], "v", 1, {}, {"v": "1"}, {"v": None}, {"v": 1.0}, {"v": True}])
def test_what_is_no_log_message_is_refused(message: Any):
    with pytest.raises(MessageInvalid, match="an object with an integer `v`"):
        upcast(message, CHAIN, 3)


@pytest.mark.parametrize("message", [{"v": 1}, {"v": 1, "titel": "misspelt"}])
def test_an_old_message_that_its_upcaster_cannot_read_is_refused(message: dict[str, Any]):
    with pytest.raises(MessageInvalid, match="log version 1 cannot be lifted: KeyError"):
        upcast(message, CHAIN, 3)
