"""RunPod's side of a serverless worker: the HTTP protocol that the SDK speaks to its platform, on a local port.

A worker takes jobs (`job-take`), is told which to stop (`job-stop`), sends what it streams (`job-stream`) and sends
progress and results (`job-done`). Only the network's other end is ours; the worker and the SDK are real.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.runpod_handler.worker import Worker, wait_for

API_KEY = "rpa_" + "K" * 40


class Platform:
    """Jobs to give and what came back for them."""

    def __init__(self, *, slowness: float = 0.0) -> None:
        """`slowness`: seconds that it takes to receive a streamed message."""
        self.slowness = slowness
        self.jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stops: queue.Queue[str] = queue.Queue()
        self.streamed: dict[str, list[Any]] = {}
        self.progress: dict[str, list[Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.order: dict[str, list[str]] = {}
        self.authorizations: set[str] = set()
        self.closing = False

    def __enter__(self) -> Self:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                platform.authorizations.add(self.headers.get("Authorization", ""))
                what = urlsplit(self.path).path.split("/")[1]
                if what == "job-take":
                    self.answer(platform.next_of(platform.jobs))
                elif what == "job-stop":
                    number = platform.next_of(platform.stops)
                    self.answer({"jobsToStop": [number]} if number else None)
                else:
                    self.answer({})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                parts = urlsplit(self.path)
                platform.received(parts.path.split("/")[1], parts.path.split("/")[-1], parse_qs(parts.query), body)
                self.answer({})

            def answer(self, value: Any) -> None:
                data = b"" if value is None else json.dumps(value).encode()
                self.send_response(204 if value is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self._server.shutdown()
        self._server.server_close()

    def next_of(self, waiting: queue.Queue[Any]) -> Any:
        """Hold the request open for a while, as RunPod does."""
        end = time.monotonic() + 2
        while time.monotonic() < end and not self.closing:
            try:
                return waiting.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def received(self, what: str, number: str, query: dict[str, list[str]], body: Any) -> None:
        if what == "job-stream":
            time.sleep(self.slowness)
            self.streamed.setdefault(number, []).append(body["output"])
        elif body.get("status") == "IN_PROGRESS":
            self.progress.setdefault(number, []).append(body["output"])
            self.order.setdefault(number, []).append("progress")
        else:
            self.order.setdefault(number, []).append("result")
            self.results[number] = body

    @property
    def variables(self) -> dict[str, str]:
        """What RunPod sets in a worker's environment."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_ENDPOINT_ID": "endpoint-1",
            "RUNPOD_AI_API_KEY": API_KEY,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # these ask for a network that tests do not have
        }

    def give(self, number: str, given: Any) -> None:
        self.jobs.put({"id": number, "input": given})

    def stop(self, number: str) -> None:
        self.stops.put(number)

    def result(self, number: str, seconds: float = 300) -> dict[str, Any]:
        return wait_for(lambda: self.results.get(number), seconds)


def deployed(python: Path, top: Path, volume: Path, platform: Platform, **variables: str) -> Worker:
    """The handler as RunPod starts it."""
    return Worker(python, top, volume, [], {**platform.variables, **variables})
