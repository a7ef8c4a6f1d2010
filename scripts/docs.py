#!/usr/bin/env python3
"""Build the documentation as a static site: docs/*.md, and pages that are generated from the code.

    scripts/docs.py OUT

Zensical gets a separate tree, since it has neither hooks nor options for its folders. The exit status is 1 for a warning, such as
a broken link, and then OUT stays as it was.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "zensical.toml"


def main() -> None:
    """Build the site, and replace OUT with it if the build succeeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the site's folder; what is there is replaced")
    out = parser.parse_args().out
    if out.exists() and not (out / "index.html").is_file() and any(out.iterdir()):
        sys.exit(f"{out} is no site: it has no index.html. Give another folder, or empty this one")
    with TemporaryDirectory(prefix="crossrt-docs-") as folder:
        tree = Path(folder)
        prepare(tree)
        if status := build(tree):
            sys.exit(status)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(tree / "site", out)
    print(f"{out}: {sum(1 for _ in out.rglob('*.html'))} pages; open {out / 'index.html'}")


def prepare(tree: Path, root: Path = ROOT) -> None:
    """Fill an empty folder with what the site is built from: pages, the results they link to, and the package's source."""
    shutil.copy(root / CONFIG, tree / CONFIG)
    shutil.copytree(root / "docs", tree / "docs")
    shutil.copytree(root / "benchmarks/results", tree / "docs/results")
    for page in (tree / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("](../benchmarks/results/", "](results/"), encoding="utf-8")
    for name, generate in GENERATED.items():
        (tree / "docs" / name).write_text(generate(), encoding="utf-8")
    # Copy only the sources of the API reference, since the whole checkout holds virtual environments.
    shutil.copytree(root / "integrations", tree / "crossrt/integrations")
    shutil.copytree(root / "distributed", tree / "crossrt/distributed")
    shutil.copy(root / "compatibility.py", tree / "crossrt")
    shutil.copytree(
        root / "engine", tree / "crossrt/engine", ignore=lambda _, names: {n for n in names if n.endswith(".so")}
    )
    shutil.copy(root / "__init__.py", tree / "crossrt")


def build(tree: Path) -> int:
    """Run Zensical in a prepared tree. The folder `site` then holds the site. Return the exit status."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(re.sub(r"\x1b\[[\d;]*m", "", done.stdout), end="")  # drop colours, which it prints even without a terminal
    return done.returncode


# -- the reference of the command line

INTRODUCTION = """# Command line

This page is generated from the commands themselves; `crossrt COMMAND --help` prints the same. `--out -` is standard output.
`crossrt --install-completion` completes commands in your shell.

| exit status | means |
|--:|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 3 | `rerank --ray --on-error skip` set passages aside |
| 130 | interrupted |
| 141 | the reader of the output has gone |
| 143 | ended by SIGTERM |
"""


def command_line() -> str:
    """Return the page of all commands."""
    import typer.main

    from crossrt.__main__ import app

    group: Any = typer.main.get_command(app)
    firsts = {name: one.help.partition("\n\n")[0] for name, one in group.commands.items()}
    contents = [f"- [`crossrt {name}`](#crossrt-{name}): {first}" for name, first in firsts.items()]
    named = {"crossrt": group, **{f"crossrt {name}": one for name, one in group.commands.items()}}
    return "\n".join([INTRODUCTION, *contents, "", *(section(name, command) for name, command in named.items())])


def section(name: str, command: Any) -> str:
    """Return a section with a command's description, usage, arguments, options and examples."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
    lines = [f"## {name}", "", command.help or "", "", "```text", usage, "```", ""]
    for kind in ("argument", "option"):
        records = [one.get_help_record(context) for one in command.get_params(context) if one.param_type_name == kind]
        rows = [f"| `{words}` | {in_table(said)} |" for words, said in filter(None, records)]  # hidden ones have none
        if rows:
            lines += [f"| {kind} | meaning |", "|---|---|", *rows, ""]
    examples = re.sub(r"^Examples?:\s+", "", command.epilog or "")
    if examples:
        lines += ["```bash", *examples.split("  |  "), "```", ""]
    return "\n".join(lines)


def in_table(text: str) -> str:
    """Escape Markdown text for a cell of a table."""
    code = re.compile("(`[^`]*`)")
    escaped = (part if code.match(part) else escape(part, quote=False) for part in code.split(text))
    return "".join(escaped).replace("|", "\\|")


def changelog() -> str:
    """Return CHANGELOG.md."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


GENERATED: dict[str, Callable[[], str]] = {"command-line.md": command_line, "changelog.md": changelog}
"""Pages of the site that are generated and not in docs/."""

if __name__ == "__main__":
    main()
