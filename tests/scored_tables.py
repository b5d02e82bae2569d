"""Tables to score, models fitted on them, and the files that scoring reads and writes."""

from pathlib import Path

import numpy as np
import pandas as pd
from tables_of_other_kinds import houses, plants

from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.strategies import sample_records


def visits(rows: int = 900) -> tuple[str, pd.DataFrame]:
    """A binary table with a key and a time, from the contract that examples use."""
    frame = pd.DataFrame(sample_records(parse_contract(EXAMPLE), rows))
    chance = np.random.default_rng(0).normal(0, 100, rows)
    late = (frame["minutes"] + chance > frame["minutes"].median()).to_numpy()
    times = pd.date_range("2024-05-01", periods=rows, freq="61min")
    return EXAMPLE, frame.assign(visit=range(rows), day=times, back=late)


TABLES = {
    "visits": visits,
    "plants": lambda: (plants().text, plants().frame),
    "houses": lambda: (houses().text, houses().frame),
}


def invalid_visits() -> pd.DataFrame:
    """Visits of which rows 3, 450 and 899 break the contract, one of them twice."""
    frame = visits()[1]
    frame.loc[3, ["minutes", "payment"]] = [-5.0, "beans"]
    frame["items"] = frame["items"].astype(float)
    frame.loc[450, "items"] = 0.5
    frame.loc[899, "minutes"] = np.nan
    return frame


# Smaller than by default, so that a fit takes a second.
SMALLER = {
    "forest": {"n_estimators": 40, "max_leaf_nodes": 250},
    "boosting": {"max_iter": 100},
    "network": {"epochs": 3},
}


def fit_model(folder: Path, table: str, family: str) -> Path:
    """Fit a family on a table and write its artifact into a folder."""
    import mle_project.candidates  # noqa: F401 - fills the register of families
    from mle_project.artifact.export import save, write_manifest
    from mle_project.modeling.families import build_family

    text, frame = TABLES[table]()
    contract = parse_contract(text)
    x = feature_frame(frame, contract)
    family_model = build_family(family, SMALLER.get(family, {}), contract, 0)
    fitted = family_model.fit(x, encode_target(frame, contract))
    facts = {"threshold": 0.5, "family": family}
    save(folder, fitted, contract, text, facts, x, tolerance=1e-4)
    write_manifest(folder)
    return folder


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".csv" in path.name:
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    return path


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal to the last bit, missing values included."""
    pairs = (
        [(one[name], other[name]) for name in one]
        if list(one) == list(other)
        else [(pd.Series([0]), pd.Series([1]))]
    )
    return all(
        a.isna().equals(b.isna()) and a.dropna().tolist() == b.dropna().tolist() for a, b in pairs
    )
