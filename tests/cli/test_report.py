"""segdeploy report as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segformer_deploy.cli.report import command
from segformer_deploy.errors import InputError, OutputError
from tests.bench.report.given_results import bench, write

APP = typer.Typer()
APP.command()(command)


def run(*arguments: str | Path) -> tuple[str, str]:
    """Stdout and stderr; errors of ours pass through, as they do to `main`."""
    done = CliRunner().invoke(APP, list(map(str, arguments)), catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_it_writes_the_page_and_the_markdown_and_one_object(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", a=bench(), cut="{")
    html, markdown = tmp_path / "out" / "r.html", tmp_path / "r.md"
    stdout, stderr = run(folder, "--output", html, "--markdown", markdown, "--json")
    found = json.loads(stdout)
    assert found["output"] == str(html)
    assert found["machines"][0]["cases"][0]["p50_ms"] == pytest.approx(10.95)
    assert html.read_text().startswith("<!doctype html>")
    assert markdown.read_text().startswith("# SegFormer: results")
    assert "not read: cut.json: not JSON" in stderr
    assert "1 measured" in stderr


def test_without_options_it_is_report_html_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results", a=bench())
    stdout, _ = run("results")
    assert stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results"]


def test_a_file_name_that_is_no_utf8_keeps_the_page(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", a=bench())
    (folder / "b\udcff.json").write_text("{")
    run(folder, "--output", tmp_path / "r.html", "--markdown", tmp_path / "r.md")
    assert "b\\udcff.json" in (tmp_path / "r.html").read_text()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        run(tmp_path / "none")
    folder = write(tmp_path / "results", a=bench())
    with pytest.raises(OutputError):
        run(folder, "--output", folder / "a.json" / "r.html")
