"""Whether a row is asked anew: then answers in the journal do not count."""

from __future__ import annotations

from contextvars import ContextVar

refresh: ContextVar[bool] = ContextVar("refresh", default=False)
"""Set while a rejected row runs again: the journal's answers, which led to the reject, are asked for anew."""
