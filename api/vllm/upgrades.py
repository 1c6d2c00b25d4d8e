"""HTTP/1.1 for clients that offer another protocol with a request.

Java's HttpClient sends `Upgrade: h2c` with every request over http, unless it is told not to. A
server that speaks no h2c is to answer as if that had not been said (RFC 9110, 7.8).
"""

import sys

import httptools
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def decline_upgrades() -> None:
    """Have uvicorn take `DecliningProtocol` for HTTP where nobody names another.

    Upstream: its parser (httptools) stops behind the headers of a request that offers an upgrade;
    uvicorn logs "Unsupported upgrade request.", answers it without its body, and reads the body as
    the next request (uvicorn/protocols/http/httptools_impl.py).
    Why: a classification would be answered 422, "body: Field required".
    Delete when uvicorn reads the body of a request whose upgrade it does not support.
    """
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{DecliningProtocol.__name__}"


class DecliningProtocol(HttpToolsProtocol):
    """uvicorn's own, that reads a request with an offer it cannot take once more, without it."""

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() is not None

    def data_received(self, data: bytes) -> None:
        self._data = data
        super().data_received(data)

    def handle_websocket_upgrade(self) -> None:
        """Called by `data_received` behind the headers of a request with any offer."""
        if self._get_upgrade() == b"websocket" and self._should_upgrade_to_ws():
            return super().handle_websocket_upgrade()
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        (read,) = upgrade.args  # bytes, up to the end of the headers
        version = self.scope["http_version"].encode()
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(b"".join([*head, b"\r\n", self._data[read:]]))
