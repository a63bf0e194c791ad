"""Tests leave the user's folders alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.user_cache import cache_folder

CODE = "from engine.user_cache import cache_folder; print(cache_folder())"


def test_the_cache_is_that_of_the_session_here_and_in_commands() -> None:
    assert cache_folder() == Path(os.environ["ENGINE_CACHE"])
    assert cache_folder().is_relative_to(tempfile.gettempdir())
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()) == cache_folder()
