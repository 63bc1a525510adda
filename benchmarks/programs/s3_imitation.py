"""Enough of S3 to measure against: serves the files of a folder, takes uploads and forgets them.

One asyncio process, so that it costs the measured program little; moto takes milliseconds for each request. Prints its
port. ``python s3_imitation.py <folder> <delay>``: seconds to wait before each answer to a GET, as S3 does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

SAME = "output.pkl.gz"
"""All keys that end so are one and the same file."""


class Connection:
    def __init__(self, folder: Path, delay: float) -> None:
        self.folder = folder
        self.delay = delay
        self.contents: dict[str, bytes] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                if headers.get("expect") == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await skip(reader, int(headers.get("content-length", 0)))
                if method == "GET" and self.delay:
                    await asyncio.sleep(self.delay)
                writer.writelines(self.answer(method, target, headers))
                await writer.drain()
        finally:
            writer.close()

    def answer(self, method: str, target: str, headers: dict[str, str]) -> list[bytes]:
        address = urlsplit(target)
        query = parse_qs(address.query, keep_blank_values=True)
        if method == "POST" and "uploads" in query:
            return http(
                "200 OK", b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        if method == "POST":
            return http("200 OK", b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
        if method != "GET":
            return http("200 OK", b"")
        content = self.content(unquote(address.path))
        if "range" in headers:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            return http("206 Partial Content", part, f"Content-Range: bytes {first}-{last}/{len(content)}\r\n")
        return http("200 OK", content)

    def content(self, path: str) -> bytes:
        name = path.rpartition("/")[2]
        if name not in self.contents:
            self.contents[name] = (self.folder / name).read_bytes()
        return self.contents[name]


async def skip(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        size -= len(await reader.read(min(size, 2**20)))


def http(status: str, body: bytes, more: str = "") -> list[bytes]:
    head = (
        f'HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: "1"\r\n'
        f"Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n{more}\r\n"
    )
    return [head.encode(), body]


async def main() -> None:
    connection = Connection(Path(sys.argv[1]), float(sys.argv[2]))
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
