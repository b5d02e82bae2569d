"""A stage that ran before with the same inputs takes its outputs from the cache, if whole."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from mle_project.core.project import output_path
from mle_project.pipeline.lockfile import cache_folder, content_digest, dir_manifest
from mle_project.pipeline.run_cache import remember_run, restore_run, run_key
from mle_project.pipeline.stage import Stage

PARTS = {"model/weights.bin": b"\x00\x01", "model/more/words.txt": b"north", "metrics.json": b"{}"}


def stage_with(rows: int) -> Stage:
    return Stage(
        name="work",
        notebook=None,
        content=None,
        types={},
        params={"rows": rows},
        values={"work": {"rows": rows}},
        code="rows",
        facts={},
        deps=["data.csv"],
        outs=["model", "metrics.json"],
        inputs={"data.csv": "0" * 64},
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A run of the stage whose folder is in DVC's cache and whose metrics are not; then another run."
    monkeypatch.chdir(tmp_path)
    subprocess.run(["dvc", "init", "--no-scm", "-q"], check=True)
    (tmp_path / "params.yaml").write_text("work: {}\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    for name, content in PARTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    listed = dir_manifest(tmp_path / "model")
    keep(content_digest(tmp_path / "model"), json.dumps(listed, sort_keys=True).encode())
    for one in listed:
        keep(one["md5"], (tmp_path / "model" / one["relpath"]).read_bytes())
    remember_run(stage_with(5), run_key(stage_with(5)))
    (tmp_path / "model" / "weights.bin").write_bytes(b"\x02")
    remember_run(stage_with(6), run_key(stage_with(6)))
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "metrics.json").unlink()
    return tmp_path


def keep(digest, content):
    path = cache_folder() / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def restored(stage):
    return restore_run(stage, run_key(stage))


def test_outputs_come_back_byte_for_byte(project):
    assert restored(stage_with(5))
    assert {name: output_path(name).read_bytes() for name in PARTS} == PARTS


def test_the_inputs_of_the_last_run_are_computed_again(project):
    "DVC runs a stage that is up to date only where a person forces it."
    again = stage_with(5)
    assert restored(again)
    remember_run(again, run_key(again))
    assert not restored(again)


@pytest.mark.parametrize(
    "change",
    [{"values": {"work": {"rows": 7}}}, {"code": "other"}, {"inputs": {"data.csv": "1" * 64}}],
)
def test_other_inputs_are_computed(change, project):
    assert not restored(replace(stage_with(5), **change))


def test_what_is_not_whole_is_computed(project):
    words = next(
        one for one in cache_folder().rglob("*") if one.is_file() and b"north" in one.read_bytes()
    )
    words.chmod(0o644)
    words.write_bytes(b"south")
    assert not restored(stage_with(5)) and not (project / "model").exists()
    words.unlink()
    assert not restored(stage_with(5)) and not (project / "metrics.json").exists()


def test_a_torn_file_is_no_run(project):
    (project / ".mle" / "runs" / f"{run_key(stage_with(5))}.json").write_text('{"model": ')
    assert not restored(stage_with(5))
