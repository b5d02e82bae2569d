"""The contract: one file, and two checks of it (frames and requests) that must never disagree."""

import json
import math
import subprocess
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from contracts import CONTRACTS, TEXTS, draw_values
from hypothesis import strategies as st
from pydantic import ValidationError
from tables_of_other_kinds import houses, plants

from mle_project.cli.main import main
from mle_project.core.arrays import frame_to_arrays, records_to_arrays
from mle_project.core.contract import (
    CONTRACT_SCHEMA,
    EXAMPLE,
    ContractError,
    contract_schema,
    parse_contract,
    schema_comment,
)
from mle_project.core.project import root
from mle_project.core.request_model import example_record, request_model
from mle_project.core.strategies import (
    invalid_records,
    invalid_values,
    sample_records,
    valid_records,
)
from mle_project.core.validation import failure_cases, records_frame, validate, violations

each_contract = pytest.mark.parametrize("name", CONTRACTS)


def request_rejects(model, record):
    try:
        model.model_validate(record)
    except ValidationError:
        return True
    return False


def frame_rejects(records, contract):
    """For each record, whether the check of frames rejects it.

    Records with the same fields are checked together.
    """
    alike = defaultdict(list)
    rejected = [False] * len(records)
    for number, record in enumerate(records):
        alike[frozenset(record)].append(number)
    for numbers in alike.values():
        failure_rows = failure_cases(
            records_frame([records[number] for number in numbers]), contract
        )
        whole = failure_rows["row"].isna().any()
        for place, number in enumerate(numbers):
            rejected[number] = bool(whole or (failure_rows["row"] == place).any())
    return rejected


def without_keys(record, keys):
    """A record without some of its fields."""
    return {key: value for key, value in record.items() if key not in keys}


@each_contract
def test_frames_and_requests_accept_the_same_generated_records(name):
    contract = CONTRACTS[name]
    good = 200
    bad = 800
    records = draw_values(valid_records(contract), good) + [
        record for record, _, _ in draw_values(invalid_records(contract), bad)
    ]
    model = request_model(contract)
    by_request = [request_rejects(model, record) for record in records]
    by_frame = frame_rejects(records, contract)
    different = [
        record
        for record, one, other in zip(records, by_request, by_frame, strict=True)
        if one != other
    ]
    assert not different, different[:3]
    assert not any(by_request[:good])
    assert all(by_request[good:])


@each_contract
def test_every_known_bad_value_of_every_column_is_rejected_by_both(name):
    contract = CONTRACTS[name]
    usual = example_record(contract)
    records = [
        {**usual, column: value}
        for column in usual
        for examples in invalid_values(contract.columns[column]).values()
        for value in examples
    ]
    model = request_model(contract)
    assert all(request_rejects(model, record) for record in records)
    assert all(frame_rejects(records, contract))


@each_contract
def test_values_mixed_at_random_are_judged_alike(name):
    """Any column may hold anything: nothing is assumed about what is right or wrong."""
    contract = CONTRACTS[name]
    pool = [
        None,
        0,
        1,
        3.0,
        -7,
        0.5,
        1e308,
        2**53 + 1,
        2**70,
        -(10**30),
        "a",
        "",
        " ",
        "é",
        "0",
        True,
        False,
        math.nan,
        math.inf,
    ]
    pool += [word for c in contract.columns.values() for word in c.categories[:2]] + [
        end for c in contract.columns.values() for end in c.range
    ]
    names = contract.role("feature")
    usual = example_record(contract)
    changes = st.dictionaries(
        st.sampled_from([*names, "hat"]), st.sampled_from(pool), min_size=1, max_size=3
    )
    absent = st.sets(st.sampled_from(names), max_size=1)
    pairs = draw_values(st.tuples(changes, absent | st.just(set())), 800)
    records = [without_keys({**usual, **changed}, missing) for changed, missing in pairs]
    model = request_model(contract)
    by_request = [request_rejects(model, record) for record in records]
    by_frame = frame_rejects(records, contract)
    different = [
        changed
        for changed, one, other in zip(pairs, by_request, by_frame, strict=True)
        if one != other
    ]
    assert not different, different[:3]
    assert 100 < sum(by_request) < 800


@each_contract
def test_json_text_is_judged_like_the_record_it_holds(name):
    contract = CONTRACTS[name]
    model = request_model(contract)
    for record in draw_values(valid_records(contract), 50) + [
        record for record, _, _ in draw_values(invalid_records(contract), 200)
    ]:
        try:
            model.model_validate_json(json.dumps(record))
            rejected = False
        except ValidationError:
            rejected = True
        assert rejected == request_rejects(model, record), record


@each_contract
def test_a_frame_with_dtypes_is_judged_like_its_objects(name):
    """Parquet and pandas give columns of numbers, not objects; the rules see values either way."""
    contract = CONTRACTS[name]
    records = draw_values(valid_records(contract), 60) + [
        record
        for record, _, fault in draw_values(invalid_records(contract), 200)
        if fault == "out_of_range"
    ]
    frame = records_frame(records)
    typed = frame.infer_objects()
    assert {"float64", "str"} <= {str(kind) for kind in typed.dtypes}
    by_value, by_dtype = (
        failure_cases(one, contract).sort_values(["column", "row"]).values.tolist()
        for one in (frame, typed)
    )
    assert by_value == by_dtype


@each_contract
def test_records_and_frames_enter_the_model_as_the_same_numbers(name):
    contract = CONTRACTS[name]
    records = draw_values(valid_records(contract), 100) + sample_records(contract, 200)
    by_record = records_to_arrays(records, contract)
    by_frame = frame_to_arrays(records_frame(records), contract)
    assert by_record[0].tobytes() == by_frame[0].tobytes()
    assert by_record[1].tolist() == by_frame[1].tolist()


@each_contract
def test_the_service_documents_an_example_that_works(name):
    contract = CONTRACTS[name]
    model = request_model(contract)
    example = model.model_json_schema()["example"]
    assert (
        model.model_validate_json(json.dumps(example)) and not frame_rejects([example], contract)[0]
    )


@each_contract
def test_payloads_are_valid_and_repeat(name):
    contract = CONTRACTS[name]
    sent = sample_records(contract, 300, seed=5)
    assert sent == sample_records(contract, 300, seed=5) != sample_records(contract, 300, seed=6)
    assert not any(frame_rejects(sent, contract)) and json.loads(json.dumps(sent)) == sent
    model = request_model(contract)
    assert not any(request_rejects(model, record) for record in sent)


def test_a_gap_in_one_record_is_not_a_missing_value():
    """Three marks of nothing: null may be allowed, NaN and an absent field never are."""
    contract = CONTRACTS["visits"]
    usual = example_record(contract)
    absent = without_keys(usual, ["items"])
    records = [usual, {**usual, "items": None}, {**usual, "items": math.nan}, absent]
    failure_rows = failure_cases(records_frame(records), contract)
    assert failure_rows[["column", "rule", "row"]].values.tolist() == [
        ["items", "is an integer", 2],
        ["items", "is an integer", 3],
    ]


def test_rows_are_counted_from_the_top_whatever_the_index():
    contract = CONTRACTS["visits"]
    frame = records_frame(
        [{**example_record(contract), "minutes": value} for value in (1, 2, 9999)]
    ).set_index(pd.Index([5, 5, 5]))
    assert violations(frame, contract).values.tolist() == [
        ["minutes", "is between 0 and 600", 1, "row 2: 9999"]
    ]


def test_a_column_that_stands_twice_is_reported():
    contract = CONTRACTS["visits"]
    frame = records_frame([example_record(contract)])
    assert violations(pd.concat([frame, frame[["door"]]], axis=1), contract)["rule"].tolist() == [
        "is there once"
    ]


# Wrong contracts: what is written in place of what, the key whose line it is rejected with
# (= is the changed line), and what the message says.
BEFORE = "available: before_prediction"
AFTER = "available: after_prediction"
MISTAKES = [
    (
        f"role: target, {AFTER}",
        f"role: feature, {AFTER}",
        "back",
        "becomes known only after the prediction",
    ),
    (
        f"{BEFORE},\n    unit",
        f"{AFTER},\n    unit",
        "minutes",
        "becomes known only after the prediction",
    ),
    (
        "type: number",
        "type: float",
        "minutes",
        "unknown type `float`; known: string, integer, number, boolean, timestamp",
    ),
    ("role: id", "role: time", "day", "`day` is a second time column beside `visit`"),
    (
        f"Has a card., role: feature, {BEFORE}",
        f"Has a card., role: target, {AFTER}",
        "back",
        "`back` is a second target column beside `member`",
    ),
    ("  visit:", "  door:", "door", "`door` stands twice (first on line 5). Keep one."),
    ("unit: minutes", "units: minutes", "=", "unknown key `units`. Known keys: type, description"),
    ("role: id", "rol: id", "visit", "unknown key `rol`. Known keys: type, description"),
    ("range: [0, 600]", "range: [600, 0]", "=", "a range that is not [low, high]"),
    ("range: [0, 600]", "range: [0]", "=", "a range that is not [low, high]"),
    ("range: [0, 600]", "range: [0, .nan]", "=", "a range that is not [low, high]"),
    ("range: [0, 600]", "range: [0, '600']", "=", "a range that is not [low, high]"),
    (
        "range: [0, 600]",
        "range: 600",
        "=",
        "`range` of column `minutes` must be a list, as in [a, b].",
    ),
    (
        "categories: [north, south]",
        "categories: north",
        "=",
        "`categories` of column `door` must be a list",
    ),
    (
        "categories: [north, south]",
        "categories: [north, no]",
        "=",
        "a category that is not a non-empty string; quote it",
    ),
    (
        "categories: [north, south]",
        "categories: [north, '']",
        "=",
        "a category that is not a non-empty string; quote it",
    ),
    ("categories: [north, south]", "categories: [north, north]", "=", "repeats a category"),
    (
        "description: Has a card.,",
        "description: Has a card., categories: [a],",
        "member",
        "only strings have them",
    ),
    (
        "description: Has a card.,",
        "description: Has a card., range: [0, 1],",
        "member",
        "has a range and is not a number",
    ),
    (
        "example: 12.5",
        "example: 1200",
        "minutes",
        "the example 1200, which is not between 0 and 600",
    ),
    (
        "example: card",
        "example: beans",
        "payment",
        "the example 'beans', which is not one of card, cash",
    ),
    ("example: true", 'example: "yes"', "member", "the example 'yes', which is not a boolean"),
    (", example: 12.5", "", "minutes", "has no example"),
    (
        "as_missing, example: 3",
        "keep, example: 3",
        "=",
        "unknown out_of_range `keep`; known: reject, as_missing, warn",
    ),
    ("role: id", "role: index", "visit", "unknown role `index`; known: feature, target"),
    (
        f"role: id, {BEFORE}",
        "role: id, available: sometimes",
        "visit",
        "unknown available `sometimes`; known: before_prediction, after",
    ),
    (
        "nullable: true, range",
        "nullable: perhaps, range",
        "=",
        "says nullable: and neither true nor false",
    ),
    ("slice: true", "slice: 1", "=", "says slice: and neither true nor false"),
    (
        "description: Has a card.",
        "description: ' '",
        "member",
        "has no description; say in a sentence what it is",
    ),
    (
        "description: Has a card.",
        "description: 5",
        "member",
        "has no description; say in a sentence what it is",
    ),
    ("unit: minutes", "unit: 5", "=", "has a unit that is not a word; quote it"),
    (
        "labels: {false: gone, true: back}",
        "labels: {0: gone, 1: back}",
        "=",
        "labels that are not words for its classes",
    ),
    (
        "labels: {false: gone, true: back}",
        "labels: {a: gone}",
        "back",
        "labels that are not words for its classes",
    ),
    (
        "labels: {false: gone, true: back}",
        "nullable: true",
        "back",
        "is the target and may be missing; say nullable: false",
    ),
    ("type: timestamp", "type: string", "day", "is the time and must be a timestamp or an integer"),
    ("role: time", "role: feature", "day", "is a feature of type timestamp"),
    (
        f"role: target, {AFTER}",
        f"role: target, {BEFORE}",
        "back",
        "then nothing is left to predict",
    ),
    (
        "type: integer, description: Things",
        "description: Things",
        "items",
        "does not say its `type`. Add the line.",
    ),
    ("task: binary", "task: regression", "back", "must be a number or an integer"),
    ("task: binary", "task: guess", "task", "task `guess` is not one of"),
    ("task: binary\n", "task: binary\nowner: me\n", "owner", "unknown key `owner`"),
    (
        "description: One visit to a shop, as known when it ends",
        "description:",
        "=",
        "is not a sentence",
    ),
]
# The words of earlier contracts, and what they are called now.
FORMER_WORDS = [
    (
        "description: One visit",
        "record: One visit",
        "record",
        "`record: One visit to a shop, as known when it ends` is now `description: One",
    ),
    (
        "description: Has a card.",
        "meaning: Has a card.",
        "member",
        "`meaning: Has a card.` is now `description: Has a card.`.",
    ),
    (
        "nullable: true, range",
        "missing: true, range",
        "=",
        "`missing: true` is now `nullable: true`. Change the line.",
    ),
    (BEFORE, "known: before", "visit", "`known: before` is now `available: before_prediction`."),
    (AFTER, "known: after", "back", "`known: after` is now `available: after_prediction`."),
    (
        BEFORE,
        "available: before",
        "visit",
        "`available: before` is now `available: before_prediction`.",
    ),
    (
        "out_of_range: as_missing",
        "outside: unknown",
        "=",
        "`outside: unknown` is now `out_of_range: as_missing`.",
    ),
    (
        "out_of_range: as_missing",
        "outside: reject",
        "=",
        "`outside: reject` is now `out_of_range: reject`.",
    ),
    (
        "out_of_range: as_missing",
        "out_of_range: flag",
        "=",
        "`out_of_range: flag` is now `out_of_range: warn`.",
    ),
    ("role: id", "role: key", "visit", "`role: key` is now `role: id`."),
]


@pytest.mark.parametrize(("right", "wrong", "place", "message"), [*MISTAKES, *FORMER_WORDS])
def test_a_wrong_contract_is_rejected_with_its_line(right, wrong, place, message):
    assert right in EXAMPLE
    text = EXAMPLE.replace(right, wrong, 1)
    begins = [
        number
        for number, content in enumerate(text.splitlines(), 1)
        if content.strip().startswith(f"{place}:")
    ]
    line = EXAMPLE[: EXAMPLE.index(right)].count("\n") + 1 if place == "=" else max(begins)
    with pytest.raises(ContractError) as rejection:
        parse_contract(text)
    assert str(rejection.value).startswith(f"contract.yaml:{line}: ") and message in str(
        rejection.value
    )
    assert "\n" not in str(rejection.value) and str(rejection.value).endswith(".")


def test_a_column_may_be_called_by_a_former_word():
    text = EXAMPLE.replace("  member:", "  known:").replace("  items:", "  missing:")
    assert {"known", "missing"} <= set(parse_contract(text).columns)


@pytest.mark.parametrize("key", ["description", "task", "columns"])
def test_a_contract_without_a_key_is_rejected(key):
    text = "".join(
        line
        for line in ["description: A visit\n", "task: binary\n", "columns: {}\n"]
        if not line.startswith(key)
    )
    with pytest.raises(
        ContractError,
        match=f"contract.yaml:1: the key `{key}` is missing. A contract has description, task",
    ):
        parse_contract(text)


def test_a_contract_with_other_columns_counts_its_features_anew():
    contract = parse_contract(EXAMPLE)
    assert contract.numeric_features == ["minutes", "items", "member"]
    columns = {
        **contract.columns,
        "items": contract.columns["items"].model_copy(update={"role": "ignored"}),
    }
    other = contract.with_columns(columns)
    assert (
        other.numeric_features == ["minutes", "member"] and other.columns["items"].name == "items"
    )
    assert (other.path, other.target.line) == (contract.path, contract.target.line)


# The schemas that editors read.
def test_the_schema_in_git_is_what_the_model_gives():
    written = json.loads((root() / CONTRACT_SCHEMA).read_text())
    assert written == contract_schema(), (
        f"{CONTRACT_SCHEMA} is not what nbs/ gives; type `mle schemas`"
    )
    assert (root() / "contract.yaml").read_text().startswith(schema_comment(CONTRACT_SCHEMA))


SCHEMA_MISTAKES = [
    ("unit: minutes", "units: minutes", "units"),
    ("role: id", "role: key", "key"),
    ("type: number", "type: float", "float"),
    (f"role: target, {AFTER}", f"role: feature, {AFTER}", "before_prediction"),
    (f"role: target, {AFTER}", f"role: target, {BEFORE}", "after_prediction"),
    ("range: [0, 600]", "range: [0]", "[0]"),
    ("range: [0, 600]", "range: [0, many]", "many"),
    ("categories: [north, south]", "categories: [north, north]", "north"),
    ("nullable: true, range", "nullable: perhaps, range", "perhaps"),
    ("type: integer, description: Things", "description: Things", "'type' is a required property"),
    ("description: Has a card.", "description: ' '", "description"),
    ("task: binary", "task: guess", "guess"),
    ("task: binary\n", "task: binary\nowner: me\n", "owner"),
]


@pytest.fixture(scope="module")
def schema_faults(tmp_path_factory):
    """What check-jsonschema, which reads YAML as editors do, says of each text, all at once."""
    folder = tmp_path_factory.mktemp("schema")
    texts = dict(TEXTS)
    for number, (right, wrong, _) in enumerate(SCHEMA_MISTAKES):
        texts[f"mistake-{number}"] = EXAMPLE.replace(right, wrong, 1)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    command = ["check-jsonschema", "-o", "json", "--schemafile", str(root() / CONTRACT_SCHEMA)]
    command += [str(folder / f"{name}.yaml") for name in texts]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    report = json.loads(process.stdout)
    assert report["parse_errors"] == []
    faults = {name: "" for name in texts}
    for error in report["errors"]:
        faults[Path(error["filename"]).stem] += f"{error['path']}: {error['message']}\n"
    return faults


@each_contract
def test_a_contract_keeps_the_schema(name, schema_faults):
    assert schema_faults[name] == ""


@pytest.mark.parametrize("number", range(len(SCHEMA_MISTAKES)))
def test_a_wrong_contract_breaks_the_schema(number, schema_faults):
    right, wrong, word = SCHEMA_MISTAKES[number]
    text = EXAMPLE.replace(right, wrong, 1)
    assert text != EXAMPLE
    assert word in schema_faults[f"mistake-{number}"]
    with pytest.raises(ContractError):
        parse_contract(text)


def test_a_contract_that_is_no_yaml_says_where():
    with pytest.raises(ContractError, match=r"not valid YAML.*line 4"):
        parse_contract(EXAMPLE.replace("columns:", "columns: ["))


@pytest.mark.parametrize("kind", [plants, houses])
def test_mle_check_says_what_is_wrong_with_a_file(kind, tmp_path):
    table = kind()
    (tmp_path / "c.yaml").write_text(table.text)

    def check_file(frame, name, *more):
        return CliRunner().invoke(
            main,
            [
                "check",
                str(write(frame, tmp_path / name)),
                "--contract",
                str(tmp_path / "c.yaml"),
                *more,
            ],
        )

    for name in ("good.csv", "good.parquet"):
        fine = check_file(table.frame, name)
        assert fine.exit_code == 0 and "900 rows keep the contract" in fine.output, fine.output
    number = table.contract.numeric_features[0]
    bad = table.frame.assign(**{number: [-1e9, *table.frame[number][1:]], "hat": 1}).drop(
        columns=table.contract.categorical_features[0]
    )
    for name in ("bad.csv", "bad.parquet"):
        rejected = check_file(bad, name)
        assert (
            rejected.exit_code == 1
            and "row 0: -1000000000.0" in rejected.output
            and "is in the contract" in rejected.output
        )
        report = json.loads(check_file(bad, name, "--json").output)
        assert {(one["column"], one["count"]) for one in report} == {
            (number, 1),
            ("hat", 900),
            (table.contract.categorical_features[0], 900),
        }


def write(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def test_mle_check_reads_text_as_the_contract_says(tmp_path):
    (tmp_path / "c.yaml").write_text(EXAMPLE)
    head = "visit,day,minutes,items,member,door,payment\n"
    (tmp_path / "v.csv").write_text(
        head + "1,2024-05-01,12.5,,true,north,card\n2,May,nan,1.5,1,,NA\n"
    )
    result = CliRunner().invoke(
        main, ["check", str(tmp_path / "v.csv"), "--contract", str(tmp_path / "c.yaml"), "--json"]
    )
    rules = {one["column"]: (one["rule"], one["examples"]) for one in json.loads(result.output)}
    assert result.exit_code == 1 and rules == {
        "day": ("is a timestamp", "row 1: 'May'"),
        "minutes": ("is a number", "row 1: NaN"),
        "items": ("is an integer", "row 1: 1.5"),
        "member": ("is a boolean", "row 1: '1'"),
        "door": ("is not missing", "row 1: None"),
        "payment": ("is one of card, cash", "row 1: 'NA'"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("visit\n", "has no rows"), ("visit,day\n1\n", "row 0 has 1 cells")],
)
def test_mle_check_rejects_a_file_that_is_no_table(content, message, tmp_path):
    (tmp_path / "v.csv").write_text(content)
    words = ["check", str(tmp_path / "v.csv"), "--form", "contract"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_an_error_about_a_frame_names_what_to_mend():
    table = plants()
    with pytest.raises(ContractError) as rejection:
        validate(
            table.frame.assign(length="long"),
            table.contract,
            "plants.csv",
            list(table.contract.columns),
        )
    assert str(rejection.value).splitlines()[1] == (
        "  length: is a number fails in 900 of 900 rows. "
        "row 0: 'long'; row 1: 'long'; row 2: 'long'"
    )
