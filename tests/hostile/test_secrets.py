"""Credentials wherever they are given: the run works with them, and nothing that it leaves holds one.

Every secret holds the same rare word, for which all that a real run leaves is searched: the store on a server of S3's
protocol, MLflow behind a real server, logs, output, Ray's session folder, command lines.
"""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.factories import save_image
from tests.live import command_of, content_of, descendants, files_below
from tests.mlflow_server import serve_mlflow
from tests.ports import free_port
from tests.s3_server import S3Server, serve_s3

ROOT = Path(__file__).resolve().parents[2]
CANARY = "c4naryX7"


def secret(where: str) -> str:
    return f"{where}-{CANARY}-{where}"


@dataclass
class WebServer:
    """A list of images and the images, for those alone who have the password and the token."""

    port: int
    refused: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve_web(folder: Path) -> Iterator[WebServer]:
    found = WebServer(0)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # type: ignore[arg-type]

        def send_head(self):
            login = b64decode(self.headers.get("Authorization", "Basic ").removeprefix("Basic ")).decode()
            if not login.startswith("reader:list-") or "sig=" not in self.path:
                found.refused.append(self.path)
                self.send_error(403)
                return None
            return super().send_head()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@dataclass
class Corgi:
    """Runs commands as a user does, and keeps what they print, every command line below them, and Ray's files.

    Ray's folder goes with the run: a further name for each of its files, made meanwhile, keeps all that is written.
    """

    environment: dict[str, str]
    folder: Path
    ray_folder: Path | None = None
    kept: Path | None = None
    printed: list[str] = field(default_factory=list)
    command_lines: set[str] = field(default_factory=set)

    def __call__(self, *words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pipeline", *words]
        out, err = self.folder / "out", self.folder / "err"
        with (
            out.open("w") as stdout,
            err.open("w") as stderr,
            subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=stdout, stderr=stderr) as process,
        ):
            while process.poll() is None:
                self._note_command_lines(process.pid)
                self._keep_files()
                time.sleep(0.2)
        text = out.read_text() + err.read_text()
        self.printed.append(text)
        return process.returncode, text

    def _note_command_lines(self, pid: int) -> None:
        self.command_lines.update(" ".join(command_of(child)) for child in descendants(pid))

    def _keep_files(self) -> None:
        if self.ray_folder is None or self.kept is None:
            return
        for path in files_below(self.ray_folder):
            copy = self.kept / str(path.relative_to(self.ray_folder)).replace("/", "~")
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and not copy.exists():
                    copy.hardlink_to(path)


def write_sources(folder: Path, port: int) -> str:
    """Write four images and the list of their addresses, and return the list's own address."""
    login = f"reader:{secret('list')}"
    lines = ["url,caption"]
    for number in range(4):
        save_image(folder / f"{number}.png", color=(60 * number, 10, 10))
        lines.append(f"http://{login}@127.0.0.1:{port}/{number}.png?sig={secret('image')}&w=9,image {number}")
    lines.append(f"http://{login}@127.0.0.1:{port}/gone.png?sig={secret('gone')},nothing")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return f"http://{login}@127.0.0.1:{port}/list.csv?sig={secret('query')}"


def write_config(folder: Path, s3: S3Server, store: str, list_address: str, tracking: str) -> Path:
    config = {
        "store": store,
        "storage": {
            "options": {
                "s3": {
                    "endpoint_url": s3.endpoint,
                    "key": secret("key"),
                    "secret": secret("secret"),
                    "token": secret("token"),
                    "config_kwargs": {"connect_timeout": 20, "user_agent_extra": secret("agent")},
                },
                "http": {"client_kwargs": {"headers": {"X-Anything": secret("header")}}},
            },
            "cache": str(folder / "cache"),
        },
        "tracking": {"uri": tracking, "register_model": False},
        "cluster": {"num_cpus": 2},
        "download_shards": {
            "source": {"kind": "url_list", "path": list_address, "format": "csv", "caption_column": "caption"},
            "rows_per_shard": 3,
            "image_size": 16,
            "retries": 0,
            "allowed_networks": ["127.0.0.0/8"],
        },
    }
    path = folder / "canary.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def files_with_canary(*folders: Path) -> list[str]:
    found = []
    for folder in folders:
        for path in files_below(folder):
            if CANARY.encode() in content_of(path):
                found.append(str(path.relative_to(folder)))
    return found


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))  # sockets below it must have short names
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
def test_a_run_with_secrets_everywhere_works_and_leaves_none(tmp_path: Path, ray_folder: Path) -> None:
    web, mlflow, home, work = (tmp_path / name for name in ("web", "mlflow", "home", "work"))
    live, kept = ray_folder / "live", ray_folder / "kept"
    for folder in (web, mlflow, home, work, live, kept):
        folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment |= {
        "PYTHONPATH": str(ROOT), "HOME": str(home), "RAY_TMPDIR": str(live), "AWS_DEFAULT_REGION": "us-east-1",
        "SOME_API_KEY": secret("environment"),
    }  # fmt: skip
    port = free_port()
    with serve_s3() as s3, serve_web(web) as server, serve_mlflow(mlflow, port):
        store = s3.uri("canary")
        tracking = f"http://tracker:{secret('tracking')}@127.0.0.1:{port}"
        config = write_config(work, s3, store, write_sources(web, server.port), tracking)
        corgi = Corgi(environment, work, live, kept)
        code, text = corgi("run", config.name, "--json")
        assert code == 0, text
        (record,) = [json.loads(c) for name, c in s3.contents(store).items() if name.endswith("run.json")]
        assert record["status"] == "done"
        assert record["stages"][0]["counts"] == {"rows": 5, "images": 4, "captioned": 4, "failed_http_404": 1}
        assert record["mlflow"]["tracking_uri"] == f"http://127.0.0.1:{port}"
        assert record["config"]["storage"]["options"]["s3"] == {
            "endpoint_url": s3.endpoint, "key": "…", "secret": "…", "token": "…",
            "config_kwargs": {"connect_timeout": 20, "user_agent_extra": "…"},
        }  # fmt: skip
        code, text = corgi("run", config.name, "--json")  # what is done is found again, by the same address
        assert code == 0, text
        assert "everything is done" in text
        for words in (["plan", config.name], ["plan", config.name, "download_shards.image_size=8"]):
            assert corgi(*words)[0] == 0
        assert server.refused == []

        # The next run fails: the list has moved, and then the password is a wrong one.
        (web / "list.csv").unlink()
        assert corgi("run", config.name, "download_shards.image_size=9")[0] == 2
        wrong = f"download_shards.source.path=http://reader:{secret('wrong')}@127.0.0.1:{server.port}/l.csv?sig=1"
        assert corgi("plan", config.name, wrong)[0] == 2
        stored = {name: content for name, content in s3.contents(store).items() if CANARY.encode() in content}
    assert stored == {}
    assert CANARY not in "".join(corgi.printed)
    assert CANARY not in "\n".join(corgi.command_lines)
    config.unlink()
    assert files_with_canary(mlflow, home, work, ray_folder) == []
    assert list(kept.glob("*~logs~raylet*")), "none of Ray's logs were searched"
    assert list(kept.glob("*~logs~*worker*")), "none of its workers' logs were searched"


@pytest.mark.parametrize(
    "words",
    [
        (f"store=ftp://u:{secret('p')}@127.0.0.1:9/x",),
        (f"store=filecache::ftp://u:{secret('p')}@127.0.0.1:9/x",),
        (f"store=simplecache::s3://key:{secret('p')}@bucket/x",),
        (f"store=nonsense://u:{secret('p')}@h/x",),
        (f"tracking.uri={{{secret('p')}: 1}}",),
        (f"tracking.uri.http://u:{secret('p')}@h",),
        (f"storage.options={secret('p')}",),
        (f"storage.options.s3={secret('p')}", "storage.options.s3.secret.deeper=1"),
        (f"storage.options.s3.secret=[{secret('p')}", ),
        (f"storage.secret={secret('p')}",),
        (f"download_shards.source={{kind: folder, path: 'http://u:{secret('p')}@127.0.0.1:9/x?{secret('q')}'}}",),
        (f"download_shards.source={{kind: folder, path: 's3:/u:{secret('p')}@b/x'}}",),
        (f"reuse={{embed_clip: {{config: 'https://u:{secret('p')}@h/base.yaml'}}}}",),
        (f"cluster.address=ray://u:{secret('p')}@127.0.0.1:9",),
    ],
)  # fmt: skip
def test_no_message_about_wrong_input_quotes_a_secret(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "download_shards: {source: {kind: scenes, num_images: 4}}\nstore: here\n"
        f"tracking: {{uri: 'http://u:{secret('t')}@127.0.0.1:9'}}\n"
    )
    corgi = Corgi(os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}, tmp_path)
    code, text = corgi("run", "x.yaml", *words, "--json")
    assert code == 2, text
    assert CANARY not in text
    assert "Traceback" not in text
    (tmp_path / "x.yaml").unlink()
    assert files_with_canary(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        f"tracking: {{uri: 'http://u:{secret('p')}@h'",
        f"extends: [http://u:{secret('p')}@h/base.yaml]",
        f"extends: s3://u:{secret('p')}@h/base.yaml",
        f"storage: {{options: {{s3: [{secret('p')}]}}}}",
        f"storage:\n  options: {{s3: {{secret: {secret('p')}\n  key: 1",
        f"- http://u:{secret('p')}@h",
    ],
)
def test_no_message_about_a_wrong_file_quotes_a_secret(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(content)
    code, text = Corgi(os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path)("validate", "x.yaml")
    assert code == 2, text
    assert CANARY not in text
    assert "Traceback" not in text


@pytest.mark.timeout(300)
def test_records_are_for_their_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "download_shards: {source: {kind: folder, path: gone}}\nstore: here\ncluster: {num_cpus: 1}\n"
    )
    (tmp_path / "gone").mkdir()
    save_image(tmp_path / "gone" / "a.png", color=(1, 2, 3))
    code, text = Corgi(os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path)("run", "x.yaml")
    assert code == 0, text
    private = [*tmp_path.glob("here/runs/*/run.json"), tmp_path / "here/mlflow.db", tmp_path / "here/digests.db"]
    assert {path.name: path.stat().st_mode & 0o777 for path in private} == dict.fromkeys(
        ["run.json", "mlflow.db", "digests.db"], 0o600
    )


@pytest.mark.parametrize(
    "override",
    [
        f"storage.options.s3.secret={secret('p')}",
        f"storage.options={{s3: {{anon: false, foo: {secret('p')}}}}}",
        f"tracking.uri=http://u:{secret('p')}@h",
        f"store=ftp://u:{secret('p')}@h/x",
    ],
)
def test_an_override_that_holds_a_secret_is_not_submitted(override: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("download_shards: {source: {kind: scenes, num_images: 4}}\n")
    corgi = Corgi(os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path)
    code, text = corgi("submit", "x.yaml", override, "--address", f"http://u:{secret('a')}@127.0.0.1:9")
    assert code == 2, text
    assert f"{override.partition('=')[0]}: holds a secret, and overrides are part of the job's command" in text
    assert CANARY not in text
    harmless = "storage.options={s3: {anon: false, endpoint_url: 'http://127.0.0.1:9'}}"
    code, text = corgi("submit", "x.yaml", harmless, "--address", f"http://u:{secret('a')}@127.0.0.1:9")
    assert code == 2, text
    assert "--address: no Ray job server can be used at" in text
    assert CANARY not in text
