"""A service for the stack's tests: answers /readyz with 200 and /environment with its own."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(dict(os.environ)) if self.path == "/environment" else "ready"
        self.send_response(200 if self.path in ("/readyz", "/environment") else 404)
        self.end_headers()
        self.wfile.write(body.encode())


host = os.environ.get("MILLRACE_API_HOST") or os.environ["MILLRACE_OPS_HOST"]
port = os.environ.get("MILLRACE_API_PORT") or os.environ["MILLRACE_OPS_PORT"]
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
