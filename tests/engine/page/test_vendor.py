"""Libraries that travel with the page: exactly those that are listed, unchanged, with their licences."""

from __future__ import annotations

import hashlib
import json
import re

from engine.page.static_files import FOLDER, static_files

VENDOR = FOLDER / "vendor"
LISTED = json.loads((VENDOR / "vendor.json").read_text())


def test_each_library_is_the_file_that_was_published() -> None:
    for each in LISTED:
        assert hashlib.sha256((VENDOR / each["file"]).read_bytes()).hexdigest() == each["sha256"], each["name"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", each["version"])
        assert each["licence"] in ("MIT", "ISC")
        assert "Copyright" in (VENDOR / each["licence_file"]).read_text()


def test_nothing_else_lies_beside_them() -> None:
    named = {name for each in LISTED for name in (each["file"], each["licence_file"])}
    assert {path.name for path in VENDOR.iterdir()} == named | {"vendor.json"}


def test_our_own_scripts_make_no_code_from_texts() -> None:
    for name, file in static_files().items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            assert not re.search(rb"\beval\b|new Function|document\.write|http://|https://", file.content), name
