"""Write docs/cli.md from `wafer --help`; `make docs` runs it, a test compares."""

from pathlib import Path

import click
import typer

from wafer.cli import app

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 88

HEAD = """# Command line

Generated from `--help` by `make docs`.

Results go to standard output; notes and progress go to standard error. The exit code is 0 when
the command did its work, 1 when there is something you can mend (a line says what and how), and 2
when the command line itself is wrong.
"""


def page() -> str:
    """Return the whole page."""
    root = typer.main.get_command(app)
    return "\n".join([HEAD, *_sections(root, "wafer")])


def _sections(command: click.Command, path: str) -> list[str]:
    sections = [f"## `{path}`\n\n{_text(command, path)}\n"]
    for name, child in sorted(getattr(command, "commands", {}).items()):
        sections += _sections(child, f"{path} {name}")
    return sections


def _text(command: click.Command, path: str) -> str:
    """Return what `--help` says, as plain lists instead of boxes drawn for a terminal."""
    context = click.Context(command, info_name=path)
    lines = [*(command.help or "").strip().splitlines(), "", f"    {_usage(command, context)}", ""]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            lines.append(f"* `{record[0]}` {record[1]}".rstrip())
    return "\n".join(lines).strip()


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.info_name or "", *command.collect_usage_pieces(context)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
