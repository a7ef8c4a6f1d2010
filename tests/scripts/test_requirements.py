"""scripts/requirements.py names all that an installation of crossrt with extras would fetch, and never crossrt itself."""

from collections.abc import Callable
from types import ModuleType

import tomllib

from tests.conftest import REPOSITORY


def test_the_requirements_are_those_of_crossrt_and_of_the_extras(load_script: Callable[[str], ModuleType]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = load_script("requirements").requirements("cpu,ray")
    assert found == [*project["dependencies"], *extras["cpu"], extras["ray"][0], *extras["serve"]]
    assert extras["ray"][1] == "crossrt[serve]", "an extra that another extra names is taken apart"
