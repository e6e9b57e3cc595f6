"""Each check of `corgi doctor` under the real condition that it is for."""

import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.config.schema import RunConfig
from pipeline.doctor import disk, limits, network, ray_cluster, store, versions
from pipeline.doctor.command import doctor_document, run_checks, worst
from pipeline.doctor.finding import Finding, Subject, ok
from tests.ports import free_port
from tests.s3_server import serve_s3

ROOT = Path(__file__).resolve().parents[4]
TOKEN = secrets.token_hex(32)


def _subject(uri: Path | str = "workspace", address: str | None = None) -> Subject:
    source = {"kind": "scenes", "num_images": 4, "resolution": 32}
    sections = {"name": "x", "store": str(uri), "download_shards": {"source": source, "image_size": 32}}
    return Subject(RunConfig.model_validate(sections), address)


def _statuses(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.status) for finding in findings]


def _child(code: str, *before: str) -> str:
    """Return what a process of its own prints, under conditions that a shell sets before it starts."""
    command = " && ".join([*before, f"exec {sys.executable} -c '{code}'"])
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- the store


def test_a_store_that_is_not_there_yet_can_be_made_and_nothing_is_left(tmp_path: Path) -> None:
    found = list(store.check(_subject(tmp_path / "new" / "store")))
    assert _statuses(found) == [("clock", "ok"), ("store", "ok"), ("store", "ok")]
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_an_error() -> None:
    (found,) = store.check(_subject("/sys/corgi"))  # not even root writes there
    assert (found.check, found.status) == ("store", "error")
    assert found.found.startswith("/sys/corgi: ")
    assert found.remedy


def test_a_store_on_s3_is_probed_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        uri = server.uri()
        assert _statuses(list(store.check(_subject(uri)))) == [("clock", "ok"), ("store", "ok"), ("store", "ok")]
        assert not server.contents(uri)
        (missing,) = store.check(_subject(f"s3://{server.bucket}-missing/x"))
    assert missing.status == "error"
    assert "there is no such bucket" in missing.found


def test_a_clock_that_is_late_is_reported() -> None:
    now = time.time()
    states = [next(iter(store.check_clock(now, now + late, "s3://b"))).status for late in (5.0, 60.0, -900.0)]
    assert states == ["ok", "warning", "error"]


def test_without_an_experiment_there_is_no_store_to_check() -> None:
    assert _statuses(list(store.check(Subject(None, None)))) == [("store", "ok")]


# ---- disks and limits


def _on_a_small_file_system(size: str, code: str) -> str:
    """Return what a child prints that has a file system of this size at /mnt, which nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    inner = f"mount -t tmpfs -o size={size} none /mnt && exec {sys.executable} -c '{code}'"
    command = ["unshare", "--mount", "bash", "-c", inner]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower():
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_an_error() -> None:
    code = (
        "from pathlib import Path; from pipeline.doctor.disk import check_folder; "
        'one = check_folder("the store", Path("/mnt/runs/x")); print(one.status, one.found)'
    )
    found = _on_a_small_file_system("256k", code)
    assert found.startswith("error the store (/mnt/runs/x) has 0.0 GiB free of 0.0 GiB")


def test_the_disks_of_an_experiment_are_those_it_writes_to(tmp_path: Path) -> None:
    names = [finding.found.split(" (")[0] for finding in disk.check(_subject(tmp_path))]
    assert names == ["the temporary folder", "the store", "the cache"]
    assert len(list(disk.check(Subject(None, None)))) == 1


@pytest.mark.parametrize(("files", "status"), [(512, "error"), (4096, "warning")])
def test_few_open_files_are_reported(files: int, status: str) -> None:
    code = (
        "import resource; from pipeline.doctor.limits import check_open_files; "
        "one = check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]); "
        "print(one.status, one.found, one.remedy)"
    )
    found = _child(code, f"ulimit -n {files}")
    assert found.startswith(f"{status} open files: {files}; Ray wants 65536 run `ulimit -n 65536`")
    assert limits.check_open_files(resource.RLIM_INFINITY).status == "ok"


def test_a_small_shared_memory_is_a_warning() -> None:
    code = (
        "from pathlib import Path; from pipeline.doctor.limits import check_shared_memory; "
        'one = check_shared_memory(Path("/mnt")); print(one.status, one.remedy)'
    )
    assert _on_a_small_file_system("64m", code).startswith("warning give a container more (docker --shm-size")


def test_a_temporary_folder_must_leave_room_for_the_paths_of_sockets() -> None:
    assert limits.check_temporary_folder("/tmp").status == "ok"
    long = f"/tmp/{'x' * 60}"
    found = limits.check_temporary_folder(long)
    assert (found.status, found.remedy) == ("warning", "set RAY_TMPDIR or TMPDIR to a short path, such as /tmp")
    session = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    longest = "/" + "x" * (107 - len(session) - 2)
    with socket.socket(socket.AF_UNIX) as probe:  # the kernel itself draws the line there
        with pytest.raises(FileNotFoundError):
            probe.bind(f"{longest}/{session}")
        with pytest.raises(OSError, match="path too long"):
            probe.bind(f"{longest}x/{session}")
    assert limits.check_temporary_folder(longest).status == "ok"
    assert limits.check_temporary_folder(longest + "x").status == "warning"


# ---- Ray and the network


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A server that treats tokens as Ray's job server does, and a home without one."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("authorization")
            self.send_response(200 if given == f"Bearer {TOKEN}" else 401 if given is None else 403)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}')

        def log_message(self, format: str, *values: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Reply) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _token_file(home: Path, content: str, mode: int) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_port_that_is_closed_is_an_error(head: str) -> None:
    found = list(ray_cluster.check(Subject(None, f"http://127.0.0.1:{free_port()}")))
    assert (found[0].status, found[0].remedy) == ("error", "start it with `ray start --head`, or correct the address")


def test_the_token_must_be_there_switched_on_right_and_private(
    head: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def words() -> list[str]:
        return [f"{one.status}: {one.found}" for one in ray_cluster.check(Subject(None, head))]

    assert words()[0].endswith("asks for a token, and RAY_AUTH_MODE is not token here")
    assert words()[1].startswith("warning: there is no token: a cluster that is started here is open")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert words()[0].endswith("asks for a token, and there is none here")
    path = _token_file(tmp_path, "wrong", 0o600)
    assert words()[0] == f"error: the cluster at {head!r} does not take the token of {path}"
    _token_file(tmp_path, TOKEN + "\n", 0o644)
    first, second, third = words()
    assert first == f"ok: the cluster at {head!r} responds, and takes the token of {path}"
    assert second == f"warning: other users of this machine can read {path}"
    assert third.startswith("ok: RAY_AUTH_MODE is token")
    assert TOKEN not in "".join(words())


def test_a_name_that_stands_for_loopback_is_a_warning() -> None:
    (found,) = network.check_name("localhost")
    assert found.status == "warning"
    assert "stands for loopback (127.0.0.1)" in found.found
    (unknown,) = network.check_name("no-such-host.invalid")
    assert "cannot be resolved" in unknown.found


def test_interfaces_that_the_environment_names_are_looked_at() -> None:
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    (of_itself,) = network.check_named(loopback, "eth7")
    assert (of_itself.status, "names loopback" in of_itself.found) == ("warning", True)
    assert "(eth7)" in of_itself.remedy
    (unknown,) = network.check_named("no-such-0", None)
    assert "no interface 'no-such-0' (it has " in unknown.found
    assert not [*network.check_named("", "eth7")]


def test_the_interface_is_that_of_the_address() -> None:
    assert network.own_address("127.0.0.1") == "127.0.0.1"
    first, *_ = network.check(Subject(None, "127.0.0.1:6379"))
    assert first.found == "other nodes reach this one at 127.0.0.1, by the interface lo"


# ---- versions, and all of them


def test_versions_are_those_of_the_constraints() -> None:
    found = list(versions.check(Subject(None, None)))
    assert [one.status for one in found if "ray" in one.found.split()] == ["ok"]
    assert found[-1].found.startswith("python 3.")


def test_a_check_that_fails_or_hangs_leaves_the_others() -> None:
    def fails(subject: Subject) -> Iterator[Finding]:
        yield ok("fails", "so far")
        raise ValueError("odd")

    def hangs(subject: Subject) -> Iterator[Finding]:
        time.sleep(30)
        yield ok("hangs", "never")

    checks = {"fails": fails, "hangs": hangs, "works": lambda subject: [ok("works", "well")]}
    found = run_checks(checks, Subject(None, None), {"fails": 60, "hangs": 0.3, "works": 60})
    assert _statuses(found) == [("fails", "ok"), ("fails", "error"), ("hangs", "error"), ("works", "ok")]
    assert found[1].found == "the check itself failed (ValueError: odd)"
    assert found[2].found == "no result after 0 s"
    assert worst(found) == "error"
    assert worst(found[:1]) == doctor_document(found[:1])["status"] == "ok"


def test_the_command_prints_one_document_and_ends_with_1_where_there_is_an_error(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    command = [sys.executable, "-m", "pipeline", "doctor", "configs/smoke.yaml", "store=/sys/corgi", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "error"
    names = {one["check"] for one in document["checks"]}
    assert names >= {"versions", "ray", "token", "gpu", "communication", "network", "store", "disk", "limits"}
    errors = [one for one in document["checks"] if one["status"] == "error"]
    assert any(one["found"].startswith("/sys/corgi: ") for one in errors)
    assert all(one["remedy"] for one in document["checks"] if one["status"] != "ok")
