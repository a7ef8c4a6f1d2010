import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from crossrt.commands.shared.option_groups import with_option_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    device: Annotated[str | None, typer.Option(help="The device.")] = None
    threads: Annotated[int, typer.Option(help="Threads.")] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Place):
    trust: Annotated[bool, typer.Option("--trust", help="Trust it.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    out: Annotated[Path, typer.Option(help="Where to.")]


Seen = list[tuple[object, ...]]


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
def app(seen: Seen) -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None)

    @made.command()
    @with_option_groups
    def command(
        source: Annotated[str, typer.Argument()],
        *,
        first: Annotated[int, typer.Option()] = 1,
        target: Target,
        opening: Opening,
        last: Annotated[int, typer.Option()] = 9,
    ) -> None:
        """Do it."""
        seen.append((source, first, target, opening, last))

    return made


def test_options_of_a_group_stand_in_help_where_the_group_stands_in_the_signature(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    options = [word for word in shown.split() if word.startswith("--")]
    assert options[:6] == ["--first", "--out", "--device", "--threads", "--trust", "--last"]
    assert "Do it." in shown
    assert "Trust it." in shown


def test_the_command_receives_its_groups_with_values_and_defaults(app: typer.Typer, seen: Seen) -> None:
    done = CliRunner().invoke(app, ["here", "--out", "there", "--trust", "--device", "cpu", "--last", "7"])
    assert done.exit_code == 0, done.output
    assert seen == [("here", 1, Target(out=Path("there")), Opening(device="cpu", trust=True), 7)]


@pytest.mark.parametrize(
    ("words", "says"),
    [(["here"], "--out"), (["here", "--out", "x", "--threads", "many"], "--threads"), (["here", "--opening", "x"], "")],
)
def test_wrong_use_of_an_option_of_a_group_exits_with_2(
    app: typer.Typer, seen: Seen, words: list[str], says: str
) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert says in done.output
    assert seen == []


def test_a_command_can_be_called_directly_with_the_options_by_name() -> None:
    @with_option_groups
    def command(source: str, *, opening: Opening, first: int = 1) -> None:
        found.append((source, opening, first))

    found: Seen = []
    command("here", threads=4)  # type: ignore[call-arg]
    assert found == [("here", Opening(threads=4), 1)]
    assert [*inspect.signature(command).parameters] == ["source", "device", "threads", "trust", "first"]
    with pytest.raises(TypeError, match="unknown"):
        command("here", unknown=1)  # type: ignore[call-arg]


def test_two_options_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="threads"):

        @with_option_groups
        def command(*, place: Place, threads: int = 1) -> None: ...


def test_a_group_that_could_be_passed_by_position_is_refused() -> None:
    with pytest.raises(TypeError, match=r"group place must be keyword-only"):

        @with_option_groups
        def command(place: Place) -> None: ...
