"""Who is let in: readers who have the secret, and come to this machine under its own name."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lokki.pictures.svg import drawing_style


def content_policy() -> str:
    """Return what pages may load.

    Their own script and style, and nothing from elsewhere. Bars of a timeline are placed by ``style`` attributes. The
    drawing has the one style element that is allowed.
    """
    style = base64.b64encode(hashlib.sha256(drawing_style().encode()).digest()).decode()
    return (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
        f"style-src-elem 'self' 'sha256-{style}'; style-src-attr 'unsafe-inline'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Stands before the pages and answers for them where nobody may come in.

    The secret is the first part of each address. It is in no cookie, since browsers send those of one server on
    127.0.0.1 to all others there, whatever their ports (RFC 6265, 8.5).
    """

    def __init__(self, app: ASGIApp, secret: str, hosts: Collection[str]) -> None:
        self._app = app
        self._secret: Final = secret
        self._hosts: Final = frozenset(hosts)
        self._headers: Final = {
            "Content-Security-Policy": content_policy(),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",  # addresses have the secret
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        # A page of another host may have its name lead here, to read what a browser on this machine may see. The name
        # stays in the header: https://owasp.org/www-community/attacks/DNS_Rebinding
        if Headers(scope=scope).getlist("host") not in [[host] for host in self._hosts]:
            return PlainTextResponse("This page is read under its own address alone.\n", 403)
        first = str(scope["path"]).split("/")[1:2]
        if not first or not secrets.compare_digest(first[0].encode(), self._secret.encode()):
            return PlainTextResponse("Not found. Open the address that lokki ui printed.\n", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Runs are only read here.\n", 405, headers={"Allow": "GET, HEAD"})
        return None
