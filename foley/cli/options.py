"""Options that several commands share, and commands whose options are a flow's parameters."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from foley.cli.quiet import quietly
from pipeline.paths import path_of
from warehouse.files import Json


def home_option(default: str = "~/.foley") -> Callable[..., Any]:
    """--home, as an absolute path."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="FOLEY_HOME",
        default=default,
        show_default=True,
        callback=lambda _context, _option, path: path.expanduser().absolute(),
        help="Folder with all state.",
    )


HOME = home_option()
PRESET = click.option(
    "--preset",
    default="toy",
    show_default=True,
    help="toy, world, paper, or a folder with a preset.toml.",
)
SEED = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
FORMAT = click.option(
    "--format", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)

_OTHER_NAMES = {"table2": "table", "systems": "system", "parent": "from", "settings": "set"}


class FlowCommand(click.Command):
    """Runs the flow of its name, and prints what came of it.

    Options are the fields of the flow's parameters. They are read when the command is asked for:
    `foley --help` loads no pydantic.
    """

    def __init__(
        self, name: str, help: str, arguments: Sequence[str] = (), home: str = "~/.foley"
    ) -> None:
        """`arguments` are the fields to be given without a name, `[field]` where it may lack."""
        super().__init__(name, help=help, callback=self._run)
        self._arguments = {text.strip("[]"): text[0] != "[" for text in arguments}
        self._home = home_option(home)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Arguments first, then --home and the other options."""
        if not self.params:
            from foley.cli.launch import PARAMETERS

            schema = PARAMETERS[str(self.name)].model_json_schema()
            fields, required = schema["properties"], schema.get("required", ())
            del fields["home"]
            self.params = [
                click.Argument([name], required=needed, type=_type(fields.pop(name)))
                for name, needed in self._arguments.items()
            ]
            self._home(self)
            self.params += [
                _option(name, field, name in required) for name, field in fields.items()
            ]
        return super().get_params(ctx)

    def _run(self, home: Path, **options: object) -> int | None:
        from foley.cli import output
        from foley.cli.launch import run_flow

        given = {name: value for name, value in options.items() if value is not None}
        with quietly():
            result = run_flow(str(self.name), home, given)
        click.echo(getattr(output, str(self.name))(result))
        return None


def _option(name: str, field: Json, required: bool) -> click.Option:
    """The option of a field in the JSON schema of a flow's parameters."""
    flag = field.get("type") == "boolean"
    default = field.get("default")
    declared = f"--{_OTHER_NAMES.get(name, name).replace('_', '-')}"
    return click.Option(
        [name, f"{declared}/--no-{name}" if default is True else declared],
        type=click.BOOL if flag else _type(field),
        is_flag=flag,
        required=required,
        multiple=field.get("type") == "array",
        default=default,
        show_default=not flag and default not in (None, []),
        help=field["description"],
    )


def _type(field: Json) -> click.ParamType:
    """What click checks of a field; the rest is checked by the parameters themselves."""
    shapes = [shape for shape in field.get("anyOf", [field]) if shape.get("type") != "null"]
    if len(shapes) > 1:  # a name, or a path
        return click.STRING
    limits = shapes[0].get("minimum"), shapes[0].get("maximum")
    if "enum" in shapes[0]:
        return click.Choice(shapes[0]["enum"])
    if "path" in shapes[0].get("format", ""):
        return _File()
    if shapes[0]["type"] == "number":
        return _Number(shapes[0])
    return click.IntRange(*limits) if shapes[0]["type"] == "integer" else click.STRING


class _File(click.Path):
    """A path, or the file:// address of one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(path_of(os.fspath(value)), param, ctx)


class _Number(click.FloatRange):
    """A number within the limits of a field's JSON schema."""

    name = "number"

    def __init__(self, field: Json) -> None:
        low, high = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
        super().__init__(
            field.get("minimum", low),
            field.get("maximum", high),
            min_open=low is not None,
            max_open=high is not None,
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # which no comparison finds
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number
