"""The client of the HTTP contract, for the command line and for programs.

with Client("http://127.0.0.1:8080", key) as client:
    workflow, _ = client.save_workflow(Path("report.yaml").read_bytes())
    accepted = client.start("report", {"topic": "logs"}, execution_name="report-1")
    for message in client.watch(accepted["execution_id"]):
        print(message["event"])
"""

from millrace.client.address import Server, find_server
from millrace.client.client import Client
from millrace.client.errors import (
    ClientError,
    FeedLost,
    RequestRefused,
    ServerNotFound,
    ServerUnavailable,
    ServerUnreachable,
)

__all__ = [
    "Client",
    "ClientError",
    "FeedLost",
    "RequestRefused",
    "Server",
    "ServerNotFound",
    "ServerUnavailable",
    "ServerUnreachable",
    "find_server",
]
