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
    found = find_items(source, **{"output": OUT, **more})  # type: ignore[arg-type]
    return [item.name for item in found.items]


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
        "deep/a.avi", "clip10.mp4", f"outside{other}"
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
    assert "lies in the source" in found.notes[0]
    by_pattern = find_items(f"{archive}/**/*.*", output=archive / "out")
    assert "1 videos below" in by_pattern.notes[0]
    with pytest.raises(InputError, match="the source folder itself"):
        find_items(str(archive), output=archive)


def test_own_results_that_are_reached_through_a_link(archive: Path, tmp_path: Path) -> None:
    (archive / "out" / "clip.mp4").mkdir(parents=True)
    result = archive / "out" / "clip.mp4" / "overlay.mp4"
    result.touch()
    (tmp_path / "link").symlink_to(archive / "out")
    before = names(str(archive), recursive=True, pattern="clip*")
    for output in (tmp_path / "link", tmp_path / "link" / ".." / "out"):
        found = find_items(str(archive), output=output, recursive=True)
        assert "out/clip.mp4/overlay.mp4" not in [item.name for item in found.items]
        assert [i.name for i in found.items if i.name.startswith("clip")] == before
    # The other way round: the source leads into the output.
    (archive / "again").symlink_to(archive / "out")
    (archive / "taken.mp4").symlink_to(result)
    found = find_items(str(archive), output=archive / "out", recursive=True)
    assert not [item for item in found.items if item.name.startswith(("again", "taken"))]
    listed = tmp_path / "list.txt"
    listed.write_text("link/clip.mp4/overlay.mp4\n")
    with pytest.raises(InputError, match="all videos lie in the output"):
        names(str(listed), output=archive / "out")
    with pytest.raises(InputError, match="all videos lie in the output"):
        names(str(tmp_path / "link" / "clip.mp4"), output=archive / "out")


def test_a_listed_video_is_never_dropped_for_anothers_name(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "clip.mp4"
    inside = tmp_path / "lists" / str(elsewhere).lstrip("/")
    for path in (elsewhere, inside):
        path.parent.mkdir(parents=True)
        path.touch()
    listed = tmp_path / "lists" / "list.txt"
    listed.write_text(f"{str(elsewhere).lstrip('/')}\n{elsewhere}\n")
    found = find_items(str(listed), output=OUT).items
    assert {item.path for item in found} == {inside, elsewhere}
    assert len({item.name for item in found}) == 2
    # Where even so both have one name, both are told.
    clash = tmp_path / "lists" / f"outside{elsewhere}"
    clash.parent.mkdir(parents=True)
    clash.touch()
    listed.write_text(f"outside{elsewhere}\n{elsewhere}\n")
    with pytest.raises(InputError, match="two videos") as caught:
        names(str(listed))
    assert str(clash) in caught.value.found
    assert f" {elsewhere}," in caught.value.found


def test_two_dots_after_a_link_are_the_systems(tmp_path: Path) -> None:
    for name in ("x/clip.mp4", "x/deep/other.mp4", "y/clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "y" / "ln").symlink_to(tmp_path / "x" / "deep")
    listed = tmp_path / "y" / "list.txt"
    listed.write_text("ln/../clip.mp4\nclip.mp4\nln/other.mp4\n../y/./clip.mp4\n")
    found = find_items(str(listed), output=OUT).items
    assert sorted(item.path.read_text() for item in found) == [
        "x/clip.mp4", "x/deep/other.mp4", "y/clip.mp4"
    ]  # fmt: skip
    assert (tmp_path / "y" / "ln/../clip.mp4").read_text() == "x/clip.mp4"
    assert {item.name for item in found} == {
        "clip.mp4", "ln/other.mp4", f"outside{tmp_path}/x/clip.mp4"
    }  # fmt: skip
    one = find_items(str(tmp_path / "y" / "ln" / ".." / "clip.mp4"), output=OUT).items[0]
    assert (one.name, one.path.read_text()) == ("clip.mp4", "x/clip.mp4")


def test_a_list_with_a_byte_order_mark(archive: Path) -> None:
    listed = archive / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbfclip10.mp4\r\nclip2.MKV\r\n")
    found = find_items(str(listed), output=OUT).items
    assert [item.name for item in found] == ["clip2.MKV", "clip10.mp4"]
    assert all(item.path.is_file() for item in found)


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
