"""Rewrite correct but stilted responses as natural prose, and drop those that no longer give the correct answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, ClassVar

from engine.operator import ChatModel, Context, Table, derived, operator, render, template
from operators.alignment.ai_feedback_strategy import chosen
from operators.alignment.judge import JudgedParams, verdict
from operators.records import PathResponse, StrategyChoice

PROMPT = """\
Below are a question and a response to it. Rewrite the response as a knowledgeable person would answer in a conversation: one \
to three plain sentences that give the same answer and, if the response has one, the main reason for it. No lists, no \
headings, no numbered steps, no "Answer:" line. Do not mention contexts, passages, steps, or how the answer was found. Add no \
facts of your own, and do not change the answer. Reply with the rewritten response and nothing else.

Question: {{ question }}

Response:
{{ response }}"""


class ReviseParams(JudgedParams):
    """Parameters of revise_responses."""

    answering: ClassVar[str] = "reviser"

    prompt: Annotated[str | None, template("question", "response", builtin=PROMPT)] = None


@operator(outputs={"responses": PathResponse}, distinct=[("reviser", "judge")])
async def revise_responses(
    response: PathResponse,
    ctx: Context,
    reviser: ChatModel,
    judge: ChatModel | None,
    params: ReviseParams,
    strategies: Table[StrategyChoice] | None = None,
) -> AsyncIterator[PathResponse]:
    """Rewrite a correct response as plain prose that simply answers the question.

    Responses that are not correct are filtered out; with `strategies`, so are those of paths other than the cell's chosen one.
    A revision is judged like the response; if it is not correct, it is dropped with a reason in `rejects`. `revised_from`
    contains the original response.

    Metrics: `revisions` by outcome.

    Source: Dialectical Alignment (arXiv 2404.00486).

    Args:
        judging: `model` asks the judge, which sees both answers in random order; `strict` compares the revision's conclusion
            with the answers.
        judge_prompt: a template with {{ question }}, {{ response }}, {{ first }} and {{ second }} for the judge.
        prompt: a template with {{ question }} and {{ response }} that replaces the built-in one.
    """
    choice = chosen(strategies).get((response.pcn, response.fc)) if strategies is not None else None
    if not response.correct or (strategies is not None and (choice is None or choice.path != response.path)):
        return
    swapped = ctx.random.random() < 0.5
    answer = await reviser.chat(render(params.prompt or PROMPT, question=response.question, response=response.response))
    if answer.truncated:
        ctx.count("revisions", "cut off")
        ctx.reject(f"the revision was {reviser.cut_off(answer)}")
        return
    revised = answer.text.strip()
    outcome, judgements = await verdict(response, revised, judge, swapped=swapped, prompt=params.judge_prompt)
    if outcome != "correct":
        ctx.count("revisions", "no longer correct")
        ctx.reject(f"the revision does not give the correct answer (it gives: {outcome})")
        return
    ctx.count("revisions", "kept")
    record = response.model_copy(update={"response": revised, "revised_from": response.response})
    yield derived(record, *([choice] if choice else []), answer, *judgements)
