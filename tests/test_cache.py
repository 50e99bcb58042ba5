"""The cache: entries whole or absent, made once by many processes, bounded, private; and what happens where it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from hwgen.errors import OutputError
from hwgen.tools import cache

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hwgen"


def write(content: str):
    return lambda work: (work / "file").write_text(content)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_entry_is_made_once_and_kept_private(place):
    made = cache.entry("things", "a", write("1"))
    assert (made / "file").read_text() == "1" and made == place / "things" / "a"
    assert cache.entry("things", "a", write("2")) == made and (made / "file").read_text() == "1"
    assert place.stat().st_mode & 0o777 == 0o700 and cache.kept() and cache.how_often() == "once"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_entry_leaves_nothing(place, error):
    def fail(work: Path) -> None:
        (work / "half").write_text("x")
        raise error
    with pytest.raises(error):
        cache.entry("things", "a", fail)
    assert listed(place / "things") == []
    cache.entry("things", "a", write("1"))


def test_no_room(place):
    def full(work: Path) -> None:
        raise OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="the cache cannot be written: No space left on device") as caught:
        cache.entry("things", "a", full)
    assert "XDG_CACHE_HOME" in caught.value.hint and listed(place / "things") == [] and caught.value.exit_code == 2


def test_another_error_of_the_maker_is_its_own(place):
    def wrong(work: Path) -> None:
        (work / "none").read_bytes()
    with pytest.raises(FileNotFoundError):
        cache.entry("things", "a", wrong)
    assert listed(place / "things") == []


def test_no_room_for_a_lock(place):
    (place / "locks").mkdir(parents=True)
    (place / "locks" / "things-a").mkdir()                  # cannot be opened for writing
    with pytest.raises(OutputError, match="the cache cannot be written: Is a directory"):
        cache.entry("things", "a", write("1"))


def test_two_processes_make_it_once(place, tmp_path):
    code = ("import sys, time\nfrom hwgen.tools import cache\n"
            "def make(work):\n    open(sys.argv[1], 'a').write('made\\n')\n    time.sleep(0.5)\n    (work / 'file').write_text('whole')\n"
            "print((cache.entry('things', 'a', make) / 'file').read_text())\n")
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "log"], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["whole\n"] * 3
    assert (tmp_path / "log").read_text() == "made\n"


def test_it_does_not_grow_without_bound(place, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 3)
    for n, name in enumerate("abcde"):
        cache.entry("things", name, write(name))
        os.utime(place / "things" / name, (n + 1, n + 1))
        if name != "a":
            cache.entry("things", "a", write("again"))              # used now
    assert listed(place / "things") == ["a", "d", "e"] and (place / "things" / "a" / "file").read_text() == "a"


def test_what_a_killed_process_left_is_removed(place):
    for name, age in ((".old.part", 2 * cache.STALE_SECONDS), (".new.part", 0)):
        (place / "things" / name).mkdir(parents=True)
        os.utime(place / "things" / name, (time.time() - age,) * 2)
    cache.entry("things", "a", write("1"))
    assert listed(place / "things") == [".new.part", "a"]


def test_keys_tell_everything_apart():
    keys = [cache.key(*parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], [[("ab", b"c")]], [[("a", b"bc")]], [[("a", b"b")], "c"],
                                            [[], "a"], ["a", []])]
    assert len(set(keys)) == len(keys) and all(len(key) == 32 for key in keys)
    assert cache.key("a", [("f", b"1")]) == cache.key(b"a", {"f": b"1"}.items())


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff"), lambda path: path.write_text("bad")])
def test_a_text_that_cannot_be_read_is_made_again(place, damage):
    count = []

    def make() -> str:
        count.append(1)
        return "good"
    assert [cache.text("texts", "a", make, lambda text: text != "bad") for _ in range(2)] == ["good", "good"] and len(count) == 1
    damage(place / "texts" / "a" / "text")
    assert cache.text("texts", "a", make, lambda text: text != "bad") == "good" and len(count) == 2
    with pytest.raises(OutputError, match="changes while it is read"):
        cache.text("texts", "b", make, lambda text: False)


@pytest.fixture
def unwritable(place, monkeypatch):
    """Root may write everywhere: the cache folder lies behind a file."""
    place.parent.write_text("a file")
    cache._usable.cache_clear()


def test_without_a_folder_that_can_be_written(place, unwritable):
    """A temporary one serves, the stage line says so, and nothing stays."""
    made = cache.entry("things", "a", write("1"))
    assert (made / "file").read_text() == "1" and not made.is_relative_to(place)
    assert not cache.kept() and f"{place} cannot be written, set XDG_CACHE_HOME" in cache.how_often()
    code = "from hwgen.tools import cache\nprint(cache.entry('things', 'a', lambda work: None))"
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists() and not Path(done.stdout.strip()).parent.parent.exists()


def test_without_any_folder(unwritable, monkeypatch):
    def full(**_):
        raise OSError(30, "Read-only file system")
    monkeypatch.setattr(cache.tempfile, "mkdtemp", full)
    with pytest.raises(OutputError, match="neither the cache folder nor a temporary one can be written") as caught:
        cache.folder()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")                # invalid by the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.wanted() == tmp_path / ".cache" / "hwgen"
