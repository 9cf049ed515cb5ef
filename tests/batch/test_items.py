"""What a source names, and what each of its videos is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.batch.items import Item, find_items
from segformer_deploy.errors import InputError

OUT = Path("/nowhere/out")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for name in (
        "clip10.mp4", "clip2.MKV", "notes.txt", ".hidden.mp4", "deep/a.avi", "deep/er/b.mov",
        ".secret/c.mp4", "other.bin",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(source: str, **more: object) -> list[str]:
    return [item.name for item in find_items(source, output=OUT, **more).items]  # type: ignore[arg-type]


def test_a_folder(archive: Path) -> None:
    assert names(str(archive)) == ["clip2.MKV", "clip10.mp4"]
    assert names(str(archive), recursive=True) == [
        "clip2.MKV", "clip10.mp4", "deep/a.avi", "deep/er/b.mov"
    ]  # fmt: skip
    assert names(str(archive), pattern="*.bin") == ["other.bin"]
    assert all(item.path.is_absolute() for item in find_items(str(archive), output=OUT).items)


def test_a_link_that_leads_back_does_not_go_round(archive: Path) -> None:
    (archive / "deep" / "again").symlink_to(archive)
    assert len(names(str(archive), recursive=True)) == 4


def test_a_pattern(archive: Path) -> None:
    assert names(f"{archive}/clip*") == ["clip2.MKV", "clip10.mp4"]
    assert names(f"{archive}/deep/**/*.mov") == ["er/b.mov"]
    with pytest.raises(InputError, match="nothing matches"):
        names(f"{archive}/*.xyz")


def test_signs_of_a_pattern_in_a_name(archive: Path) -> None:
    (archive / "take[1].mp4").touch()
    assert names(f"{archive}/take[1].mp4") == ["take[1].mp4"]


def test_a_list(archive: Path, tmp_path: Path) -> None:
    listed = archive / "list.txt"
    other = tmp_path / "elsewhere.mp4"
    listed.write_text(f"# of today\ndeep/a.avi\n\n{other}\nclip10.mp4\ndeep/../clip10.mp4\n")
    found = find_items(str(listed), output=OUT).items
    assert {item.name for item in found} == {
        "deep/a.avi", "clip10.mp4", str(other).lstrip("/")
    }  # fmt: skip
    listed.write_text("# nothing\n")
    with pytest.raises(InputError, match="names nothing"):
        names(str(listed))


def test_one_file(archive: Path) -> None:
    assert names(str(archive / "clip10.mp4")) == ["clip10.mp4"]


def test_own_results_are_no_source(archive: Path) -> None:
    (archive / "out").mkdir()
    (archive / "out" / "overlay.mp4").touch()
    found = find_items(str(archive), output=archive / "out", recursive=True)
    assert "out/overlay.mp4" not in [item.name for item in found.items]
    assert "1 videos below" in found.notes[0]
    with pytest.raises(InputError, match="the source folder itself"):
        find_items(str(archive), output=archive)


@pytest.mark.parametrize(
    ("source", "words"),
    [("absent", "no such file"), ("deep/er", "no videos"), ("empty", "no videos")],
)
def test_nothing_there(archive: Path, source: str, words: str) -> None:
    (archive / "empty").mkdir()
    (archive / "deep" / "er" / "b.mov").unlink()
    with pytest.raises(InputError, match=words):
        names(str(archive / source))


def test_options_of_folders_only(archive: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        names(str(archive / "clip10.mp4"), recursive=True)


@given(st.text(min_size=1, max_size=200).filter(lambda name: "\\0" not in name))
def test_a_key_is_a_name_for_a_folder(name: str) -> None:
    key = Item(name, Path("/x")).key
    assert "/" not in key
    assert not key.startswith(".")
    assert len(key) < 60
    assert key.isascii()
    assert key != Item(name + "x", Path("/x")).key
    assert key == Item(name, Path("/elsewhere")).key
