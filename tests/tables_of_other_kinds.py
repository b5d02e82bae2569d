"""Two small tables of other kinds than the project's own: rows that come in groups, and rows without a time.

Each is a contract, a frame of raw records made from a seed, and the split that fits it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mle_project.contract import Contract, parse_contract


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
record: One measured leaf
task: multiclass
columns:
  leaf: {type: string, meaning: Number of the leaf., role: key, known: before, example: L1}
  plant: {type: integer, meaning: The plant that the leaf grew on., role: group, known: before, example: 4}
  length: {type: number, meaning: Length of the leaf., unit: mm, role: feature, known: before, range: [0, 400], example: 81.5}
  width: {type: number, meaning: Its width., unit: mm, role: feature, known: before, missing: true, range: [0, 200], outside: flag, example: 30}
  lobes: {type: integer, meaning: Number of lobes., role: feature, known: before, missing: true, range: [0, 30], outside: unknown, example: 5}
  hairy: {type: boolean, meaning: Whether the leaf has hairs., role: feature, known: before, missing: true, example: false}
  edge: {type: string, meaning: Shape of its edge., role: feature, known: before, categories: [smooth, toothed, wavy], example: toothed, slice: true}
  finder: {type: string, meaning: Who found the leaf., role: feature, known: before, missing: true, example: Ada}
  site: {type: string, meaning: Where., role: feature, known: before, missing: true, categories: [hill, shore], outside: unknown, example: hill}
  note: {type: string, meaning: What the finder wrote., role: ignored, known: before, missing: true}
  species: {type: string, meaning: What the plant turned out to be., role: target, known: after, categories: [ash, oak, elm], example: oak}
"""

HOUSES = """
record: One house for sale
task: regression
columns:
  house: {type: integer, meaning: Number of the offer., role: key, known: before, example: 12}
  area: {type: number, meaning: Floor area., unit: m2, role: feature, known: before, range: [5.5, 2000], example: 120}
  rooms: {type: integer, meaning: Number of rooms., role: feature, known: before, missing: true, range: [1, 60], outside: flag, example: 4}
  altitude: {type: number, meaning: Altitude., unit: m, role: feature, known: before, missing: true, range: [null, 9000], example: -2.5}
  garden: {type: boolean, meaning: Whether it has a garden., role: feature, known: before, example: true}
  heating: {type: string, meaning: What it is heated with., role: feature, known: before, categories: [gas, "no", oil], outside: flag, example: gas}
  owner: {type: string, meaning: Sex of the seller., role: protected, known: before, missing: true, categories: [f, m]}
  price: {type: number, meaning: Price it was sold for., unit: euro, role: target, known: after, range: [0, null], example: 250000}
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
            "width": np.where(chance.random(rows) < 0.1, np.nan, np.clip(chance.normal(40 - 5 * kind, 8), 1, 199).round(1)),
            "lobes": np.where(chance.random(rows) < 0.2, np.nan, chance.integers(0, 4, rows) + 3.0 * (kind == 1)),
            "hairy": pd.Series(np.where(chance.random(rows) < 0.1, None, chance.random(rows) < 0.2 + 0.3 * kind), dtype=object),
            "edge": np.array(["smooth", "toothed", "wavy"], dtype=object)[(kind + (chance.random(rows) < 0.3)) % 3],
            "finder": pd.Series(chance.choice(np.array(["Ada", "Bo", "Cy", None], dtype=object), rows)),
            "site": pd.Series(chance.choice(np.array(["hill", "shore", "moon", None], dtype=object), rows)),
            "note": pd.Series(chance.choice(np.array(["wet", None], dtype=object), rows)),
            "species": words[kind],
        }
    )
    return Kind(PLANTS, frame, {"kind": "group", "validation": 0.2, "test": 0.2, "seed": 1})


def houses(rows: int = 900, seed: int = 0) -> Kind:
    """Houses and their prices: a regression, no time, no group, a protected attribute."""
    chance = np.random.default_rng(seed)
    area, garden = chance.lognormal(4.6, 0.4, rows).round(1), chance.random(rows) < 0.4
    frame = pd.DataFrame(
        {
            "house": range(rows),
            "area": np.clip(area, 6, 1999),
            "rooms": np.where(chance.random(rows) < 0.15, np.nan, np.clip((area / 25).round(), 1, 60)),
            "altitude": np.where(chance.random(rows) < 0.1, np.nan, chance.normal(300, 200, rows).round(1)),
            "garden": garden,
            "heating": chance.choice(np.array(["gas", "no", "oil", "straw"], dtype=object), rows, p=[0.5, 0.1, 0.38, 0.02]),
            "owner": pd.Series(chance.choice(np.array(["f", "m", None], dtype=object), rows)),
            "price": (2000 * area * (1 + 0.2 * garden) + chance.normal(0, 20_000, rows)).clip(1000).round(),
        }
    )
    return Kind(HOUSES, frame, {"kind": "random", "validation": 0.2, "test": 0.2, "seed": 1})


KINDS = {"plants": plants, "houses": houses}
