"""Serve rendered scenes over loopback HTTP, with dead addresses and damaged files among them."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cluster.owned_folders import scratch_folder
from models.scenes.captions import caption_scene
from models.scenes.render import render_scenes
from models.scenes.scene import Scene, make_scenes
from models.scenes.vocabulary import DOMAINS
from stages.download_shards.config import ScenesSource

_URL_SCHEMA = pa.schema([("url", pa.string())])
_CAPTIONED_SCHEMA = pa.schema([("caption", pa.string()), ("url", pa.string())])
_CHUNK = 512
_COMPRESSION = 1  # the files live for seconds
_POLL_SECONDS = 0.02  # how soon the server notices that it should stop


@contextlib.contextmanager
def serve_scenes(source: ScenesSource) -> Iterator[tuple[pa.Table, str]]:
    """Yield the list (columns (caption,) url) and the base address of a server that serves it meanwhile."""
    scenes = _make_scenes(source)
    with scratch_folder("scenes") as folder:
        _write_files(folder, scenes, source)
        with _serving(str(folder)) as base_url:
            yield _make_list(scenes, source), base_url


def file_names(source: ScenesSource) -> list[str]:
    """Return the name of each entry's file, which is its url in the list."""
    return [f"{source.domain}-{source.split}-{source.seed}-{index:07d}.png" for index in range(_num_entries(source))]


def faulty_entries(source: ScenesSource) -> tuple[list[int], list[int]]:
    """Return the indices of the entries without a file, and of those whose file is damaged, chosen by the seed."""
    order = np.random.default_rng((source.seed, 0xDEAD)).permutation(_num_entries(source)).tolist()
    num_faulty = source.num_dead_urls + source.num_corrupt
    return sorted(order[: source.num_dead_urls]), sorted(order[source.num_dead_urls : num_faulty])


def _make_scenes(source: ScenesSource) -> list[Scene]:
    """Make one scene for each entry of the list; those of two domains alternate."""
    num = _num_entries(source)
    if source.domain != "both":
        return make_scenes(num, seed=source.seed, domain=source.domain, split=source.split)
    by_domain = [make_scenes(-(-num // len(DOMAINS)), source.seed, domain, source.split) for domain in DOMAINS]
    return [scene for turn in zip(*by_domain, strict=True) for scene in turn][:num]


def _num_entries(source: ScenesSource) -> int:
    return source.num_images + source.num_dead_urls + source.num_corrupt


def _make_list(scenes: list[Scene], source: ScenesSource) -> pa.Table:
    urls = file_names(source)
    if not source.captioned:
        return pa.table({"url": urls}, schema=_URL_SCHEMA)
    rng = np.random.default_rng((source.seed, 0xCA97))
    drops = np.where(rng.random(len(scenes)) < source.short_captions, source.caption_drop, 0.0).tolist()
    captions = [caption_scene(scene, rng, drop) for scene, drop in zip(scenes, drops, strict=True)]
    return pa.table({"caption": captions, "url": urls}, schema=_CAPTIONED_SCHEMA)


def _write_files(folder: Path, scenes: list[Scene], source: ScenesSource) -> None:
    """Write the files; every second damaged one is cut short, the other damaged ones are no images at all."""
    names = file_names(source)
    dead, corrupt = faulty_entries(source)
    for start in range(0, len(scenes), _CHUNK):
        images = render_scenes(scenes[start : start + _CHUNK], source.resolution).numpy()
        for name, image in zip(names[start : start + _CHUNK], images, strict=True):
            Image.fromarray(image).save(folder / name, compress_level=_COMPRESSION)
    for index in dead:
        (folder / names[index]).unlink()
    for turn, index in enumerate(corrupt):
        content = (folder / names[index]).read_bytes()
        (folder / names[index]).write_bytes(content[: len(content) // 2] if turn % 2 else b"not an image\n" * 8)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024  # with the default of 5, simultaneous downloads are refused and retried
    daemon_threads = True


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the stage counts the requests."""


@contextlib.contextmanager
def _serving(folder: str) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="scene-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
