"""An S3 server on loopback with an empty bucket, for tests of `--registry s3://...`."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Every process reads the server's address from this file, including Ray's workers, which may have started before the server. So
# the environment names only the file, and is set when the tests are collected.
_CONFIG = Path(tempfile.gettempdir(), f"engine-tests-aws-{os.getpid()}")
os.environ.update({"AWS_CONFIG_FILE": str(_CONFIG), "AWS_EC2_METADATA_DISABLED": "true"})


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with an empty bucket `bucket`. Clients find its credentials by themselves."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        address = f"http://127.0.0.1:{port}"
        keys = "aws_access_key_id = testing\naws_secret_access_key = testing\nregion = us-east-1\n"
        _CONFIG.write_text(f"[default]\n{keys}endpoint_url = {address}\n")
        s3_files().mkdir("bucket")
        yield address
    finally:
        server.stop()
        _CONFIG.unlink(missing_ok=True)


def s3_files() -> Any:
    """The server's files, to look at and to damage."""
    import fsspec

    return fsspec.filesystem("s3", use_listings_cache=False)
