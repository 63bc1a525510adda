"""The socket on this machine, and what serves pages on it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence

import uvicorn

from lokki.errors import RunError
from lokki.ui.app import make_app
from lokki.ui.guard import Guard
from lokki.ui.sources import RunSource

ADDRESS = "127.0.0.1"


def serve_pages(
    sources: Sequence[RunSource], port: int, announce: Callable[[str], None], shorten: Callable[[str], str]
) -> None:
    """Serve pages until Ctrl-C or SIGTERM.

    * ``port``: 0 for one that is free.
    * ``announce``: gets the address, when it answers.
    * ``shorten``: shortens the paths in a text.

    Raises RunError for a port that is taken.
    """
    with _listening(port) as listener:
        own = listener.getsockname()[1]
        secret = secrets.token_urlsafe(24)
        hosts = [f"{name}:{own}" for name in (ADDRESS, "localhost")]
        app = Guard(make_app(sources, f"/{secret}", shorten), secret, hosts)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,  # errors of pages go to stderr as Python's logging puts them there
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        # It listens already: a request that comes before the server runs waits.
        announce(f"http://{ADDRESS}:{own}/{secret}/")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A port that was served a moment ago is free again.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise RunError(
            f"--port {port} cannot be used: {error.strerror}. Choose another, or none for a free one."
        ) from None
    return listener
