"""An HTTP server of images in a process of its own, for :mod:`benchmarks.data.download`; prints its port.

/00012.jpg answers at once, /slow/00012.jpg a piece at a time with a wait after each, anything else with 404.
"""

import argparse
import asyncio
import io
import sys

import numpy as np
from PIL import Image

IMAGES = 48  # different ones; addresses go round
SMALLEST, LARGEST = 300, 1000  # pixels of a side
PIECES = 64  # that a slow answer comes in


def make_images() -> list[bytes]:
    """Return JPEG files of 300 to 1000 pixels a side and some 30 to 150 kB, as photographs on the web are."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(IMAGES):
        width, height = (int(side) for side in rng.integers(SMALLEST, LARGEST + 1, size=2))
        rough = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grained = smooth + rng.normal(0, 9, (height, width, 1))
        file = io.BytesIO()
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


class ImageServer:
    """Serves one request per connection."""

    def __init__(self, wait: float) -> None:
        self._images, self._wait = make_images(), wait

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request and reply; a client that goes away is no fault."""
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)[1].decode()
            name = path.rpartition("/")[2].removesuffix(".jpg")
            if not name.isdigit():
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                await self._send(self._images[int(name) % IMAGES], writer, slow=path.startswith("/slow/"))
            await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def _send(self, content: bytes, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\nConnection: close"
        writer.write(f"{head}\r\n\r\n".encode())
        size = len(content) // PIECES + 1 if slow else len(content)
        for start in range(0, len(content), size):
            writer.write(content[start : start + size])
            if slow:
                await writer.drain()
                await asyncio.sleep(self._wait)


async def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", type=float, required=True, help="seconds after each piece of a slow answer")
    server = await asyncio.start_server(ImageServer(parser.parse_args().wait).reply, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
