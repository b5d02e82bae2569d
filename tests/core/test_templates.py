"""The templates of pages: they count as code of the stages that render them, and nothing gets into a page by accident."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jinja2 import UndefinedError
from projects import ROOT, Project, copy_project

from mle_project.adopt.project_files import readme_section
from mle_project.core.contract import example_contract
from mle_project.core.rendering import render
from mle_project.evaluation.leakage import Finding
from mle_project.leakage import leakage_report
from mle_project.pipeline.stage_code import stage_code

TEMPLATES = sorted(path.name for path in (ROOT / "mle_project" / "templates").iterdir())
RENDERED = {
    "card.md.j2": {"final_model"},
    "card.html.j2": {"final_model"},
    "leakage.md.j2": {"leakage"},
    "readme_part.md.j2": set(),
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A copy of what the code of stages is made from."""
    for name in ("nbs", "mle_project", "params.yaml", "dvc.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_code() -> dict[str, str]:
    """The code of three stages of the project that we are in: one renders nothing."""
    return {stage: stage_code(stage) for stage in ("eda", "final_model", "leakage")}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_changes_the_code_of_the_stages_that_render_it(name, here):
    before, path = all_code(), here / "mle_project" / "templates" / name
    path.write_text(path.read_text().replace("\n", "\nOne more word.\n", 1))
    after = all_code()
    assert {stage for stage in before if after[stage] != before[stage]} == RENDERED[name]
    assert all(ast.parse(code) for code in after.values())


def test_a_template_that_another_includes_counts_too(here):
    folder = here / "mle_project" / "templates"
    (folder / "part.md.j2").write_text("a part\n")
    (folder / "leakage.md.j2").write_text('{% include "part.md.j2" %}\n')
    before = all_code()
    (folder / "part.md.j2").write_text("another part\n")
    after = all_code()
    assert {stage for stage in before if after[stage] != before[stage]} == {"leakage"}


def test_every_template_is_named_by_a_module():
    """A name put together at run time would be missed, so it stands in the code as it is."""
    modules = [path.read_text() for path in (ROOT / "mle_project").rglob("*.py")]
    for name in TEMPLATES:
        assert any(
            f'render(\n        "{name}"' in text or f'render("{name}"' in text for text in modules
        ), name


def test_dvc_sees_an_edit_of_a_template(tmp_path):
    project: Project = copy_project(tmp_path)
    project.run("dvc", "repro", "export")
    assert "Running stage" not in project.run("dvc", "repro", "--dry", "export").stdout
    project.replace("mle_project/templates/leakage.md.j2", "# Leakage", "# What leaks")
    assert "Running stage 'export'" in project.run("dvc", "repro", "--dry", "export").stdout
    old = {path.name: path.read_text() for path in (tmp_path / "reports" / "code").iterdir()}
    project.run("dvc", "repro", "export")
    new = {path.name: path.read_text() for path in (tmp_path / "reports" / "code").iterdir()}
    assert {name for name in old if new[name] != old[name]} == {"leakage.py"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_that_is_not_given_is_an_error(name):
    with pytest.raises(UndefinedError):
        render(name)


def test_html_is_escaped_and_markdown_is_not():
    assert "<script>" not in render("card.html.j2", title="<script>", body="<script>")
    finding = Finding("L1.1", "no test set", "a < b", "`x` & `y`")
    assert "| a < b | `x` & `y` |" in leakage_report([finding])


def test_a_bar_in_a_cell_does_not_break_a_table():
    metrics = {"family": "a|b", "test": {"roc_auc": 0.8}, "baselines": {}}
    assert "| roc_auc | 0.8000 |" in readme_section(example_contract(), metrics, None)
    assert "a\\|b" in readme_section(example_contract(), metrics, None)


def test_templates_are_package_data():
    """The wheel's own test looks into it; git and setuptools have to know each of them."""
    names = subprocess.run(
        ["git", "ls-files", "mle_project/templates"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert [Path(name).name for name in names] == TEMPLATES and all(
        name.endswith(".j2") for name in TEMPLATES
    )
    assert (
        "mle_project/templates"
        in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["export"]["deps"]
    )
