"""Where the server is, and what key it takes: as given, else of the stack that runs from the data directory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from millrace.client.errors import ServerNotFound

URL_VARIABLE, KEY_VARIABLE, DATA_VARIABLE = "MILLRACE_API_URL", "MILLRACE_API_KEY", "MILLRACE_DATA_DIR"
STATE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class Server:
    """An api and the key to call it with."""

    url: str
    key: str = field(repr=False)


def find_server(url: str | None, key: str | None, environment: Mapping[str, str]) -> Server:
    """Return the server to call: what is given goes before the environment, and that before the data directory.

    Args:
        url: the api's address without `/api/v1`, if the caller gives one.
        key: the API key, if the caller gives one.
        environment: MILLRACE_API_URL, MILLRACE_API_KEY and MILLRACE_DATA_DIR (default `.millrace`).

    Raises:
        ServerNotFound: no address or no key is known.
    """
    data_dir = Path(environment.get(DATA_VARIABLE) or ".millrace")
    url = url or environment.get(URL_VARIABLE)
    found_here = _url_of_stack(data_dir)
    if url is None:
        if found_here is None:
            raise ServerNotFound(
                f"no server is known here: no `millrace up` has run with the data directory {data_dir}. "
                f"Start one, or set {URL_VARIABLE} and {KEY_VARIABLE}."
            )
        url = found_here
    key = key or environment.get(KEY_VARIABLE)
    # The generated key goes to the stack that generated it, and to nobody else.
    if not key and found_here == url:
        key = _key_of_stack(data_dir)
    key = (key or "").strip()
    if not key:
        raise ServerNotFound(f"no API key for {url} is known: set {KEY_VARIABLE}.")
    return Server(url.rstrip("/"), key)


def _url_of_stack(data_dir: Path) -> str | None:
    """Return the address that the stack of a data directory had when it last started (see `embedded/state.py`)."""
    try:
        with (data_dir / "state.json").open() as file:
            url = json.loads(file.read(STATE_BYTES_MAX)).get("api_url")
    except (OSError, ValueError, AttributeError):
        return None
    return url if isinstance(url, str) and url else None


def _key_of_stack(data_dir: Path) -> str | None:
    try:
        return (data_dir / "secrets" / "api_key").read_text().strip() or None
    except OSError:
        return None
