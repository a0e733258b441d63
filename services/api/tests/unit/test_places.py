import pytest

from millrace_api.adapters.places import Places
from millrace_api.domain.problems import PROBLEMS
from millrace_api.errors import Unavailable


def test_who_finds_no_place_is_told_to_come_again_and_places_are_given_back() -> None:
    places = Places(1, "too_many_waiting", "requests wait")
    with places.take():
        assert places.taken == 1
        with pytest.raises(Unavailable, match="1 requests wait already") as refused, places.take():
            pytest.fail("there was no place")
        assert PROBLEMS[refused.value.code].status == 503
    with pytest.raises(KeyError), places.take():
        raise KeyError
    assert places.taken == 0
