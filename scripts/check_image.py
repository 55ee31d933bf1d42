"""Build the image as users do, but without Docker, and run it as a careful cluster does (`make check-image`, as root).

The base is a Debian that debootstrap makes; buildah builds the Dockerfile on it. Then, without a network, as the
image's own user, without capabilities, on a read-only root file system with nothing to write to but /tmp and the work
volume, the image's own entrypoint runs the demo, and a second run on the weights that the demo used, mounted read-only.
RunPod's image is built on top, and its worker handles a request.

Ends with 0 when all promises hold, 1 when one is broken, and 0 with a line that begins with SKIPPED where the machine
cannot build images, or where CHECK_IMAGE_MINUTES are too few for all of it. Everything it makes is in one directory and
goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import image_size
from container import Container

TOP = Path(__file__).resolve().parents[1]
TAG = "localhost/qwen3-tts-job:check"
RUNPOD_TAG = "localhost/qwen3-tts-job-runpod:check"
BASE = "localhost/debian-stand-in:check"
#: The stand-in for the pinned base: the same Debian, whose own Python is 3.11.
SUITE = "bookworm"
#: What the build needs while it runs (31: copies of the packages in two stages and in the layer that is written), and
#: what `make walk` takes that `.ci/run` does beside it (7).
FREE_GIGABYTES = 38
#: With less than this left at any moment, the disk was full for a process that wrote in large pieces.
FULL_GIGABYTES = 0.5
#: What all of it may take; `.ci/run` gives less where little of its hour is left.
ENOUGH = 23.0
MINUTES = float(os.environ.get("CHECK_IMAGE_MINUTES") or ENOUGH)
#: A user of the machine that the image knows nothing of (`docker run --user "$(id -u):$(id -g)"`).
SOMEBODY = 4242
#: Programs that the image has no use for, and an intruder would.
ABSENT = ("git", "gcc", "cc", "curl", "wget", "ssh")


class NoBase(Exception):
    """There is no Debian to be had here; the message is debootstrap's."""


def main() -> None:
    """Check the machine, then do everything in a namespace of its own that ends with this process."""
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = Path(os.environ.get("TMPDIR") or "/var/tmp")
    remove_leftovers(parent)
    reason = why_not(parent)
    if reason:
        print(f"SKIPPED: the image was not built: {reason}", flush=True)
        return
    work = Path(tempfile.mkdtemp(prefix=f"check-image-{os.getpid()}-", dir=parent))
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, __file__]
    code, watched = 1, Watched(parent)
    try:
        code = subprocess.run([*command, "--inside", str(work)], timeout=60 * MINUTES).returncode
        if code and watched.least < FULL_GIGABYTES * 10**9:
            print(f"SKIPPED: what is left, for {parent} was full meanwhile", flush=True)
            code = 0
    except subprocess.TimeoutExpired:
        print(f"{'SKIPPED: ' if MINUTES < ENOUGH else ''}what is left after {MINUTES:g} minutes", flush=True)
        code = int(MINUTES >= ENOUGH)  # promises that were found broken by then have ended it already
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(code)


class Watched:
    """The least free space of a disk since this was made: other processes of the machine write to it too."""

    def __init__(self, parent: Path) -> None:
        self._parent, self.least = parent, shutil.disk_usage(parent).free
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.least = min(self.least, shutil.disk_usage(self._parent).free)
            time.sleep(0.2)


def why_not(parent: Path) -> str | None:
    """What keeps this machine from building an image; None when nothing does. Installs the two tools that it needs."""
    if os.geteuid() != 0:
        return "it needs root"
    if shutil.disk_usage(parent).free < FREE_GIGABYTES * 10**9:
        return f"{parent} has less than {FREE_GIGABYTES} GB free"
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True).returncode:
        return "namespaces cannot be made here"
    missing = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if not missing:
        return None
    if not shutil.which("apt-get"):
        return f"{' and '.join(missing)} are not installed"
    further = ["crun"] if "buildah" in missing else []  # not used, but looked for
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing, *further]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return f"{' and '.join(missing)} could not be installed: {done.stderr.strip()[-200:]}"
    return None


def remove_leftovers(parent: Path) -> None:
    """What a check that was killed without a warning has left."""
    for directory in parent.glob("check-image-*-*"):
        if not Path("/proc", directory.name.split("-")[2]).exists():
            shutil.rmtree(directory, ignore_errors=True)


# ---- in the namespaces -----------------------------------------------------------------------------------------------


def inside(work: Path) -> None:
    """Build, look, run."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    storage(work)
    try:
        step("base image", lambda: make_base(work))
    except NoBase as error:  # it is Debian's, and not what is checked
        print(f"SKIPPED: the image was not built: no Debian to build it on ({error})", flush=True)
        return
    mirror = pip_options(work)
    step("image", lambda: build(mirror))
    image, root = opened(TAG)
    print(image_size.report(root), flush=True)

    volume = work / "volume"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    container = Container(root, image["Docker"]["config"], volume)
    check_configuration(image["Docker"]["config"], root)
    check_confinement(container)
    step("demo", lambda: check_demo(container, volume))
    step("mounted weights", lambda: check_mounted_weights(container, volume, work))
    step("RunPod's image", lambda: build_for_runpod(mirror))
    step("RunPod's worker", lambda: check_worker(work, image_size.size_of(root)))
    print("the image keeps its promises", flush=True)


def storage(work: Path) -> None:
    """A storage of buildah's own for this check, so that nothing is left in, or taken from, the machine's."""
    for name in ("tmp", "layers", "run"):
        (work / name).mkdir()
    trial = work / "trial"
    for name in ("lower", "upper", "work", "merged"):
        (trial / name).mkdir(parents=True)
    options = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, trial / "merged"], capture_output=True
    )
    driver = "vfs" if mounted.returncode else "overlay"
    settings = f'[storage]\ndriver = "{driver}"\ngraphroot = "{work}/layers"\nrunroot = "{work}/run"\n'
    (work / "storage.conf").write_text(settings)
    os.environ["CONTAINERS_STORAGE_CONF"] = str(work / "storage.conf")
    os.environ["TMPDIR"] = str(work / "tmp")


def make_base(work: Path) -> None:
    """A minimal Debian, as an image."""
    mirrors = output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    mirror = [mirrors[0]] if mirrors and mirrors[0].startswith("http") else []
    command = ["debootstrap", "--variant=minbase", SUITE, str(work / "debian"), *mirror]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NoBase(" ".join((done.stdout + done.stderr).strip().splitlines()[-2:]))
    base = output("buildah", "from", "scratch")
    run("buildah", "add", base, work / "debian", "/")
    run("buildah", "commit", "--rm", base, BASE)
    shutil.rmtree(work / "debian")


def pip_options(work: Path) -> list[str]:
    """Options of a build that reaches packages the way this machine does: secrets and mounts, which leave no trace."""
    conf, mounts = pip_settings(work)
    options = ["--secret", f"id=pip_conf,src={conf}"] if conf else []
    for source, target in mounts.items():
        options += ["--volume", f"{source}:{target}:ro"]
    return options


def build(mirror: list[str]) -> None:
    """Build with `scripts/image.sh`, as `make image` does."""
    options = ["--pull-never", "--build-arg", f"BASE_IMAGE={BASE}", *mirror]
    run("sh", "scripts/image.sh", TAG, *options, BUILDER="buildah")


def build_for_runpod(mirror: list[str]) -> None:
    """Build what RunPod's machines run, on top."""
    ignored = ["--ignorefile", "runpod/Dockerfile.dockerignore"]  # docker finds it by its name
    options = [
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--pull-never",
        "--build-arg",
        f"JOB_IMAGE={TAG}",
        *ignored,
    ]
    run("buildah", "bud", "--file", "runpod/Dockerfile", "--tag", RUNPOD_TAG, *options, *mirror, ".")


def opened(tag: str) -> tuple[dict[str, Any], Path]:
    """What `buildah inspect` says of an image, and where its file system is mounted."""
    image: dict[str, Any] = json.loads(output("buildah", "inspect", "--type", "image", tag))
    return image, Path(output("buildah", "mount", output("buildah", "from", "--pull-never", tag)))


def pip_settings(work: Path) -> tuple[Path | None, dict[str, str]]:
    """This machine's pip settings as a file, and what it names on this machine, to be mounted during the build."""
    kept: dict[str, str] = {}
    mounts: dict[str, str] = {}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for line in sorted(listed.splitlines(), key=lambda one: one.startswith(":env:")):  # the environment wins
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name not in {"cert", "index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout"}:
            continue
        words = value.strip("'\"").replace("\\n", " ").split()
        for index, word in enumerate(words):
            place = Path(word.removeprefix("file://"))
            if name == "cert":
                words[index] = "/run/pip-certificates.pem"
                mounts[word] = words[index]
            elif place.is_absolute() and place.exists():
                place = place.parent if place.name == "simple" else place  # an index's files lie beside its pages
                mounts[str(place)] = str(place)
        kept[name] = " ".join(words)
    if not kept:
        return None, {}
    conf = work / "pip.conf"
    conf.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in kept.items()), ""]))
    return conf, mounts


def check_configuration(config: dict[str, Any], root: Path) -> None:
    """What the registry and the cluster read, and what is not there."""
    expect(config["User"] == "10001:10001", f"the user is {config['User']}")
    expect(list(config["Volumes"]) == ["/work"], f"the volumes are {config['Volumes']}")
    expect("Healthcheck" in config, "there is no health check")
    labels = config["Labels"]
    for name in ("title", "description", "licenses", "version", "revision"):
        expect(labels.get(f"org.opencontainers.image.{name}") not in (None, "", "unknown"), f"label {name} is missing")
    for program in ABSENT:
        found = [d for d in ("usr/bin", "usr/local/bin", "opt/venv/bin") if (root / d / program).exists()]
        expect(not found, f"{program} is in the image")
    expect(not (root / "etc/pip.conf").exists(), "pip's settings are in the image")
    for cache in ("root/.cache", "var/lib/apt/lists", "build", "tmp", "opt/weights", "work"):
        expect(not (root / cache).is_dir() or not any((root / cache).iterdir()), f"/{cache} is not empty")


def check_confinement(container: Container) -> None:
    """The walls are real: the run below cannot pass because they have doors."""
    identity = container.run(["sh", "-c", "id -u; id -g; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status"])
    words = identity.out.split()
    expect(words == ["10001", "10001", "CapEff:", "0" * 16, "NoNewPrivs:", "1"], f"the process is {words}")
    for path in ("/new", "/opt/job/new", "/opt/venv/new", "/usr/bin/new", "/etc/new", "/var/tmp/new", "/root/new"):
        for uid in (10001, 0):
            written = container.run(["touch", path], uid=uid)
            expect(written.code != 0, f"uid {uid} can write {path}")
            expect("Read-only file system" in written.err or uid != 0, f"{path}: {written.err}")
    for path in ("/tmp/new", "/work/new"):
        expect(container.run(["touch", path]).code == 0, f"{path} cannot be written")
    network = container.run(["python3", "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 2)"])
    expect(network.code != 0 and "unreachable" in network.err, f"there is a network: {network.err}")
    (container.volume / "new").unlink()


def check_demo(container: Container, volume: Path) -> None:
    """The demo runs to its end, recites, and leaves the console log that the health check looks at."""
    health = container.config["Healthcheck"]["Test"]
    test = f"/opt/job/entrypoint.sh demo && {{ {health[3] if health[0] == 'CMD' else health[1]}; }}"
    result = container.run(["tini", "-s", "--", "bash", "-c", test], {"HF_HUB_OFFLINE": "1"}, show=True)
    expect(result.code == 0, f"the demo ended with {result.code}")
    expect("recited 100.00 % of the codes" in result.out, "the demo did not recite")
    expect((volume / "report/index.html").is_file() or any(volume.rglob("report/index.html")), "there is no report")


def check_mounted_weights(container: Container, volume: Path, work: Path) -> None:
    """As people start it from their home: their uid, their directory, their weights, mounted read-only, no network."""
    (base,) = [p.parent for p in (volume / ".cache").rglob("generation_config.json")]
    weights = work / "weights"
    shutil.copytree(base, weights)
    recordings = work / "recordings"
    shutil.copytree(TOP / "job/demo/clips", recordings)
    run("chmod", "-R", "a+rX", weights, recordings)
    variables = {
        "HF_HUB_OFFLINE": "1",
        "INIT_MODEL_PATH": "/mnt",
        "BASE_MODEL_ID": "me/mounted",
        "DATA_DIR": "/srv",
        "MAX_STEPS": "2",
        "SPEAKER_NAME": "mounted",
        "PROBE_SENTENCES": "0",
        "TEST_TEXTS": "Hello.",
        "MAX_NEW_TOKENS": "12",
    }
    mounts = {weights: "/mnt", recordings: "/srv"}
    home = work / "home"
    home.mkdir(mode=0o700)
    os.chown(home, SOMEBODY, SOMEBODY)
    theirs = replace(container, volume=home)
    entrypoint = container.config["Entrypoint"]
    result = theirs.run(entrypoint, variables, mounts, uid=SOMEBODY, show=True)
    expect(result.code == 0, f"the run on mounted weights ended with {result.code}")
    expect((home / "output/best/config.json").is_file(), "there is no checkpoint")
    again = theirs.run(entrypoint, variables, mounts, uid=SOMEBODY)
    expect(again.code == 0 and "[train] nothing to do" in again.out + again.err, "the second run did something")
    refused = theirs.run([*entrypoint, "doctor"], {**variables, "LEARNING_RATE": "much"}, mounts, uid=SOMEBODY)
    expect(
        refused.code == 2 and "LEARNING_RATE" in refused.err + refused.out, f"exit code {refused.code} for bad input"
    )


def check_worker(work: Path, base_bytes: int) -> None:
    """The serverless worker, started as RunPod starts it, by root, handles test_input.json; the job is not root's."""
    image, root = opened(RUNPOD_TAG)
    print(f"RunPod's image: {(image_size.size_of(root) - base_bytes) / 1e6:.0f} MB more", flush=True)
    volume = work / "network-volume"
    volume.mkdir()
    shutil.copy2(TOP / "runpod/test_input.json", volume)
    config = image["Docker"]["config"]
    worker = Container(root, config, volume)
    result = worker.run([*config["Entrypoint"], "serve"], {"JOB_VOLUME": "/work"}, uid=0, show=True)
    expect(result.code == 0, f"the worker ended with {result.code}")
    report = volume / "jobs/test-input/report/index.html"
    expect(report.is_file() and report.stat().st_uid == 10001, "there is no report, or it is root's")


# ---- small helpers ---------------------------------------------------------------------------------------------------


def run(*command: str | Path, **variables: str) -> None:
    """Run; its output is shown when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=TOP,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout[-8000:], flush=True)
        fail(f"{command[0]} ended with {done.returncode}")


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def step(name: str, work: Any) -> None:
    """Do one part and say how long it took."""
    started = time.monotonic()
    work()
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def expect(holds: bool, otherwise: str) -> None:
    """One promise."""
    if not holds:
        fail(otherwise)


def fail(message: str) -> NoReturn:
    """A broken promise ends the check."""
    print(f"check-image: {message}", flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
