"""Turn correct but stilted responses into natural prose; what no longer gives the correct answer afterwards is dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from engine.operator import Context, Table, derived, operator
from engine.operator.prompts import prompt_with, render
from operators.alignment.ai_feedback_strategy import chosen
from operators.alignment.judge import CALLS, JudgePrompt, Judging, verdict, with_judge
from operators.records import PathResponse, StrategyChoice


@operator(
    outputs={"responses": PathResponse},
    models=["reviser", "judge"],
    uses=lambda params: with_judge("reviser", params),
    calls=lambda params: {"reviser": 1} | ({"judge": CALLS} if params.judging == "model" else {}),
    apart=[("reviser", "judge")],
)
async def revise_responses(
    response: PathResponse,
    ctx: Context,
    strategies: Table[StrategyChoice] | None = None,
    *,
    judging: Judging = "model",
    judge_prompt: JudgePrompt = None,
    prompt: Annotated[str | None, prompt_with("question", "response")] = None,
) -> AsyncIterator[PathResponse]:
    """Rewrite a correct response as the prose of somebody who simply answers the question.

    Responses that are not correct are left out, and with `strategies` also those of other paths than the chosen one of their
    cell. A revision is judged like the response; unless it is correct, too, it is dropped with a reason in `rejects`.
    `revised_from` keeps the response as it was.

    Metrics: `revisions` counts what became of them.

    Source: Dialectical Alignment (arXiv 2404.00486).

    Args:
        judging: `model` asks the judge, which sees both answers in random order; `strict` goes by what the revision
            concludes with.
        judge_prompt: a template with {{ question }}, {{ response }}, {{ first }} and {{ second }} for the judge.
        prompt: a template with {{ question }} and {{ response }} to use in place of the built-in one.
    """
    choice = chosen(strategies).get((response.pcn, response.fc)) if strategies is not None else None
    if not response.correct or (strategies is not None and (choice is None or choice.path != response.path)):
        return
    swapped = ctx.random.random() < 0.5
    reviser, judge = ctx.models["reviser"], ctx.models["judge"] if judging == "model" else None
    answer = await reviser.chat(render(prompt or PROMPT, question=response.question, response=response.response))
    if answer.truncated:
        ctx.count("revisions", "cut off")
        ctx.reject(f"the revision was cut off at max_tokens={reviser.spec.max_tokens}")
        return
    revised = answer.text.strip()
    outcome, said = await verdict(response, revised, judge, swapped=swapped, prompt=judge_prompt)
    if outcome != "correct":
        ctx.count("revisions", "no longer correct")
        ctx.reject(f"the revision does not keep the correct answer (it gives: {outcome})")
        return
    ctx.count("revisions", "kept")
    record = response.model_copy(update={"response": revised, "revised_from": response.response})
    yield derived(record, *([choice] if choice else []), answer, *said)


PROMPT = """\
Below are a question and a response to it. Rewrite the response as a knowledgeable person would answer in a conversation: one \
to three plain sentences that give the same answer and, if the response has one, the main reason for it. No lists, no \
headings, no numbered steps, no "Answer:" line. Do not mention contexts, passages, steps, or how the answer was found. Add no \
facts of your own, and do not change the answer. Reply with the rewritten response and nothing else.

Question: {{ question }}

Response:
{{ response }}"""
