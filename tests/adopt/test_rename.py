"""A new name for the package: everywhere, or nowhere."""

import subprocess
import sys

import pytest
from projects import ROOT, Project, copy_project, package_texts

from mle_project.adopt.rename import check_name, package_name
from mle_project.core.project import ProjectError


@pytest.fixture(scope="module")
def renamed_project(tmp_path_factory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("renamed"))
    assert (
        "The package is called harbour_model"
        in project.run("mle", "rename", "harbour_model").stdout
    )
    return project


def test_no_trace_of_the_old_name_is_left(renamed_project):
    old = package_name(ROOT)
    files = subprocess.run(
        ["git", "grep", "-lI", "-w", "-e", old, "-e", old.replace("_", "-")],
        cwd=renamed_project.root,
        capture_output=True,
        text=True,
    )
    assert files.stdout == "" and not (renamed_project.root / old).exists()
    assert package_name(renamed_project.root) == "harbour_model"


def test_the_renamed_package_is_what_its_notebooks_export(renamed_project):
    before = package_texts(renamed_project.root / "harbour_model")
    renamed_project.run("nbdev_export")
    assert package_texts(renamed_project.root / "harbour_model") == before
    renamed_project.run("ruff", "check", "harbour_model", "tests", "benchmarks", "deploy")


def test_the_renamed_project_runs_its_stages(renamed_project):
    command = "from harbour_model.cli.main import main; main()"
    renamed_project.run(sys.executable, "-c", command, "export")
    renamed_project.params(tables__max_rows=5000)
    renamed_project.run(sys.executable, "-c", command, "fingerprint")
    renamed_project.run(sys.executable, "-c", command, "run", "tables")
    assert (renamed_project.root / "data" / "tables" / "train.parquet").exists()


@pytest.mark.parametrize(
    "name", ["Harbour", "class", "2nd", "json", "pandas", "tests", package_name(ROOT), "a-b", ""]
)
def test_a_name_that_cannot_be_is_rejected(name):
    with pytest.raises(ProjectError):
        check_name(ROOT, name)


def test_a_dirty_tree_is_rejected_and_left_alone(tmp_path):
    project = copy_project(tmp_path)
    project.replace("README.md", "## Limits", "## Its limits")
    process = project.run("mle", "rename", "harbour_model", check=False)
    assert process.returncode == 1 and "uncommitted changes" in process.stdout
    assert (
        package_name(tmp_path) == package_name(ROOT) and not (tmp_path / "harbour_model").exists()
    )
