"""A registry, the page over it in this process, and a real browser on a real server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from engine.page.access import Access
from engine.page.routes.site import Site
from engine.page.server import application
from engine.page.serving import listening, server_of
from engine.page.sessions import Sessions
from registry import Registry
from tests.engine.page.crafted import make_hostile, make_trained
from tests.engine.page.shipped import make_shipped
from tests.engine.page.showcase import add_showcase

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Visit = Callable[[Path], TestClient]
Serve = Callable[[Path], str]


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry made by shipped pipelines. Tests only read it."""
    folder = tmp_path_factory.mktemp("shipped") / ".engine"
    make_shipped(folder)
    return folder


@pytest.fixture(scope="session")
def showcase(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with conversations with formulas and tools, two versions that differ, and hostile rows. Tests only read it."""
    folder = tmp_path_factory.mktemp("showcase") / ".engine"
    shutil.copytree(shipped, folder)
    add_showcase(Registry(folder))
    return folder


@pytest.fixture(scope="session")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A registry, its run with trainings and calibrations, and its run with hostile rows. Tests only read it."""
    registry = Registry(tmp_path_factory.mktemp("crafted") / ".engine")
    return registry.root, make_trained(registry), make_hostile(registry)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A registry with trainings and calibrations, and its run."""
    registry = Registry(tmp_path_factory.mktemp("trained") / ".engine")
    return registry.root, make_trained(registry)


@pytest.fixture
def trained(registry: Registry, trained_once: tuple[Path, str]) -> str:
    """Copies it into the test's folder, and returns the run."""
    made, run = trained_once
    shutil.copytree(made, registry.root)
    return run


@pytest.fixture
def visit() -> Visit:
    """Opens the page over a registry in this process, with the token."""

    def opened(location: Path) -> TestClient:
        client = visitor(location)
        client.get("/", params={"token": "secret"})
        return client

    return opened


def visitor(location: Path | str, *, host: str = "127.0.0.1") -> TestClient:
    """A client of the page that has no token yet."""
    access = Access(host, 7777, "secret")
    app = application(Site(Sessions(str(location)), access, str(location)))
    return TestClient(app, base_url="http://127.0.0.1:7777", follow_redirects=False)


@contextmanager
def served(location: Path | str) -> Iterator[str]:
    """The page on loopback; yields the address to open."""
    with listening("127.0.0.1", 0) as door:
        access = Access("127.0.0.1", door.getsockname()[1])
        server = server_of(Site(Sessions(str(location)), access, str(location)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield access.address
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves the page over a registry until the test ends, and returns the address to open."""
    with ExitStack() as open_until_then:
        yield lambda location: open_until_then.enter_context(served(location))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser. While it is open, no test of this module may be async: playwright has a loop in this thread."""
    if not CHROMIUM:
        pytest.skip("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()
