"""`with_option_groups`: options that several commands share are declared once, as a dataclass.

typer reads a command's options from its signature and has no option groups (fastapi/typer discussion 1580). Here a
parameter that is annotated with a dataclass stands for one option per field:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class HubOptions:
        token: Annotated[str | None, typer.Option(help="Hub token.")] = None
        local_files_only: Annotated[bool, typer.Option("--local-files-only")] = False

    @app.command()
    @with_option_groups
    def rank(bundle: Annotated[str, typer.Argument()], *, hub: HubOptions) -> None: ...

gives `rank BUNDLE --token TEXT --local-files-only`, and `rank` receives one `HubOptions`.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of its option groups as keyword parameters, in place of their groups.

    A group is a keyword-only parameter without default whose annotation is a dataclass. Each of its fields
    has an `Annotated` type that typer understands; a field without default is a required option. The order of fields and
    parameters is the order of `--help`. Direct calls may leave out options that have a default.

    Raises TypeError for a group that is not keyword-only, ValueError when two options have one name.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Any]] = {
        name: each.annotation for name, each in signature.parameters.items() if _is_group(each.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter)
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parameters += _parameters_of(groups[name])
        else:
            raise TypeError(f"{command.__name__}: the option group {name} must be keyword-only; put * before it")

    @functools.wraps(command)
    def expanded(*arguments: Any, **options: Any) -> None:
        values = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group) if field.name in options})
            for name, group in groups.items()
        }
        command(*arguments, **options, **values)

    # typer reads both: the signature, and the annotations when a type is a forward reference.
    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _parameters_of(group: type[Any]) -> list[inspect.Parameter]:
    """Return a keyword-only parameter for each field of a dataclass, in order."""
    hints = get_type_hints(group, include_extras=True)
    defaults = inspect.signature(group).parameters
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[field.name].default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
