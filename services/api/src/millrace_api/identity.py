"""Who calls. The one place that turns credentials into an identity; every query and key carries its workspace."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from millrace_api.errors import Refused

WORKSPACE_DEFAULT = "default"
OPERATOR = "api-key:bootstrap"
SUBPROTOCOL_PREFIX = "millrace.bearer."
"""A browser cannot set headers on a WebSocket: it may offer `millrace.bearer.<key>` as a subprotocol instead."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller: the workspace that it acts in, and its name for the record."""

    workspace: str
    subject: str

    @property
    def is_operator(self) -> bool:
        """Whether it runs this installation: what belongs to no workspace is its business."""
        return self.subject == OPERATOR


class Authenticator:
    """Knows the bootstrap key. It stands for the operator, in the default workspace."""

    def __init__(self, api_key: str) -> None:
        self._key = api_key.encode()
        self._operator = Identity(WORKSPACE_DEFAULT, OPERATOR)

    def identify(self, connection: HTTPConnection) -> Identity:
        """Return the caller of a request or WebSocket.

        Raises:
            Refused: `unauthorized`.
        """
        scheme, _, credential = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._check(credential.strip())
        if connection.scope["type"] == "websocket":
            for offered in connection.scope.get("subprotocols", ()):
                if offered.startswith(SUBPROTOCOL_PREFIX):
                    return self._check(offered.removeprefix(SUBPROTOCOL_PREFIX))
            if token := connection.query_params.get("access_token"):
                return self._check(token)
        raise Refused("unauthorized", "no credentials: send `Authorization: Bearer <api key>`")

    def _check(self, credential: str) -> Identity:
        # Compared in constant time: how long it takes must not tell how much of a guess is right.
        if not hmac.compare_digest(credential.encode("utf-8", "replace"), self._key):
            raise Refused("unauthorized", "the API key is not known")
        return self._operator
