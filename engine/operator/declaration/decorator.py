"""Declares a function as an operator: reads its signature and checks it with what the decorator says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from engine.errors import did_you_mean
from engine.operator.declaration.operator import Operator
from engine.operator.declaration.outputs import Outputs, check_open_outputs, check_storable, check_yielded, declared_outputs
from engine.operator.declaration.params import Params
from engine.operator.declaration.signature import Signature, read_signature, refuse


@overload
def operator(function: Callable[..., Any], /) -> Operator: ...


@overload
def operator(
    *, outputs: Outputs | None = None, distinct: Sequence[tuple[str, str]] = ()
) -> Callable[[Callable[..., Any]], Operator]: ...


def operator(
    function: Callable[..., Any] | None = None,
    /,
    *,
    outputs: Outputs | None = None,
    distinct: Sequence[tuple[str, str]] = (),
) -> Operator | Callable[[Callable[..., Any]], Operator]:
    """Declare a function as an operator; see the reference in `engine.operator`.

    Args:
        function: the function, for `@operator` without arguments.
        outputs: record types by output name, or one record type for a single output without a name. The name of an input in
            place of a type means rows of that input's type. May be left out where the return annotation names one record
            type.
        distinct: pairs of roles that different models should fill, such as a judge and the model it judges. Users are warned
            when one model fills both.

    Raises:
        DeclarationError: the declaration is wrong; the text says where and what was expected.
    """

    def declare(function: Callable[..., Any]) -> Operator:
        signature = read_signature(function)
        declared = declared_outputs(function, signature, outputs)
        like = {output: record for output, record in declared.items() if isinstance(record, str)}
        records = {
            output: signature.inputs[each].record if isinstance(each, str) else each for output, each in declared.items()
        }
        check_yielded(function, signature, records)
        check_storable(function, [*records.values(), *(port.record for port in signature.inputs.values())])
        _check_roles(function, signature, distinct)
        check_open_outputs(function, signature, like, records)
        return Operator(
            name=function.__name__,
            function=function,
            shape=signature.shape,
            inputs=signature.inputs,
            outputs=records,
            roles=signature.roles,
            params=signature.params,
            context=signature.context,
            reviews=signature.reviews,
            params_argument=signature.params_argument,
            like=like,
            named_inputs=next((name for name, port in signature.inputs.items() if port.named), None),
            distinct=tuple((first, second) for first, second in distinct),
        )

    return declare if function is None else declare(function)


def _check_roles(function: Callable[..., Any], signature: Signature, distinct: Sequence[tuple[str, str]]) -> None:
    for pair in distinct:
        if not isinstance(pair, tuple) or len(pair) != 2:
            refuse(function, f"distinct= has {pair!r}; expected pairs of roles, such as ('policy', 'judge')")
        for role in pair:
            if role not in signature.roles:
                hint = did_you_mean(role, signature.roles) or "it calls no model"
                refuse(function, f"distinct= names the role {role!r}, but there is no such argument; {hint}")
    decides = issubclass(signature.params, Params) and signature.params.roles is not Params.roles
    for name, each in signature.roles.items():
        if each.optional and not decides:
            refuse(
                function,
                f"{name!r} may be None, but nothing says when; expected a method `roles` of its Params, or no `| None`",
            )
