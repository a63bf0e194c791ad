"""A declared operator, as the engine uses it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel

from engine.errors import did_you_mean
from engine.llm.types.capability import Capability
from engine.operator.declaration.finish import Finish, Finished, read_finish
from engine.operator.declaration.params import Params, ask, require, wrong_answer
from engine.operator.declaration.signature import refuse
from engine.operator.types import (
    NAMED,
    Calls,
    Capabilities,
    Counters,
    InputTypes,
    Port,
    Role,
    Shape,
    Wrong,
    place_of,
)
from registry import Model, Record, ReviewTask

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class _Attached:
    """What is attached to an operator after its declaration; one for all copies of the operator."""

    finish: Finish | None = None


@dataclass(frozen=True)
class Operator:
    """A declared operator, as the engine sees it.

    Attributes:
        name: the function's name.
        function: the function.
        inputs: the inputs, by argument.
        outputs: record types by name.
        roles: the roles of models, by argument.
        params: the class of the parameters.
        context: the argument that gets the Context; None when there is none.
        reviews: the argument that gets the decisions of a review; None when there is none.
        params_argument: the argument that gets all parameters; None when they are keyword-only arguments.
        like: output -> the input whose type it has.
        named_inputs: the argument that gets the inputs that a pipeline names; None when there is none.
        distinct: pairs of roles that different models should fill.
    """

    name: str
    function: Callable[..., Any]
    shape: Shape
    inputs: Mapping[str, Port]
    outputs: Mapping[str, type[Record]]
    roles: Mapping[str, Role]
    params: type[BaseModel]
    context: str | None = None
    reviews: str | None = None
    params_argument: str | None = None
    like: Mapping[str, str] = field(default_factory=dict)
    named_inputs: str | None = None
    distinct: tuple[tuple[str, str], ...] = ()
    _attached: _Attached = field(default_factory=_Attached, compare=False, repr=False)

    # -- for authors ----------------------------------------------------------------------------------------------------

    def finish(self, function: F) -> F:
        """Attach a function that is called once, after the step's last row, as `@NAME.finish`.

        It gets the counters (`ctx.count`, summed over all rows) and, if it asks for them, the parameters: the operator's
        `Params`, or keyword-only parameters by name. It yields `Metric`s, and `(output, record)` for outputs that are made
        from counters alone; its return annotation names these:

            @ai_feedback_strategy.finish
            def choose(counts: Counters, params: StrategyParams) -> Iterator[Metric | tuple[Literal["strategies"], Choice]]:

        Raises:
            DeclarationError: its signature is wrong, or the operator has a finish function.
        """
        if self._attached.finish:
            refuse(function, f"operator {self.name} has a finish function, {place_of(self._attached.finish.function)}")
        self._attached.finish = read_finish(function, self.params, self.params_argument, self.outputs)
        return function

    # -- the declaration ------------------------------------------------------------------------------------------------

    @property
    def doc(self) -> str:
        """The function's docstring, unindented: the page of the operator."""
        return inspect.getdoc(self.function) or ""

    @property
    def place(self) -> str:
        """Where it is declared, as `FILE:LINE`."""
        return place_of(self.function)

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs that a pipeline must give."""
        return tuple(name for name, port in self.inputs.items() if not port.optional)

    @property
    def streamed(self) -> str | None:
        """The input that is passed row by row or in batches; None for a whole-input operator."""
        return next((name for name, port in self.inputs.items() if not port.whole), None)

    @property
    def grouped(self) -> tuple[str, ...]:
        """The inputs annotated `Grouped[...]`."""
        return tuple(name for name, port in self.inputs.items() if port.grouped)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The roles that sentence encoders fill."""
        return tuple(name for name, role in self.roles.items() if role.encoder)

    @property
    def finisher(self) -> Finish | None:
        """The function attached by `finish`."""
        return self._attached.finish

    @property
    def finished_outputs(self) -> tuple[str, ...]:
        """Outputs whose rows the finish function makes."""
        return self._attached.finish.outputs if self._attached.finish else ()

    @property
    def open_outputs(self) -> tuple[str, ...]:
        """Outputs whose types follow from the parameters, see Params.outputs, and are not known yet."""
        return tuple(name for name, record in self.outputs.items() if record is Record and name not in self.like)

    @property
    def names_outputs(self) -> bool:
        """Whether the parameters name the outputs, see Params.output_names, and have not done so yet."""
        return NAMED in self.outputs

    def with_output_names(self, params: BaseModel) -> Operator:
        """The operator with the outputs that its parameters name, where they do.

        Raises:
            DeclarationError: the parameters do not answer with names that outputs can have.
        """
        if not self.names_outputs:
            return self
        answer = ask(params, "output_names")
        listed = isinstance(answer, Sequence) and not isinstance(answer, str) and len(answer) == len(set(answer)) > 0
        fit = listed and all(isinstance(each, str) and each.isidentifier() for each in answer)
        require(params, "output_names", answer, fit, "a list of different words of letters, digits and underscores")
        return replace(
            self,
            outputs=dict.fromkeys(answer, self.outputs[NAMED]),
            like=dict.fromkeys(answer, self.like[NAMED]) if NAMED in self.like else {},
        )

    def with_inputs(self, names: Iterable[str]) -> Operator:
        """The operator with the inputs that a pipeline names, where it takes such."""
        if self.named_inputs is None:
            return self
        pattern = self.inputs[self.named_inputs]
        return replace(self, inputs={name: replace(pattern, named=False) for name in names})

    def typed(self, records: Mapping[str, type[Record]]) -> Operator:
        """The operator with the types of its open inputs filled in, and with them those of the outputs that are like them.

        Args:
            records: record types by input; inputs that are not open keep their declared type.
        """
        inputs = {
            name: replace(port, record=records[name]) if port.open and name in records else port
            for name, port in self.inputs.items()
        }
        outputs = {
            name: inputs[self.like[name]].record if name in self.like else record for name, record in self.outputs.items()
        }
        return replace(self, inputs=inputs, outputs=outputs)

    def with_outputs(self, params: BaseModel) -> Operator:
        """The operator, all of whose inputs are typed, with its outputs that follow from the parameters: names and types.

        Raises:
            DeclarationError: the parameters do not answer with types that rows can have.
        """
        if self.names_outputs:
            return self.with_output_names(params).with_outputs(params)
        wanted = self.open_outputs
        if not wanted:
            return self
        answer = ask(params, "outputs", {name: port.record for name, port in self.inputs.items()})
        types = answer.values() if isinstance(answer, Mapping) else ()
        fit = all(isinstance(each, type) and issubclass(each, Record) and each is not Record for each in types)
        require(params, "outputs", answer, isinstance(answer, Mapping) and fit, "a dict from outputs to record types")
        for name in wanted:
            if name not in answer:
                raise wrong_answer(params, "outputs", f"leaves out {name!r}, which is declared as Record; expected its type")
        return replace(self, outputs={**self.outputs, **{name: answer[name] for name in wanted}})

    # -- with parameters --------------------------------------------------------------------------------------------------

    def arguments(self, params: BaseModel) -> dict[str, Any]:
        """Parameters as the function takes them: as one object, or each by its name."""
        if self.params_argument:
            return {self.params_argument: params}
        return {name: getattr(params, name) for name in type(params).model_fields}

    def used_roles(self, params: BaseModel) -> tuple[str, ...]:
        """The roles that need a model with these parameters, in the order of the signature."""
        answer = ask(params, "roles")
        if answer is None:
            return tuple(self.roles)
        require(params, "roles", answer, isinstance(answer, set | frozenset | list | tuple), "a set of roles, or None")
        self._require_roles(params, "roles", answer)
        for name in self.roles.keys() - set(answer):
            if not self.roles[name].optional:
                kind = "Encoder" if self.roles[name].encoder else "ChatModel"
                why = f"leaves out {name!r}, which is annotated {kind}; expected {name}: {kind} | None"
                raise wrong_answer(params, "roles", why)
        return tuple(name for name in self.roles if name in answer)

    def calls_per_row(self, params: BaseModel) -> Calls:
        """The largest number of model calls for one row, by role."""
        answer = ask(params, "calls")
        if answer is None:
            asked = [role for role in self.used_roles(params) if not self.roles[role].encoder]
            return dict.fromkeys(asked if self.shape == "row" else (), 1)
        require(params, "calls", answer, isinstance(answer, Mapping), "a dict from roles to numbers of calls")
        self._require_roles(params, "calls", answer)
        whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in answer.values())
        require(params, "calls", answer, whole, "whole numbers of calls, 0 or more")
        return dict(answer)

    def capabilities(self, params: BaseModel) -> Capabilities:
        """What the models' servers must be able to do, by role."""
        answer = ask(params, "capabilities")
        require(params, "capabilities", answer, isinstance(answer, Mapping), "a dict from roles to lists of capabilities")
        self._require_roles(params, "capabilities", answer)
        known = typing.get_args(Capability)
        for each in answer.values():
            listed = isinstance(each, Sequence) and not isinstance(each, str) and set(each) <= set(known)
            require(params, "capabilities", each, listed, f"lists of {', '.join(known)}")
        return dict(answer)

    def prompt_bytes(self, params: BaseModel) -> int | None:
        """The largest size of a prompt besides the row's own text; None when the declaration does not say."""
        answer = ask(params, "prompt_bytes")
        whole = answer is None or (isinstance(answer, int) and not isinstance(answer, bool) and answer >= 0)
        require(params, "prompt_bytes", answer, whole, "a whole number of bytes, or None")
        return None if answer is None else int(answer)

    def device_count(self, params: BaseModel) -> int:
        """How many devices the operator uses at once."""
        answer = ask(params, "device_count")
        whole = isinstance(answer, int) and not isinstance(answer, bool) and answer >= 1
        require(params, "device_count", answer, whole, "a whole number, 1 or more")
        return int(answer)

    def notes(self, params: BaseModel) -> tuple[str, ...]:
        """What users should know before the step runs."""
        answer = ask(params, "notes")
        listed = isinstance(answer, Iterable) and not isinstance(answer, str) and all(isinstance(each, str) for each in answer)
        require(params, "notes", answer, listed, "texts in a list or by `yield`")
        return tuple(answer)

    def review(self, params: BaseModel, inputs: InputTypes) -> ReviewTask | None:
        """What people are asked about the rows; None if the step needs no decisions."""
        if self.reviews is None:
            return None
        answer = ask(params, "review", inputs)
        fit = isinstance(answer, ReviewTask)
        require(params, "review", answer, fit, "a ReviewTask, because the operator gets Reviews")
        task: ReviewTask = answer
        return task

    def problems(self, params: BaseModel, inputs: InputTypes) -> tuple[Wrong, ...]:
        """What is wrong with the parameters for inputs of these types."""
        answer = ask(params, "problems", inputs)
        listed = isinstance(answer, Iterable) and not isinstance(answer, str)
        found = [Wrong(each) if isinstance(each, str) else each for each in answer] if listed else []
        fit = listed and all(isinstance(each, Wrong) for each in found)
        require(params, "problems", answer, fit, "texts, or Wrong(text, at=...), in a list or by `yield`")
        return tuple(found)

    def expected_model(self, params: BaseModel, models: Mapping[str, Model]) -> Model | None:
        """The model that the operator will make, as far as it is known.

        Raises:
            ValueError: a model cannot be used with these parameters.
        """
        answer = ask(params, "expected_model", models, passed=(ValueError,))
        require(params, "expected_model", answer, answer is None or isinstance(answer, Model), "a Model, or None")
        made: Model | None = answer
        return made

    def accepted_names(self) -> list[str]:
        """All names that a pipeline may set under `with`."""
        return list(self.params.accepted_names() if issubclass(self.params, Params) else self.params.model_fields)

    def examine(self, params: BaseModel) -> None:
        """Ask all that does not depend on inputs and models, so that a wrong method is an error of the check.

        Raises:
            DeclarationError: a method of the parameters raised, or answered wrongly.
        """
        for question in (
            self.calls_per_row,
            self.used_roles,
            self.capabilities,
            self.prompt_bytes,
            self.device_count,
            self.notes,
        ):
            question(params)

    def finished(self, counts: Counters, params: BaseModel) -> Finished:
        """What the finish function computes from a step's counters; nothing without one."""
        return self._attached.finish(counts, params, self.outputs) if self._attached.finish else Finished()

    def _require_roles(self, params: BaseModel, method: str, roles: Iterable[Any]) -> None:
        for role in roles:
            if role not in self.roles:
                hint = did_you_mean(str(role), self.roles) or f"operator {self.name} calls no model"
                raise wrong_answer(params, method, f"names the role {role!r}, which operator {self.name} does not have; {hint}")
