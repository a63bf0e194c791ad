"""Models are loaded one after another.

transformers imports its parts on first use. Two threads that do so at the same time can see a half-imported package.
"""

from __future__ import annotations

import threading

one_at_a_time = threading.Lock()
"""Held while a thread imports transformers and loads a model."""
