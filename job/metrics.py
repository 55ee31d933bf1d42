"""Figures of a run for Prometheus, at METRICS_PORT: what the logs and state files hold when they are asked for.

Nothing is counted while training continues: each request reads the last lines of the logs, so no step waits for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIServer

from job.config.settings import Settings
from job.core import files, state
from job.core.console import say
from job.core.errors import BadInput
from job.stages import NAMES

#: Bytes at the end of a log in which its last line is looked for.
_TAIL = 16 << 10
#: Fields of the training log's lines: what each is.
_TRAINING = {
    "step": "Optimizer steps that were taken.",
    "epoch": "The pass over the data that it is in.",
    "loss": "Training loss since the line before.",
    "talker_loss": "The talker's part of it.",
    "sub_talker_loss": "The sub-talker's part of it, without its weight.",
    "learning_rate": "The current learning rate.",
    "grad_norm": "Norm of the gradients before clipping.",
    "frames_per_second": "Frames of speech that are trained on in a second.",
}
_VALIDATION = {
    "loss": "Loss of the last validation.",
    "talker_loss": "The talker's part of it.",
}

Sample = tuple[str, str, Mapping[str, str], float]


class Metrics:
    """Context manager that answers at METRICS_PORT; does nothing without it.

    Attributes:
        stage: the stage that is running.

    Raises:
        BadInput: on entering, when the port is taken.
    """

    def __init__(self, settings: Settings, *, active: bool = True) -> None:
        """`active` is false in all processes of a distributed run but the first."""
        self._settings = settings
        self._active = active and settings.metrics_port is not None
        self._server: tuple[WSGIServer, Thread] | None = None
        self.stage = ""

    def __enter__(self) -> Metrics:
        """Start to answer."""
        if not self._active:
            return self
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(self)
        port = self._settings.metrics_port or 0
        try:
            self._server = start_http_server(port, registry=registry)
        except OSError as error:
            raise BadInput(f"METRICS_PORT={port}: {error.strerror}; set another port, or unset it") from error
        say("run", f"figures for Prometheus at port {self.port}, /metrics")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to answer."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        return int(self._server[0].server_port)

    def collect(self) -> Iterator[Any]:
        """Yield the figures as they are now, as the client asks its collectors for them."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, GaugeMetricFamily] = {}
        for name, about, labels, value in self._samples():
            family = families.setdefault(name, GaugeMetricFamily(f"qwen3_tts_{name}", about, labels=tuple(labels)))
            family.add_metric(tuple(labels.values()), value)
        yield from families.values()

    def _samples(self) -> Iterator[Sample]:
        paths = self._settings.paths
        found = {name: state.read(paths.state, name) for name in NAMES}
        for name in NAMES:
            yield "stage", "1 for the stage that is running.", {"stage": name}, float(name == self.stage)
        for name in NAMES:
            seconds = (found[name] or {}).get("seconds")
            if seconds is not None:
                yield "stage_seconds", "How long a finished stage took.", {"stage": name}, float(seconds)
        counts = (found["prepare"] or {}).get("counts") or {}
        for name, about in {"train_rows": "Rows to train on.", "hours": "Hours of speech to train on."}.items():
            if isinstance(counts.get(name), int | float):
                yield name, about, {}, float(counts[name])
        yield "rejected_rows", "Rows that were left out.", {}, float(_lines(paths.rejected, paths.fetch_rejected))
        yield from _last(paths.training_log, "train", _TRAINING)
        yield from _last(paths.validation_log, "validation", _VALIDATION)
        yield from _memory()


def _last(log: Path, prefix: str, fields: Mapping[str, str]) -> Iterator[Sample]:
    """The figures of a log's last whole line."""
    try:
        whole = files.read_end(log, _TAIL).rpartition(b"\n")[0].rpartition(b"\n")[2]
        record: dict[str, Any] = json.loads(whole)
    except (OSError, ValueError):
        return
    for name, about in fields.items():
        value = record.get(name)
        if isinstance(value, int | float):
            yield f"{prefix}_{name}", about, {}, float(value)


def _lines(*logs: Path) -> int:
    """The number of lines of the first of the files that is there."""
    for log in logs:
        if log.is_file():
            with open(log, "rb") as file:
                return sum(1 for _ in file)
    return 0


def _memory() -> Iterator[Sample]:
    """Memory that torch holds on the GPUs, of this process; it is not imported for it."""
    torch: Any = sys.modules.get("torch")
    cuda: Any = getattr(torch, "cuda", None)  # missing while torch is being imported
    if not getattr(cuda, "is_initialized", bool)():
        return
    about = "Memory of the first process on its GPU: tensors (allocated), what torch keeps for more (reserved)."
    for device in range(cuda.device_count()):
        reserved = cuda.memory_reserved(device)
        if reserved:
            yield "gpu_memory_bytes", about, {"gpu": str(device), "kind": "reserved"}, float(reserved)
            allocated = float(cuda.memory_allocated(device))
            yield "gpu_memory_bytes", about, {"gpu": str(device), "kind": "allocated"}, allocated
