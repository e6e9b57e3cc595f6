"""``corgi serve`` as a process of its own, asked by many clients at once."""

import asyncio
import base64
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from PIL import Image

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline import TextToImage
from stages.inference.sampling import SamplingSettings
from tests.factories import save_tiny_bundle
from tests.live import descendants, name_of
from tests.ports import free_port

QUEUE, BATCH, MOST_IMAGES = 200, 4, 16
START_SECONDS, END_SECONDS = 450, 120

Reply = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SamplingSettings(PriorSampling(num_steps=1), DecoderSampling(num_steps=1))
    return save_tiny_bundle(tmp_path_factory.mktemp("made"), settings)


class Server:
    """The process, its address, and what it printed so far."""

    def __init__(self, bundle: Path, log: Path, *options: str) -> None:
        self.port, self.log = free_port(), log
        command = [sys.executable, "-m", "pipeline", "serve", str(bundle), "--port", str(self.port), *options]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | {"PYTHONPATH": os.getcwd()}
            )
        self.url = f"http://127.0.0.1:{self.port}"

    def wait(self) -> "Server":
        until = time.monotonic() + START_SECONDS
        while "ready at" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)
        return self

    def end(self, number: int) -> tuple[int, list[psutil.Process]]:
        """Send a signal; return the exit code, and those of the processes that are still there."""
        started = descendants(self.process.pid)
        self.process.send_signal(number)
        code = self.process.wait(END_SECONDS)
        return code, psutil.wait_procs(started, timeout=60)[1]

    def ask(self, *calls: Callable[["Client"], Awaitable[Reply]]) -> list[Reply]:
        """Return the replies of calls that are made at the same time."""

        async def asking() -> list[Reply]:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(self.url, connector=connector) as session:
                return list(await asyncio.gather(*(call(Client(session)) for call in calls)))

        return asyncio.run(asking())

    def memory(self) -> dict[int, int]:
        """Bytes that each of the server's processes holds for itself."""
        found = {}
        for one in descendants(self.process.pid):
            with contextlib.suppress(psutil.Error):  # it has ended
                if one.name().startswith("ray::"):
                    found[one.pid] = one.memory_full_info().uss
        return found


class Client:
    """Asks a server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, **headers: str) -> Reply:
        async with self.session.get(path, headers=headers) as reply:
            return reply.status, await reply.json()

    async def post(self, content: Any, **headers: str) -> Reply:
        body = {"data": content} if isinstance(content, bytes) else {"json": content}
        async with self.session.post("/generate", headers=headers, **body) as reply:
            return reply.status, await reply.json()


def wanted(prompt: str, seed: int, **more: Any) -> Callable[[Client], Awaitable[Reply]]:
    return lambda client: client.post({"prompt": prompt, "seed": seed, **more})


def pixels(reply: Reply) -> list[np.ndarray]:
    assert reply[0] == 200, reply
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in reply[1]["images"]]


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    options = ("--queue", QUEUE, "--batch-size", BATCH, "--most-images", MOST_IMAGES, "--longest-prompt", 100)
    started = Server(bundle, log, *map(str, options))
    try:
        yield started.wait()
    finally:
        if started.process.poll() is None:
            started.end(signal.SIGTERM)


def test_a_server_is_ready_and_reports_its_limits(server: Server) -> None:
    health, ready, about, document = server.ask(
        lambda c: c.get("/health"),
        lambda c: c.get("/ready"),
        lambda c: c.get("/about"),
        lambda c: c.get("/openapi.json"),
    )
    assert (health, ready) == ((200, {"status": "running"}), (200, {"status": "ready"}))
    assert about == (200, {"run": "tiny-1", "sizes": ["32x32"], "longest_prompt": 100, "most_images": MOST_IMAGES})
    assert document[1]["components"]["schemas"]["Wanted"]["properties"]["num_images"]["maximum"] == MOST_IMAGES
    assert set(document[1]["paths"]) == {"/health", "/ready", "/about", "/generate"}


def test_an_image_depends_on_its_prompt_and_seed_alone(server: Server, bundle: Path) -> None:
    """Whatever batch it lands in; and it is what the same model makes elsewhere, up to rounding."""
    alone = [pixels(server.ask(wanted("a red star", seed))[0])[0] for seed in (3, 4)]
    others = [wanted(f"number {number}", number) for number in range(3)]
    for crowd in ([*others, wanted("a red star", 3)], [wanted("a red star", 3), *others, *others]):
        found = [pixels(reply)[0] for reply in server.ask(*crowd)]
        assert sum(np.array_equal(one, alone[0]) for one in found) == 1
    both = server.ask(wanted("a red star", 3, num_images=2))[0]
    assert all(np.array_equal(one, other) for one, other in zip(pixels(both), alone, strict=True))
    assert [one["seed"] for one in both[1]["images"]] == [3, 4]
    here = np.asarray(TextToImage.load(bundle, device="cpu").generate("a red star", seed=3)[0])
    assert np.abs(here.astype(int) - alone[0].astype(int)).max() <= 1
    assert not np.array_equal(alone[0], alone[1])


def test_the_file_of_an_image_holds_how_it_was_made(server: Server) -> None:
    status, content = server.ask(lambda client: client.post({"prompt": "<script>é🐕"}))[0]
    image = Image.open(io.BytesIO(base64.b64decode(content["images"][0]["png"])))
    assert (status, image.info["prompt"], image.info["run"]) == (200, "<script>é🐕", "tiny-1")
    assert int(image.info["seed"]) == content["images"][0]["seed"]


def test_two_hundred_requests_at_once_are_all_served_and_memory_stays_flat(server: Server) -> None:
    crowd = [wanted(f"number {number}", number) for number in range(QUEUE)]
    first = server.ask(*crowd)
    before = server.memory()
    again = server.ask(*crowd)
    assert Counter(status for status, _ in first + again) == {200: 2 * QUEUE}
    assert all(np.array_equal(pixels(one)[0], pixels(other)[0]) for one, other in zip(first, again, strict=True))
    assert sum(after - before[pid] for pid, after in server.memory().items() if pid in before) < 40e6


def test_over_the_limit_requests_are_refused_at_once_and_the_others_served(server: Server) -> None:
    crowd = [wanted(f"number {number}", number, num_images=MOST_IMAGES) for number in range(2 * QUEUE // MOST_IMAGES)]
    replies = server.ask(*crowd)
    counts = Counter(status for status, _ in replies)
    assert set(counts) == {200, 429}, counts
    assert all("ask again" in content["detail"] for status, content in replies if status == 429)
    assert server.ask(wanted("after", 0))[0][0] == 200


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({}, 422, "prompt: Field required"),
        ({"prompt": 3}, 422, "prompt: Input should be a valid string"),
        ({"prompt": "a" * 101}, 422, "at most 100 characters"),
        ({"prompt": "a", "num_images": MOST_IMAGES + 1}, 422, f"less than or equal to {MOST_IMAGES}"),
        ({"prompt": "a", "num_images": 0}, 422, "greater than or equal to 1"),
        ({"prompt": "a", "num_images": True}, 422, "valid integer"),
        ({"prompt": "a", "seed": -1}, 422, "greater than or equal to 0"),
        ({"prompt": "a", "seed": 2**63}, 422, "less than or equal to"),
        ({"prompt": "a", "seed": 0.5}, 422, "valid integer"),
        ({"prompt": "a", "width": 4096}, 422, "width: Extra inputs are not permitted"),
        ({"prompt": "a", "size": 4096}, 422, "size: Input should be '32x32'"),
        ({"prompt": "\ud800"}, 422, "string"),
        ({"prompt": "a", "\ud800": 1}, 422, "unable to parse"),
        ({"prompt": "a", "\x1b[31m": 1}, 422, "Extra inputs"),
        ([1], 422, "body: "),
        (b"{", 422, "JSON"),
        (b"[" * 1500, 422, ""),
        (b'{"prompt": "a", "seed": ' + b"9" * 1200 + b"}", 422, ""),
        (b'{"prompt": "' + b"a" * 100_000 + b'"}', 413, "larger than"),
    ],
)
def test_what_is_malformed_is_refused_in_a_sentence(server: Server, content: Any, status: int, words: str) -> None:
    headers = {"content-type": "application/json"} if isinstance(content, bytes) else {}
    found, reply = server.ask(lambda client: client.post(content, **headers))[0]
    assert (found, set(reply)) == (status, {"detail"})
    assert words in reply["detail"]
    assert reply["detail"].isprintable()
    assert len(reply["detail"]) <= 1000


def test_a_page_of_another_site_gets_nothing(server: Server) -> None:
    """A name that leads here (DNS rebinding) is not served, and a form of another site sends no JSON."""
    form = {"content-type": "text/plain"}
    named, posted = server.ask(
        lambda client: _status(client, "/about", Host="evil.example"),
        lambda client: client.post(b'{"prompt": "a"}', **form),
    )
    assert (named[0], posted[0]) == (400, 422)


async def _status(client: Client, path: str, **headers: str) -> Reply:
    async with client.session.get(path, headers=headers) as reply:
        return reply.status, {}


def test_only_loopback_is_listened_on(server: Server) -> None:
    listening: set[str] = set()
    for process in [psutil.Process(server.process.pid), *descendants(server.process.pid)]:
        with contextlib.suppress(psutil.Error):  # it has ended
            listening |= {one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"}
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}


def test_what_a_lost_process_was_computing_and_what_waits_is_computed_by_the_next(server: Server) -> None:
    async def lose(_: Client) -> Reply:
        await asyncio.sleep(0.5)
        children = descendants(server.process.pid)
        model = [one for one in children if name_of(one).startswith("ray::ServeReplica:corgi:Model")]
        model[0].kill()
        return len(model), {}

    crowd = [wanted(f"number {number}", number) for number in range(QUEUE)]
    lost, *replies = server.ask(lose, *crowd)
    statuses = Counter(status for status, _ in replies)
    assert lost[0] == 1
    assert statuses == {200: QUEUE}


def test_at_the_end_no_process_and_no_folder_is_left(server: Server) -> None:
    """The last of this file: it ends the server."""
    code, left = server.end(signal.SIGTERM)
    assert (code, left) == (143, [])
    assert server.log.read_text().rstrip().endswith("ended by SIGTERM; the server has ended, and its Ray with it")
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(aiohttp.ClientConnectionError):
        server.ask(lambda client: client.get("/health"))
