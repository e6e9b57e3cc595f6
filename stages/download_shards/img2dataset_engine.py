"""Fetch the addresses of a shard with img2dataset's own shard downloader, for lists and networks that a user trusts.

Its threads, connections, retries and opt-outs are img2dataset's; it has no address policy, no limit of a file's size,
of an address's time in all or of the connections to a host, and follows any redirect. What it fetches then goes the way
of every image: our decoder, and img2dataset's resizer, in a child process. It runs in a thread and hands images on as
they come, so that a shard's originals are not held. ``import img2dataset`` brings torch and ray along, some 5 s.
"""

import http.client
import os
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.owned_folders import scratch_folder
from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import FetchFault, requested_url

_HELD = 8  # fetched images that wait for the decoder
_POLL_SECONDS = 0.2
_HTTP = re.compile(r"HTTP Error (\d{3})\b")
_SYSTEM = re.compile(r"\[(?:Errno (-?\d{1,6})|(SSL: [A-Z_]{1,60}))\]")
_WORDS = (
    ("infinite loop", FailureCause.TOO_MANY_REDIRECTS),
    ("Redirection to url", FailureCause.INVALID_URL),  # of another scheme
    ("X-Robots-Tag", FailureCause.DISALLOWED),
    ("timed out", FailureCause.TIMEOUT),
    ("Connection refused", FailureCause.CONNECTION_REFUSED),
    ("CERTIFICATE_VERIFY_FAILED", FailureCause.BAD_CERTIFICATE),
    ("Name or service not known", FailureCause.UNKNOWN_HOST),
    ("name resolution", FailureCause.UNKNOWN_HOST),
    ("Connection reset", FailureCause.CONNECTION_LOST),
    ("IncompleteRead", FailureCause.CONNECTION_LOST),
    ("closed connection", FailureCause.CONNECTION_LOST),
    ("unknown url type", FailureCause.INVALID_URL),
    ("no host given", FailureCause.INVALID_URL),
    ("nonnumeric port", FailureCause.INVALID_URL),
)
Fetched = tuple[int, bytes | ItemFault]


def fetch_all(urls: Sequence[str], config: DownloadShardsConfig) -> Iterator[Fetched]:
    """Yield (index, content or fault) once for each address, in order of arrival."""
    numbers, asked = [], []
    for number, url in enumerate(urls):
        try:
            asked.append(requested_url(url))  # of urllib's other schemes, one reads the files of this machine
            numbers.append(number)
        except FetchFault as fault:
            yield number, fault
    missing = set(range(len(numbers)))
    with scratch_folder("img2dataset") as folder:
        for position, content in _Download(asked, config, folder).images():
            missing.discard(position)
            yield numbers[position], content
    for position in sorted(missing):  # which img2dataset has dropped
        yield numbers[position], ItemFault(FailureCause.OTHER)


class _Download:
    """One shard of img2dataset's, and the images that it hands on: its resizer and its writer of samples."""

    def __init__(self, urls: Sequence[str], config: DownloadShardsConfig, folder: Path) -> None:
        self._urls, self._config, self._folder = urls, config, folder
        self._found: queue.Queue[Fetched | BaseException | None] = queue.Queue(_HELD)
        self._closed = threading.Event()

    def images(self) -> Iterator[Fetched]:
        """Run the download and yield what it fetches."""
        if not self._urls:
            return
        threading.Thread(target=self._run, name="img2dataset", daemon=True).start()
        try:
            while (found := self._found.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            self._closed.set()

    def _run(self) -> None:
        try:
            self._downloader().download_shard((0, self._list()))
        except BaseException as error:  # noqa: BLE001  raised where the images are asked for
            self._put(error)
        self._put(None)

    def _list(self) -> str:
        path = self._folder / "list.arrow"
        table = pa.table({"url": pa.array(self._urls, pa.string())})
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        return str(path)

    def _downloader(self) -> Any:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the package registry
        from img2dataset.downloader import Downloader

        config, options = self._config, self._config.img2dataset
        return Downloader(
            sample_writer_class=lambda *settings: self,
            resizer=lambda stream, boxes: (stream.getvalue(), None, None, None, None, None),
            thread_count=options.thread_count,
            save_caption=False,
            extract_exif=False,
            output_folder=str(self._folder),
            column_list=["url"],
            timeout=options.timeout,
            number_sample_per_shard=max(2, len(self._urls)),
            oom_shard_count=1,
            compute_hash=None,
            verify_hash_type=None,
            encode_format=config.encode_format,
            retries=options.retries,
            user_agent_token=options.user_agent_token,
            disallowed_header_directives=options.disallowed_header_directives or None,
        )

    def write(self, content: bytes | None, key: str, caption: str | None, row: dict[str, Any]) -> None:
        """Take a sample, as img2dataset's writers do."""
        self._put((int(key), fault_of(str(row["error_message"])) if content is None else content))

    def close(self) -> None:
        """Do nothing: there is no file to close."""

    def _put(self, found: Fetched | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                return self._found.put(found, timeout=_POLL_SECONDS)
            except queue.Full:
                continue


def fault_of(message: str) -> ItemFault:
    """Return the fault that a message of img2dataset's, mostly urllib's, stands for.

    Of its words only the status and the system's reason are kept: the others may be those of an address, in any form.
    """
    cause = next((cause for words, cause in _WORDS if words in message), None)
    if (status := _HTTP.search(message)) and cause not in {FailureCause.TOO_MANY_REDIRECTS, FailureCause.INVALID_URL}:
        code = int(status[1])
        reason = http.client.responses.get(code, "")
        return ItemFault(FailureCause.HTTP, f"HTTP Error {code}: {reason}".rstrip(": "), http_status=code)
    cause = cause or FailureCause.OTHER
    known = next(iter(cause.messages))
    system = _SYSTEM.search(message)
    return ItemFault(cause, f"{known}: {_reason_of(system)}" if system else known)


def _reason_of(system: re.Match[str]) -> str:
    number = int(system[1] or 0)
    return f"{system[0]} {os.strerror(number)}" if number > 0 else system[0]
