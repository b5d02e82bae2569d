"""Two small tables of other kinds than the project's own: rows in groups, and rows without a time.

Each is a contract, a frame of raw records made from a seed, and the split that fits it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mle_project.core.contract import Contract, parse_contract


@dataclass(frozen=True)
class Kind:
    """A table of one kind."""

    text: str  # the contract's YAML
    frame: pd.DataFrame
    split: dict[str, Any]

    @property
    def contract(self) -> Contract:
        return parse_contract(self.text, "contract.yaml")


PLANTS = """
description: One measured leaf
task: multiclass
columns:
  leaf: {type: string, description: Number of the leaf., role: id, available: before_prediction,
    example: L1}
  plant: {type: integer, description: The plant that the leaf grew on., role: group,
    available: before_prediction, example: 4}
  length: {type: number, description: Length of the leaf., unit: mm, role: feature,
    available: before_prediction, range: [0, 400], example: 81.5}
  width: {type: number, description: Its width., unit: mm, role: feature,
    available: before_prediction, nullable: true, range: [0, 200], out_of_range: warn, example: 30}
  lobes: {type: integer, description: Number of lobes., role: feature, available: before_prediction,
    nullable: true, range: [0, 30], out_of_range: as_missing, example: 5}
  hairy: {type: boolean, description: Whether the leaf has hairs., role: feature,
    available: before_prediction, nullable: true, example: false}
  edge: {type: string, description: Shape of its edge., role: feature, available: before_prediction,
    categories: [smooth, toothed, wavy], ordered: true, example: toothed, slice: true}
  finder: {type: string, description: Who found the leaf., role: feature,
    available: before_prediction, nullable: true, example: Ada}
  site: {type: string, description: Where., role: feature, available: before_prediction,
    nullable: true, categories: [hill, shore], out_of_range: as_missing, example: hill}
  note: {type: string, description: What the finder wrote., role: ignored,
    available: before_prediction, nullable: true}
  species: {type: string, description: What the plant turned out to be., role: target,
    available: after_prediction, categories: [ash, oak, elm], example: oak}
"""

HOUSES = """
description: One house for sale
task: regression
columns:
  house: {type: integer, description: Number of the offer., role: id, available: before_prediction,
    example: 12}
  area: {type: number, description: Floor area., unit: m2, role: feature,
    available: before_prediction, range: [5.5, 2000], example: 120}
  rooms: {type: integer, description: Number of rooms., role: feature, available: before_prediction,
    nullable: true, range: [1, 60], out_of_range: warn, example: 4}
  altitude: {type: number, description: Altitude., unit: m, role: feature,
    available: before_prediction, nullable: true, range: [null, 9000], example: -2.5}
  garden: {type: boolean, description: Whether it has a garden., role: feature,
    available: before_prediction, example: true}
  heating: {type: string, description: What it is heated with., role: feature,
    available: before_prediction, categories: [gas, "no", oil], out_of_range: warn, example: gas}
  owner: {type: string, description: Sex of the seller., role: protected,
    available: before_prediction, nullable: true, categories: [f, m]}
  price: {type: number, description: Price it was sold for., unit: euro, role: target,
    available: after_prediction, range: [0, null], example: 250000}
"""


def plants(rows: int = 900, seed: int = 0) -> Kind:
    """Leaves of some plants, three species: a group column, three classes, no time."""
    chance = np.random.default_rng(seed)
    plant = chance.integers(0, rows // 15, rows)
    kind = plant % 3  # all leaves of a plant are of its species
    words = np.array(["ash", "oak", "elm"], dtype=object)
    frame = pd.DataFrame(
        {
            "leaf": [f"L{number}" for number in range(rows)],
            "plant": plant,
            "length": np.clip(chance.normal(60 + 20 * kind, 15), 1, 399).round(1),
            "width": np.where(
                chance.random(rows) < 0.1,
                np.nan,
                np.clip(chance.normal(40 - 5 * kind, 8), 1, 199).round(1),
            ),
            "lobes": np.where(
                chance.random(rows) < 0.2, np.nan, chance.integers(0, 4, rows) + 3.0 * (kind == 1)
            ),
            "hairy": pd.Series(
                np.where(chance.random(rows) < 0.1, None, chance.random(rows) < 0.2 + 0.3 * kind),
                dtype=object,
            ),
            "edge": np.array(["smooth", "toothed", "wavy"], dtype=object)[
                (kind + (chance.random(rows) < 0.3)) % 3
            ],
            "finder": pd.Series(
                chance.choice(np.array(["Ada", "Bo", "Cy", None], dtype=object), rows)
            ),
            "site": pd.Series(
                chance.choice(np.array(["hill", "shore", "moon", None], dtype=object), rows)
            ),
            "note": pd.Series(chance.choice(np.array(["wet", None], dtype=object), rows)),
            "species": words[kind],
        }
    )
    return Kind(PLANTS, frame, {"kind": "group", "validation": 0.2, "test": 0.2, "seed": 1})


def houses(rows: int = 900, seed: int = 0) -> Kind:
    """Houses and their prices: a regression, no time, no group, a protected attribute."""
    chance = np.random.default_rng(seed)
    area = chance.lognormal(4.6, 0.4, rows).round(1)
    garden = chance.random(rows) < 0.4
    frame = pd.DataFrame(
        {
            "house": range(rows),
            "area": np.clip(area, 6, 1999),
            "rooms": np.where(
                chance.random(rows) < 0.15, np.nan, np.clip((area / 25).round(), 1, 60)
            ),
            "altitude": np.where(
                chance.random(rows) < 0.1, np.nan, chance.normal(300, 200, rows).round(1)
            ),
            "garden": garden,
            "heating": chance.choice(
                np.array(["gas", "no", "oil", "straw"], dtype=object),
                rows,
                p=[0.5, 0.1, 0.38, 0.02],
            ),
            "owner": pd.Series(chance.choice(np.array(["f", "m", None], dtype=object), rows)),
            "price": (2000 * area * (1 + 0.2 * garden) + chance.normal(0, 20_000, rows))
            .clip(1000)
            .round(),
        }
    )
    return Kind(HOUSES, frame, {"kind": "random", "validation": 0.2, "test": 0.2, "seed": 1})


KINDS = {"plants": plants, "houses": houses}
