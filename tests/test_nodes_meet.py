"""What the nodes of a run tell one another before they start: who shares what, and who ends when one cannot."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import Settings, load
from job.core import files
from job.core.errors import BadInput, FollowedRank, NodesMissing, TrainingStopped
from job.processes import again, nodes, pulse
from job.processes.per_node import on_own_disk
from tests.support.commands import run_job
from tests.test_launch import free_port

MARK = "a mark"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "POLL", 0.01)
    monkeypatch.setattr(nodes, "VOLUME_SECONDS", 0.1)
    monkeypatch.setattr(nodes, "LAST_WORD_SECONDS", 0.2)


def settings_of(rank: int, port: int, work: Path, **more: str) -> Settings:
    given = {"PRESET": "demo", "WORK_DIR": str(work), "NUM_NODES": "2", "NODE_RANK": str(rank)}
    return load({**given, "MASTER_PORT": str(port), "RENDEZVOUS_TIMEOUT": "30", **more})


def meet(
    works: tuple[Path, Path], first: dict[str, str], second: dict[str, str] | None = None, fails: Any = None
) -> Any:
    """What the two come to, or how each ends; node 0 raises `fails` while it prepares."""
    port = free_port()
    own = [settings_of(rank, port, works[rank], **(first if second is None or not rank else second)) for rank in (0, 1)]
    files.write_text(own[0].paths.state / "nodes.mark", MARK)
    read = threading.Event()

    def node_0() -> bool:
        with nodes.Gathering(own[0]) as gathering:
            gathering.show(MARK)
            apart = gathering.gather()
            if fails:
                raise fails
            if apart:
                gathering.start()
            else:
                read.wait(30)  # as torchrun would, which is in the same store
            return apart

    def node_1() -> bool:
        with nodes.Gathering(own[1]) as gathering:
            try:
                return gathering.follow()
            finally:
                read.set()

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(node_0), pool.submit(node_1)]
        return [end.exception(60) or end.result() for end in ends]


BUCKET = {"MIRROR_CHECKPOINTS": "s3://voices/kari"}


@pytest.mark.parametrize(
    ("shared", "variables", "apart"),
    [
        (True, {}, False),
        (True, BUCKET, False),
        (False, BUCKET, True),
        (False, {**BUCKET, "SHARED_WORK_DIR": "false"}, True),
        (True, {**BUCKET, "SHARED_WORK_DIR": "false"}, True),
    ],
)
def test_both_know_whether_they_share_a_volume(
    tmp_path: Path, shared: bool, variables: dict[str, str], apart: bool
) -> None:
    """A mirror does not keep nodes from sharing a volume that they have; `false` does."""
    works = tmp_path / "a", tmp_path / ("a" if shared else "b")
    assert meet(works, variables) == [apart, apart]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            {},
            {},
            "is not the volume that node 0 writes to; mount the same one on all nodes .*or set MIRROR_CHECKPOINTS",
        ),
        ({**BUCKET, "SHARED_WORK_DIR": "true"}, BUCKET, "mount the same one on all nodes, or set SHARED_WORK_DIR=auto"),
        (BUCKET, {}, "MIRROR_CHECKPOINTS=s3://voices/kari: on node 1 it is not set; set the same on all nodes"),
        (BUCKET, {"MIRROR_CHECKPOINTS": "s3://voices/ola"}, "on node 1 it is s3://voices/ola"),
    ],
)
def test_what_cannot_be_is_said_once_and_ends_both(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], said: str
) -> None:
    one, other = meet((tmp_path / "a", tmp_path / "b"), first, second)
    assert isinstance(one, BadInput)
    with pytest.raises(BadInput, match=said):
        raise one
    assert isinstance(other, FollowedRank) and other.exit_code == 2


def test_a_failure_while_node_0_prepares_ends_the_one_that_waits(tmp_path: Path) -> None:
    """With the same exit code: it waits for data that will never come."""
    one, other = meet((tmp_path / "a", tmp_path / "b"), BUCKET, fails=TrainingStopped("no data"))
    assert isinstance(one, TrainingStopped)
    assert isinstance(other, FollowedRank) and other.exit_code == TrainingStopped.exit_code


def test_one_that_is_lost_while_node_0_prepares_may_come_again(tmp_path: Path) -> None:
    """Its successor finds its place; without one node 0 ends with a line instead of waiting for ever."""
    port = free_port()
    more = {**BUCKET, "SHARED_WORK_DIR": "false"}
    own = [settings_of(rank, port, tmp_path, **{**more, "RENDEZVOUS_TIMEOUT": "2"}) for rank in (0, 1)]

    def connected() -> nodes.Gathering:
        return nodes.Gathering(own[1]).__enter__()

    with ThreadPoolExecutor(1) as pool, nodes.Gathering(own[0]) as gathering:
        gathering.show(MARK)
        lost = connected()
        lost._store.set("node 1", "here")
        lost._store.set("node 1 sees", '{"sees": false, "mirror": "s3://voices/kari"}')
        assert gathering.gather() is True
        del lost
        with pytest.raises(NodesMissing, match="1 of NUM_NODES=2 nodes are still there within 2 s; missing: node 1"):
            gathering.start()
        successor = pool.submit(lambda: connected().follow())
        gathering.start()
        assert successor.result(30) is True


def test_another_program_at_the_address_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong MASTER_ADDR or MASTER_PORT, where something listens that says nothing."""
    monkeypatch.setattr(pulse, "GREETING", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = settings_of(1, server.getsockname()[1], tmp_path, RENDEZVOUS_TIMEOUT="1")
        said = (
            r"MASTER_ADDR=127.0.0.1:\d+ did not answer within 1 s \(what listens there does not answer as node 0 does"
        )
        with pytest.raises(NodesMissing, match=said):
            nodes.Gathering(own).__enter__()


def test_a_node_with_nothing_left_to_do_ends_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are started again after a failed upload: the others would wait for half an hour, and fail."""
    port = free_port()
    own = [settings_of(rank, port, tmp_path) for rank in (0, 1)]
    with nodes.Gathering(own[0]) as gathering, ThreadPoolExecutor(1) as pool:
        gathering.dismiss()
        other = pool.submit(lambda: nodes.Gathering(own[1]).__enter__().follow())
        assert other.exception(30).exit_code == 0  # type: ignore[union-attr]
    assert "node 0 does the rest alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "go"),
    [
        ((True, False), True),
        ((False, True), True),
        ((False, False), False),  # stopped, not killed
        ((True, None), False),  # the other one ends
    ],
)
def test_all_start_again_or_none(tmp_path: Path, words: tuple[bool, bool | None], go: bool) -> None:
    """When a process of any node was killed and all launchers are still there."""
    port = free_port()
    own = [settings_of(rank, port, tmp_path) for rank in (0, 1)]

    def other() -> Any:
        with nodes.Gathering(own[1]) as gathering:
            if words[1] is None:
                raise TrainingStopped("its own reason")
            return gathering.again(1, killed=words[1])

    with nodes.Gathering(own[0]) as gathering, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(other)
        assert gathering.again(1, killed=words[0]) is go
        assert asked.exception(30) or asked.result() is go


def test_nobody_waits_for_long_for_one_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was killed itself gives no word; and the others do not wait for a node 0 that is gone."""
    monkeypatch.setattr(again, "ANSWER_SECONDS", 0.1)
    port = free_port()
    own = [settings_of(rank, port, tmp_path) for rank in (0, 1)]
    with ThreadPoolExecutor(1) as pool:
        with nodes.Gathering(own[0]) as gathering:
            other = nodes.Gathering(own[1]).__enter__()
            assert gathering.again(1, killed=True) is False
            asked = pool.submit(other.again, 2, killed=True)
        gathering._store = None  # closes it
        assert asked.result(30) is False


def test_node_0_need_not_have_looked_at_the_data_to_refuse(tmp_path: Path) -> None:
    """What `launch` asks again and again while doctor and fetch are running."""
    port = free_port()
    own = [settings_of(rank, port, tmp_path / str(rank)) for rank in (0, 1)]

    def follow() -> None:
        with nodes.Gathering(own[1]) as gathering:
            gathering.follow()

    def begin(pool: ThreadPoolExecutor, others: list[Future[None]]) -> None:
        with nodes.Gathering(own[0]) as gathering:
            gathering.show(MARK)
            gathering.look()  # nobody is there yet
            others.append(pool.submit(follow))
            while not gathering._store.check(["node 1 sees"]):
                assert not others[0].done()
            gathering.look()

    others: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(BadInput, match="on node 1 is not the volume"):
            begin(pool, others)
        assert isinstance(others[0].exception(60), FollowedRank)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("command", ["doctor", "run"])
def test_nothing_in_common_is_refused_before_anything_is_spent(
    capsys: Any, tmp_path: Path, rank: str, command: str
) -> None:
    """One line with both ways out, on each node and without waiting for the others."""
    variables = {"PRESET": "demo", "WORK_DIR": tmp_path, "NUM_NODES": "2", "NODE_RANK": rank, "DEVICE": "cpu"}
    result = run_job(capsys, [command], {**variables, "SHARED_WORK_DIR": "false"})
    if command == "doctor" and rank == "1":
        assert result.code == 0 and "only node 0 runs this command" in result.out
        return
    assert result.code == 2
    (line,) = result.errors
    assert line.startswith("error: SHARED_WORK_DIR=false: NUM_NODES=2 nodes need a WORK_DIR; mount the same one on all")
    assert "or set MIRROR_CHECKPOINTS to a bucket or a Hub repo" in line


def test_another_node_keeps_apart_from_a_run_of_the_first(tmp_path: Path) -> None:
    """A machine that is node 1 now and node 0 after a restart must not take the one's files for the other's."""
    given = {"OUTPUT_DIR": str(tmp_path / "models")}
    second = settings_of(1, 29500, tmp_path, **given)
    assert second.paths.work == tmp_path
    moved = on_own_disk(second).paths
    assert (moved.work, moved.output) == (tmp_path / "node-1", tmp_path / "node-1" / "output")
    first = settings_of(0, 29500, tmp_path, **given)
    assert on_own_disk(first).paths == first.paths
