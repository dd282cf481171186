"""The way from the egress proxy to a model provider: TCP, TLS, and the proxy that `HTTPS_PROXY` names, if it does.

One connection per request. Plain http goes to its host directly.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from .http import LARGEST_HEAD, MessageError, head_bytes, read_response
from .providers import Provider

CONNECT_TIMEOUT: Final = 10.0  # seconds, with name, TLS and all


class UpstreamError(Exception):
    """A provider cannot be reached. `status` says so to a client: 502, or 504 where it took too long."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


async def connect(provider: Provider, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the provider. UpstreamError."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            proxy = _proxy(provider)
            if proxy is not None:
                return await _through(proxy, provider, context)
            return await asyncio.open_connection(
                provider.host,
                provider.port,
                ssl=context if provider.secure else None,
                limit=LARGEST_HEAD,
                happy_eyeballs_delay=0.25,
            )
    except TimeoutError as exc:
        raise UpstreamError(f"it did not answer within {CONNECT_TIMEOUT:.0f} s", 504) from exc
    except ssl.SSLCertVerificationError as exc:
        raise UpstreamError(f"its certificate is not valid here: {exc.verify_message}") from exc
    except (OSError, MessageError, asyncio.IncompleteReadError) as exc:
        raise UpstreamError(str(exc)) from exc


def _proxy(provider: Provider) -> str | None:
    """The URL of the proxy that the environment names for it."""
    if not provider.secure or proxy_bypass(provider.host):
        return None
    return getproxies().get("https")


async def _through(
    proxy: str, provider: Provider, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise UpstreamError("HTTPS_PROXY is not http://host:port; no other kind of proxy is known here")
    target = f"{provider.host}:{provider.port}"
    headers = [("Host", target)]
    if parts.username is not None:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(words).decode()}"))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=LARGEST_HEAD)
    try:
        writer.write(head_bytes(f"CONNECT {target} HTTP/1.1", headers))
        status = (await read_response(reader)).start[1]
        if status != "200":
            raise UpstreamError(f"the proxy of this machine (HTTPS_PROXY) answers {status}")
        await writer.start_tls(context, server_hostname=provider.host)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer
