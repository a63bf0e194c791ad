"""What the provider of batches needs from a server's API, and the HTTP calls that all of them make."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp

from engine.llm.batches.open_batches import OpenBatch
from engine.llm.batches.polling import Patience
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.providers.failures import connection_failure, failure
from engine.llm.providers.http import Credentials, session
from engine.llm.providers.redaction import redacted
from engine.llm.providers.response_body import GarbledError, decoded, from_json, read_body, read_start
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

DAY = 86_400.0
"""The tolerance for a server's clock, in seconds."""

_MOST_STATE_BYTES = 16 << 20
MOST_LINE_BYTES = 64 << 20
"""More than any answer has; a line that never ends must not fill the memory."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,255}")

T = TypeVar("T")
LineResult = Completion | ModelError | None
"""The result of one request in a batch; None if the batch ended before it was processed."""

Parse = Callable[[Any], tuple[str, LineResult]]
"""From a line of a file of results to the request's key and its result. Raises ValueError, KeyError, TypeError or
AttributeError if it is not such a line."""


class Uploaded(NamedTuple):
    """What was found or made on the server before a batch is created, so that the batch can be found afterwards.

    Attributes:
        file: the input file's id; a name of the engine's own where requests travel with the batch.
        newest: the newest batch on the server, where batches have no input file.
    """

    file: str
    newest: str = ""


@dataclass(frozen=True)
class BatchState:
    """A batch's state.

    Attributes:
        ended: whether all its results are there.
        failed: why none of its requests will be processed, in the server's words; empty if they are.
        paths: where its results are, below the endpoint.
        expected: the number of its requests that have a result.
        gone: the server has deleted the results.
    """

    ended: bool
    failed: str = ""
    paths: tuple[str, ...] = ()
    expected: int = 0
    gone: bool = False


class UndecidedError(Exception):
    """It is not known yet whether a batch was created; the message says what the engine waits for."""


class BatchService(Protocol):
    """A server's API for batches.

    Attributes:
        most_bytes: the limit of one batch.
        http: the HTTP calls to the server.
    """

    most_bytes: int
    http: BatchConnection

    def line(self, request: Request, known: KnownCapabilities) -> bytes:
        """A request's line in a batch."""
        ...

    def left_out(self, request: Request, known: KnownCapabilities) -> tuple[str, ...]:
        """The parameters that a request should have, and that its line lacks because the server refuses them."""
        ...

    def adaptation(self, refusal: RequestError, request: Request, known: KnownCapabilities) -> dict[str, bool]:
        """What to assume about the server when a refused request is sent again; nothing if that would not help."""
        ...

    async def upload(self, lines: Sequence[bytes]) -> Uploaded:
        """Prepare a batch. Waits out transient failures; a server that has never answered gets no more attempts than in chat
        mode.
        """
        ...

    async def create(self, note: OpenBatch, lines: Sequence[bytes]) -> str | None:
        """Create a batch. Returns its id; None if it needs all lines and does not get them. One attempt: raises TransientError.

        Args:
            note: the batch.
            lines: the lines that are in this process.
        """
        ...

    async def find(self, note: OpenBatch, taken: Iterable[str]) -> str | None:
        """The batch of a note, if it was created. One attempt: raises TransientError, or UndecidedError.

        Args:
            note: the batch.
            taken: batches that belong to other notes.
        """
        ...

    async def look(self, batch: str) -> BatchState:
        """A batch's state."""
        ...

    async def read(self, path: str, note: OpenBatch, found: dict[str, LineResult]) -> bool:
        """Add the results in a file of a batch to `found`. Returns whether all lines were readable."""
        ...


class BatchConnection:
    """The HTTP calls of a batch API.

    Attributes:
        trouble: how the last call failed, in the server's words; empty if it succeeded.
    """

    def __init__(self, spec: ModelSpec, known: Credentials) -> None:
        self._spec = spec
        self.secrets = known.secrets
        # Files are large, so only the time without data is limited.
        self._session = session(spec, known, aiohttp.ClientTimeout(sock_connect=spec.connect_timeout, sock_read=spec.timeout))
        self._heard = False
        self.trouble = ""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, method: str, path: str, read: Callable[[Any], T], *, large: bool = False, **more: Any) -> T:
        """Make a call within the model's timeout, and read its JSON object; one attempt.

        Args:
            method, path, more: the parts of the request.
            large: the request can take longer than the timeout to send.
            read: makes something of the object. What it raises (ValueError, KeyError, TypeError, AttributeError) makes the
                response unreadable, which is a transient failure.
        """

        async def read_json(response: aiohttp.ClientResponse) -> T:
            document = from_json(decoded(await read_body(response, _MOST_STATE_BYTES), response.charset))
            if not isinstance(document, dict):
                raise TypeError("the response is not a JSON object")
            return read(document)

        within = {} if large else {"timeout": aiohttp.ClientTimeout(total=self._spec.timeout)}
        return await self.call(method, path, read_json, **within, **more)

    async def call(self, method: str, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[T]], **more: Any) -> T:
        """Make a call; one attempt. It concerns the whole batch, so it raises no RequestError."""
        try:
            result = await self._request(method, path, read, **more)
        except ModelError as error:
            self.trouble = str(error)
            raise
        self.trouble = ""
        return result

    async def patiently(self, call: Callable[[], Awaitable[T]], tries_unheard: int | None = None) -> T:
        """Make a call until it succeeds; `tries_unheard`: further attempts at an address that has never answered."""
        patience, tries = Patience(), 0
        while True:
            try:
                return await call()
            except TransientError as error:
                if error.unreachable and not self._heard and tries_unheard is not None and tries >= tries_unheard:
                    raise EndpointError(str(error)) from error
                tries += 1
                await patience.wait(error)

    async def results(self, path: str, keys: frozenset[str], parse: Parse, found: dict[str, LineResult]) -> bool:
        """Add the results in a file to `found`: the first one for each of the keys. Returns whether all lines were readable."""

        async def read(response: aiohttp.ClientResponse) -> bool:
            whole, rest = True, bytearray()
            async for chunk in response.content.iter_chunked(1 << 20):
                first, *others = chunk.split(b"\n")
                rest += first
                for following in others:
                    whole &= _take(bytes(rest), keys, parse, found)
                    rest = bytearray(following)
                if len(rest) > MOST_LINE_BYTES:
                    response.close()
                    raise GarbledError(f"a line of the results exceeds {MOST_LINE_BYTES >> 20} MiB")
            return _take(bytes(rest), keys, parse, found) and whole

        return await self.patiently(lambda: self.call("GET", path, read))

    def failure(self, status: int, text: str, headers: Mapping[str, str]) -> ModelError:
        """The error in a response, or in the result of a request."""
        try:
            with redacted(self.secrets):
                raise failure(status, text, headers, self._spec)
        except ModelError as error:
            return error

    async def _request(self, method: str, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[T]], **more: Any) -> T:
        url = self._spec.url(path)
        try:
            # A redirect would send the prompts, and the key, to another host.
            async with self._session.request(method, url, allow_redirects=False, **more) as response:
                self._heard = True
                if response.status == 200:
                    return await read(response)
                text = (await read_start(response)).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            with redacted(self.secrets):
                raise connection_failure(error, url, self._spec, heard=self._heard) from None
        failed = self.failure(response.status, text, response.headers)
        raise EndpointError(str(failed)) if isinstance(failed, RequestError) else failed


def identifier(value: Any) -> str:
    """A server's name of a batch or a file, which becomes part of URLs; raises ValueError if it is none."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.100} is not the id of a batch or a file")
    return value


def _take(line: bytes, keys: frozenset[str], parse: Parse, found: dict[str, LineResult]) -> bool:
    if not line.strip():
        return True
    try:
        document = from_json(line)
        if document["custom_id"] in keys:
            key, result = parse(document)
            found.setdefault(key, result)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
