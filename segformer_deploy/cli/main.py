"""`segdeploy`: the commands, and the one place where errors become exit codes.

0 well done · 1 our error, one readable message · 2 wrong usage · 130 Ctrl-C
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from segformer_deploy.cli import (
    batch,
    bench,
    build_engine,
    calibrate,
    client,
    compare,
    demo,
    doctor,
    estimate,
    evaluate,
    export,
    fit,
    inspect,
    package,
    report,
    run,
)
from segformer_deploy.cli.common import emit, error_dict, say
from segformer_deploy.errors import SegdeployError


class _CtrlCError(BaseException):
    """Ctrl-C on its way out: Typer turns KeyboardInterrupt into an exit of its own, wordless."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _CtrlCError from error


app = typer.Typer(
    name="segdeploy",
    cls=_Commands,
    help="SegFormer (B0 to B5) from a PyTorch checkpoint to a video on your device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.command)
app.command("calibrate")(calibrate.command)
app.command("build-engine")(build_engine.command)
app.command("run")(run.command)
app.command("batch")(batch.command)
app.command("client")(client.command)
app.command("bench")(bench.command)
app.command("eval")(evaluate.command)
app.command("compare")(compare.command)
app.command("estimate")(estimate.command)
app.command("fit")(fit.command)
app.command("package")(package.command)
app.command("report")(report.command)
app.command("inspect")(inspect.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)


def _print_version(asked: bool) -> None:
    if asked:
        from segformer_deploy import __version__

        print(f"segdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """SegFormer (B0 to B5) from a PyTorch checkpoint to a video on your device."""


def _fail(error: SegdeployError) -> NoReturn:
    say(f"error: {error}")
    if "--json" in sys.argv:
        emit(error_dict(error))
    sys.exit(1)


def main() -> None:
    """The console entry point; never shows a traceback for an error that we raise on purpose."""
    try:
        app(standalone_mode=True)
    except SegdeployError as error:
        _fail(error)
    except MemoryError as error:
        _fail(SegdeployError(f"not enough memory: {error}", "", "try a smaller --size or --batch"))
    except (KeyboardInterrupt, _CtrlCError):
        say("interrupted")
        sys.exit(130)
