"""The restricted Pod Security Standard, as Kubernetes defines it, over a pod's spec.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Baseline and Restricted). Capabilities, users and
profiles may be set for the pod or for a container; the container's wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = {"RuntimeDefault", "Localhost"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def violations(spec: dict[str, Any]) -> list[str]:
    """What the standard forbids and the pod does; empty when it may run."""
    return [*_of_pod(spec), *(problem for one in _containers(spec) for problem in _of_container(spec, one))]


def _containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        yield from spec.get(kind, [])


def _of_pod(spec: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    security = spec.get("securityContext", {})
    for sysctl in security.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"


def _of_container(spec: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    name, own, pod = container["name"], container.get("securityContext", {}), spec.get("securityContext", {})

    def effective(key: str) -> Any:
        return own.get(key, pod.get(key))

    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if effective("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot"
    if effective("runAsUser") == 0:
        yield f"{name}: runAsUser"
    if (effective("seccompProfile") or {}).get("type") not in PROFILES:
        yield f"{name}: seccompProfile"
    if (effective("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{name}: appArmorProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities.add"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"{name}: hostPort"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        for action in container.get(probe, {}).values():
            if isinstance(action, dict) and action.get("host"):
                yield f"{name}: {probe} host"
