"""Context variables that the worker sets while it processes a row.

There are several, because an operator's calls reach the client and the providers through code that knows nothing of rows:

* `refresh` (here) says whether answers in the journal may be used for the row.
* `discarded` (here) collects answers that are paid for, and that the row's call does not return.
* `current_log` (`engine.llm.chat`) collects the row's calls for its lineage.

Each row runs in its own asyncio task, and a task has its own copy of them.
"""

from __future__ import annotations

from contextvars import ContextVar

from engine.llm.types.completions import Completion

refresh: ContextVar[bool] = ContextVar("refresh", default=False)
"""True while a rejected row runs again: the journal's answers caused the reject, so the model is asked again."""

discarded: ContextVar[list[Completion] | None] = ContextVar("discarded", default=None)
"""Paid for but unused: an interrupted answer that was requested again, or an empty sample beside others."""
