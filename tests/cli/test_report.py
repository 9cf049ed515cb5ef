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


@pytest.mark.parametrize("other", ["r.html", "./r.html", "results/../r.html"])
def test_the_page_and_the_markdown_are_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    write(tmp_path / "results", a=bench())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"both r\.html"):
        run("results", "--output", "r.html", "--markdown", other)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("option", ["--output", "--markdown"])
@pytest.mark.parametrize("name", ["a.json", "new.JSON", "../linked/b.json"])
def test_a_result_is_never_replaced(tmp_path: Path, option: str, name: str) -> None:
    folder = write(tmp_path / "results", a=bench())
    (tmp_path / "linked").mkdir()
    write(tmp_path / "linked", b=bench())
    (folder / "b.json").symlink_to(tmp_path / "linked" / "b.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(InputError, match="is a file of the results"):
        run(folder, option, folder / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_the_page_may_lie_in_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", a=bench())
    run(folder, "--output", folder / "report.html", "--markdown", folder / "README.md")
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        run(tmp_path / "none")
    folder = write(tmp_path / "results", a=bench())
    with pytest.raises(OutputError):
        run(folder, "--output", folder / "a.json" / "r.html")
