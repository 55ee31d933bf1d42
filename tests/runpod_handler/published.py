"""What RunPod publishes about its files and requests, as far as ours use it.

Hub files: the Hub publishing guide. Templates and endpoints: the REST API's OpenAPI document, version 2. A field that
is not here is one that RunPod would not know, or one that nobody has checked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cuda = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
#: Pools of GPUs that serverless endpoints and the Hub choose from.
POOLS = (
    "AMPERE_16", "AMPERE_24", "ADA_24", "AMPERE_48", "ADA_48_PRO", "AMPERE_80", "ADA_80_PRO", "HOPPER_141",
)  # fmt: skip


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Part):
    label: str
    value: str


class HubInput(Part):
    name: str
    type: Literal["string", "number", "boolean", "huggingface"]
    description: str
    default: str | int | float | bool
    advanced: bool = False
    required: bool = False
    options: list[Option] = []
    min: float | None = None
    max: float | None = None
    trueValue: str | None = None
    falseValue: str | None = None


class HubVariable(Part):
    key: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    value: str | None = None
    input: HubInput | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> HubVariable:
        if (self.value is None) == (self.input is None):
            raise ValueError("either value or input")
        return self


class HubConfig(Part):
    runsOn: Literal["GPU"]
    containerDiskInGb: int
    gpuCount: int
    gpuIds: str
    allowedCudaVersions: list[Cuda]
    env: list[HubVariable] = []


class HubFile(Part):
    """`.runpod/hub.json`."""

    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    iconUrl: str | None = None
    config: HubConfig


class TestCase(Part):
    name: str
    input: dict[str, object]
    timeout: int | None = None


class Pair(Part):
    key: str
    value: str


class TestConfig(Part):
    gpuTypeId: str
    gpuCount: int
    env: list[Pair] = []
    allowedCudaVersions: list[Cuda] = []


class TestsFile(Part):
    """`.runpod/tests.json`."""

    tests: list[TestCase] = Field(min_length=1)
    config: TestConfig


class Persistent(Part):
    size: int = Field(ge=10)
    path: str


class Mounts(Part):
    persistent: Persistent


class Template(Part):
    """Body of `POST /v2/templates`."""

    name: str = Field(min_length=1)
    image: str
    category: Literal["CPU", "NVIDIA", "AMD"] = "NVIDIA"
    serverless: bool = False
    public: bool = False
    disk: int = Field(ge=1)
    args: str = ""
    mounts: Mounts | None = None
    ports: list[str] = []
    env: dict[str, str] = {}
    registry: str | None = None
    startSsh: bool = True
    startJupyter: bool = True
    allowedCudaVersions: list[Cuda] = []


class Gpu(Part):
    pools: list[Literal[POOLS]] = Field(min_length=1)  # type: ignore[valid-type]
    count: int = Field(1, ge=1)
    excludedTypes: list[str] = []
    allowedCudaVersions: list[Cuda] = []
    minCudaVersion: Cuda | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Gpu:
        if self.allowedCudaVersions and self.minCudaVersion:
            raise ValueError("either allowedCudaVersions or minCudaVersion")
        return self


class Workers(Part):
    min: int = Field(0, ge=0)
    max: int = Field(3, ge=0)
    idleTimeout: int = Field(10, ge=1, le=3600)


class QueueDelay(Part):
    type: Literal["QUEUE_DELAY"]
    queueDelay: float = Field(ge=0.5)


class Endpoint(Part):
    """Body of `POST /v2/serverless`, based on a template."""

    name: str = Field(min_length=1)
    type: Literal["QUEUE"]
    templateId: str = Field(min_length=1)
    gpu: Gpu
    workers: Workers
    scaling: QueueDelay
    networkVolumes: list[str] = []
    dataCenterIds: list[str] = []
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] = "OFF"
    timeout: int = 300000
