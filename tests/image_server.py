"""A web server of small images, whose content and presence a test decides."""

import contextlib
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image


class ImageServer(http.server.ThreadingHTTPServer):
    """Serves an image of every number; ``before`` is called with its shard, and says whether it is there."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self, rows: int) -> None:
        """Serve images that stand in shards of so many rows."""
        self.rows = rows
        self.before: Callable[[int], bool] = lambda shard: True
        self.changed: set[int] = set()
        """Numbers whose image is another than it was."""
        super().__init__(("127.0.0.1", 0), _ImageHandler)

    def urls(self, count: int) -> list[str]:
        """Return the addresses of the first images."""
        return [f"http://127.0.0.1:{self.server_port}/{number}" for number in range(count)]

    @classmethod
    @contextlib.contextmanager
    def running(cls, rows: int) -> "Iterator[ImageServer]":
        """Serve in a thread."""
        with cls(rows) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()


class _ImageHandler(http.server.BaseHTTPRequestHandler):
    server: ImageServer

    def do_GET(self) -> None:
        number = int(self.path.strip("/"))
        if not self.server.before(number // self.server.rows):
            self.send_error(404)
            return
        file = io.BytesIO()
        blue = 9 if number in self.server.changed else 99
        Image.new("RGB", (32, 32), (20 * number, 255 - 20 * number, blue)).save(file, "PNG")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""
