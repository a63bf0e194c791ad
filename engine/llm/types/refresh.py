"""Whether a row is asked anew: then answers in the journal do not count."""

from __future__ import annotations

from contextvars import ContextVar

ask_again: ContextVar[bool] = ContextVar("ask_again", default=False)
"""Set while a rejected row runs again: the journal's answers, which led to the reject, are asked for anew."""
