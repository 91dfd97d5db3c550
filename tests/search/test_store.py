"""The run's folder: another run is refused, half-made points vanish, dead owners' claims are free."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenfold.errors import OutputError
from tenfold.files import write_json
from tenfold.search.point import Point
from tenfold.search.store import STALE_SECONDS, Store

IDENTITY = {"network": "a", "budget": {"max_drop": 0.01}}


def add(store: Store, name: str) -> None:
    with store.adding(name) as folder:
        write_json(folder / "point.json", Point(name, "candidate", name).to_json())


def test_a_run_goes_on_in_its_folder(tmp_path):
    add(Store.open(tmp_path / "a", IDENTITY), "c1")
    again = Store.open(tmp_path / "a", IDENTITY)
    assert again.has("c1")
    assert [point.id for point in again.points()] == ["c1"]


def test_another_run_is_refused_and_untouched(tmp_path):
    add(Store.open(tmp_path / "a", IDENTITY), "c1")
    with pytest.raises(OutputError, match="another run \\(different network\\)"):
        Store.open(tmp_path / "a", {**IDENTITY, "network": "b"})
    assert Store.open(tmp_path / "a", IDENTITY).has("c1")


def test_what_an_option_was_is_told(tmp_path):
    Store.open(tmp_path / "a", {**IDENTITY, "seed": 0})
    other = {**IDENTITY, "budget": {"max_drop": 0.02, "size_mb": 2}, "seed": 3}
    with pytest.raises(
        OutputError,
        match=r"\(different budget \(max_drop 0.01, now 0.02, size_mb none, now 2\), seed \(0, now 3\)\)",
    ):
        Store.open(tmp_path / "a", other)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        Store.open(tmp_path, IDENTITY)
    with pytest.raises(OutputError, match="is a file"):
        Store.open(tmp_path / "mine.txt", IDENTITY)


def test_a_point_that_failed_half_way_leaves_nothing(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    with pytest.raises(KeyboardInterrupt), store.adding("c1") as folder:
        (folder / "model.onnx").write_text("half")
        raise KeyboardInterrupt
    assert not store.has("c1")
    assert list((store.root / "points").iterdir()) == []


def test_a_damaged_file_says_what_to_do(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    (store.root / "steps" / "scan.json").write_text("{")
    with pytest.raises(OutputError, match=r"scan\.json.*remove it"):
        store.step("scan")


def test_only_one_process_holds_a_claim(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    claim = store.claim("c1")
    assert claim is not None
    assert store.claim("c1") is None
    claim.release()
    assert store.claim("c1") is not None


def test_the_claim_of_a_dead_process_is_free(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    code = (
        "import sys; from tenfold.search.store import Store; from pathlib import Path;"
        "assert Store(Path(sys.argv[1])).claim('c1')"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True)
    assert (store.root / "claims" / "c1").exists()
    assert store.claim("c1") is not None


def test_a_claim_from_elsewhere_is_free_once_it_was_silent(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    path = store.root / "claims" / "c1"
    path.write_text(json.dumps({"host": "another", "pid": 1}))
    assert store.claim("c1") is None
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert store.claim("c1") is not None


def test_a_stale_claim_is_taken_by_one_alone(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    path, old = store.root / "claims" / "c1", time.time() - STALE_SECONDS - 1
    path.write_text(json.dumps({"host": "another", "pid": 1}))
    os.utime(path, (old, old))
    with ThreadPoolExecutor(8) as pool:
        taken = [claim for claim in pool.map(store.claim, ["c1"] * 8) if claim is not None]
    assert len(taken) == 1


def test_an_owner_taken_for_dead_does_not_take_the_claim_away(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    late = store.claim("c1")
    assert late is not None
    path = store.root / "claims" / "c1"
    path.write_text(json.dumps({"host": "another", "pid": 1}))
    os.utime(path, (1000, 1000))
    late.touch()
    late.release()
    assert path.stat().st_mtime == 1000


def test_the_claim_of_a_container_that_was_started_again_is_free(tmp_path):
    """Whose processes have the numbers of those before."""
    store = Store.open(tmp_path / "a", IDENTITY)
    before = {"host": socket.gethostname(), "pid": os.getpid(), "process": "before"}
    (store.root / "claims" / "c1").write_text(json.dumps(before))
    assert store.claim("c1") is not None
    assert store.claim("c1") is None


def test_an_owner_says_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("tenfold.search.store.STALE_SECONDS", 0.3)
    claim = Store.open(tmp_path / "a", IDENTITY).claim("c1")
    assert claim is not None
    os.utime(claim.path, (1000, 1000))
    until = time.monotonic() + 10
    while claim.path.stat().st_mtime == 1000 and time.monotonic() < until:
        time.sleep(0.02)
    assert claim.path.stat().st_mtime > 1000
    claim.release()
    assert not claim.path.exists()


def test_two_processes_may_open_a_folder_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".run-abc.json").write_text("")  # what the other one is writing
    assert Store.open(tmp_path / "a", IDENTITY).points() == []


def test_what_others_are_making_is_seen(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    assert not store.in_work(["c1", "c2"])
    claim = store.claim("c2")
    assert claim is not None
    assert store.in_work(["c1", "c2"])
    claim.release()
    assert not store.in_work(["c1", "c2"])


def test_failures_are_a_file_each(tmp_path):
    store = Store.open(tmp_path / "a", IDENTITY)
    assert store.failures() == {}
    store.note_failure("o-low-rank", "too small")
    store.note_failure("onnx-int8-static", "no scale")
    assert store.failures() == {"o-low-rank": "too small", "onnx-int8-static": "no scale"}


def test_a_target_that_is_no_file_is_left_alone(tmp_path):
    (tmp_path / "pipe").mkdir()
    with pytest.raises(OutputError, match="no file"):
        write_json(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_dir()
