import json
from pathlib import Path

import pytest

from millrace.client import ServerNotFound, find_server

HERE = "http://127.0.0.1:4321"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """What `millrace up` leaves for clients."""
    (tmp_path / "state.json").write_text(json.dumps({"api_url": HERE, "ports": {}}))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "api_key").write_text("generated\n")
    return tmp_path


def test_the_stack_of_the_data_directory_is_found(data_dir: Path):
    server = find_server(None, None, {"MILLRACE_DATA_DIR": str(data_dir)})
    assert (server.url, server.key) == (HERE, "generated")


def test_what_is_given_goes_before_the_environment_and_that_before_the_directory(data_dir: Path):
    environment = {
        "MILLRACE_DATA_DIR": str(data_dir),
        "MILLRACE_API_URL": "http://there",
        "MILLRACE_API_KEY": "from the environment",
    }
    server = find_server(None, None, environment)
    assert (server.url, server.key) == ("http://there", "from the environment")
    server = find_server("http://given/", "given", environment)
    assert (server.url, server.key) == ("http://given", "given")


def test_the_generated_key_goes_to_no_other_server(data_dir: Path):
    with pytest.raises(ServerNotFound, match="no API key for http://elsewhere is known: set MILLRACE_API_KEY"):
        find_server("http://elsewhere", None, {"MILLRACE_DATA_DIR": str(data_dir)})


def test_without_a_stack_it_says_what_to_do(tmp_path: Path):
    with pytest.raises(ServerNotFound, match=r"no `millrace up` has run .* set MILLRACE_API_URL and MILLRACE_API_KEY"):
        find_server(None, "key", {"MILLRACE_DATA_DIR": str(tmp_path)})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"api_url": 5}', '{"ports": {}}'])
def test_a_state_file_that_says_nothing_is_none(data_dir: Path, text: str):
    (data_dir / "state.json").write_text(text)
    with pytest.raises(ServerNotFound):
        find_server(None, "key", {"MILLRACE_DATA_DIR": str(data_dir)})


def test_a_key_is_not_shown(data_dir: Path):
    assert "generated" not in repr(find_server(None, None, {"MILLRACE_DATA_DIR": str(data_dir)}))


def test_the_line_end_of_a_key_that_was_read_from_a_file_is_left_out():
    environment = {"MILLRACE_API_URL": "http://there", "MILLRACE_API_KEY": "the-key\r\n"}
    assert find_server(None, None, environment).key == "the-key"
