"""Loopback ports that stay the same from one start to the next."""

import errno
import random
import socket
from collections.abc import Container

LOOPBACK = "127.0.0.1"
# Below the ranges from which Linux (32768) and macOS (49152) take the ports of outgoing connections: a port
# from there could be taken by any client while our server is down.
FIRST_PORT, LAST_PORT = 20_000, 31_999
_TRIES_MAX = 200


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def choose_free(taken: Container[int] = (), host: str = LOOPBACK) -> int:
    """A free port at random, so that two stacks starting together rarely choose the same.

    Args:
        taken: ports promised to others that do not listen yet.
        host: the address that will be listened on.
    """
    for _ in range(_TRIES_MAX):
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - nothing secret in a port
        if port not in taken and is_free(port, host):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {host} in {FIRST_PORT}-{LAST_PORT}")
