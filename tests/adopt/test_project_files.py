"""What a person wrote into `params.yaml` and `dvc.yaml` is there after `mle adopt`."""

import pandas as pd
import pytest
import yaml
from projects import ROOT

from mle_project.adopt.plan import apply, plan
from mle_project.adopt.project_files import replace_plots, with_value
from mle_project.core.project import ProjectError

GRAPH = replace_plots((ROOT / "dvc.yaml").read_text().partition("\nplots:\n")[0] + "\n", "binary")
PARAMS = (ROOT / "params.yaml").read_text()
TAIL = """  # a curve of my own
  - reports/mine/gain.csv: {x: share, y:   gain}

# what my team's registry reads
artifacts:
    classifier:  {path: models/final,   type: model}   # odd spacing, on purpose
# the end
"""
SECTION = """
# of our own tools
ours:
    - one   # not the indentation of this project
    - {two:   2}
"""


def lines(text: str) -> list[str]:
    """The lines of a text."""
    return text.splitlines()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_tail_after_the_plots_stays(task):
    changed = replace_plots(GRAPH.rstrip("\n") + "\n" + TAIL, task)
    assert changed.endswith(TAIL) and changed.startswith(GRAPH.split("\nplots:\n")[0])
    curves = [next(iter(item)) for item in yaml.safe_load(changed)["plots"]]
    assert ("${final_model.plots}/errors.csv" in curves) == (task == "regression") and curves[
        -1
    ] == "reports/mine/gain.csv"
    assert replace_plots(replace_plots(changed, "regression"), "binary").endswith(TAIL)


def test_a_change_and_its_opposite_give_the_same_text():
    text = GRAPH.rstrip("\n") + "\n" + TAIL
    assert replace_plots(text, "binary") == text != replace_plots(text, "regression")
    assert sorted(lines(replace_plots(replace_plots(text, "regression"), "binary"))) == sorted(
        lines(text)
    )


@pytest.mark.parametrize(
    "plots",
    [
        "",
        "plots:",
        "plots:\n",
        "plots: # none yet\n",
        "plots:\n- mine.csv",
        "plots:\n    - mine.csv:\n        x: a\n",
    ],
)
def test_other_ways_to_write_the_plots(plots):
    changed = yaml.safe_load(replace_plots("stages: {}\n" + plots, "regression"))
    own = yaml.safe_load(plots) or {}
    assert len(changed["plots"]) == 2 + len(own.get("plots") or []) and changed["stages"] == {}
    assert changed["plots"][2:] == (own.get("plots") or [])


@pytest.mark.parametrize(
    "plots", ["plots: [mine.csv]\n", "plots: {mine.csv: {x: a}}\n", "plots:\n  mine.csv: {x: a}\n"]
)
def test_plots_that_are_no_list_of_lines_are_rejected(plots):
    with pytest.raises(ProjectError, match="dvc.yaml: `plots` must be a list"):
        replace_plots("stages: {}\n" + plots, "regression")


STRINGS = ["words.csv", "No", "null", "1e5", "2013-09-01", 'a "b", c: d # e', "ü\t\\"]
VALUES = [None, True, 3, 0.02, 1e-7, *STRINGS, [1, "x"], {}, {"kind": "time", "on": "no"}]


@pytest.mark.parametrize(
    "value",
    [*VALUES, {"one": {"path": "data/raw/*.csv", "missing": ["", "N/A"]}, "2nd": {"path": "b"}}],
    ids=str,
)
@pytest.mark.parametrize(
    "place",
    ["tables.sources", "tables.split", "tables.max_rows", "leakage.metrics", "bento.new_key"],
)
def test_one_value_changes_and_nothing_else(place, value):
    text = PARAMS + SECTION
    section, key = place.split(".")
    changed = with_value(text, place, value)
    expected = yaml.safe_load(text)
    expected[section][key] = value
    assert yaml.safe_load(changed) == expected
    old = [line for line in lines(text) if "#" in line]
    new = [line for line in lines(changed) if "#" in line and "a \\" not in line]
    assert old == new and changed.endswith(SECTION)


def test_a_comment_behind_a_value_stays():
    assert (
        with_value("a:\n  b: 1  # why\n  c: 2\n", "a.b", "x y") == 'a:\n  b: "x y"  # why\n  c: 2\n'
    )
    assert (
        with_value("a:\n  b:  # why\n    d: {e: 1}\n  # of c\n  c: 2\n", "a.b", 5)
        == "a:\n  b: 5\n  # of c\n  c: 2\n"
    )


@pytest.mark.parametrize("text", ["a: 1\n", "a: {b: 1}\n", "c:\n  b: 1\n", "", "a: [\n"])
def test_a_file_without_the_section_is_rejected(text):
    with pytest.raises(ProjectError, match="params.yaml"):
        with_value(text, "a.b", 2)


def test_adoption_keeps_what_a_person_wrote(project):  # noqa: F811
    (project / "params.yaml").write_text(
        with_value(PARAMS, "tables.query", "sql/earlier.sql") + SECTION
    )
    (project / "dvc.yaml").write_text(GRAPH.rstrip("\n") + "\n" + TAIL)
    rows = range(400)
    table = pd.DataFrame(
        {
            "size": [row * 37 % 101 / 7 for row in rows],
            "door": [["north", "south"][row % 2] for row in rows],
        }
    )
    table.assign(price=table["size"] * 3 + (table["door"] == "north")).to_csv(
        project / "houses.csv", index=False
    )
    apply(plan(["houses.csv"], target="price"), force=True)
    params = (project / "params.yaml").read_text()
    graph = (project / "dvc.yaml").read_text()
    assert params.endswith(SECTION) and graph.endswith(TAIL)
    assert [line for line in lines(PARAMS) if line.strip().startswith("#")] == [
        line for line in lines(params.removesuffix(SECTION)) if line.strip().startswith("#")
    ]
    assert (
        list(yaml.safe_load(params)["tables"]["sources"]) == ["houses"]
        and "errors.csv" in graph
        and "roc.csv" not in graph
    )
