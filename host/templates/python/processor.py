"""Processes the rows of one file. The module has the name of the interface."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.processor import Opened
from wit_world.imports.types import Batch, Failure_Config, Outcome, Rejection

KEEP, DROP, REJECT = 0, 1, 2


class Session(exports.processor.Session):
    @classmethod
    def open(cls, config: str, header: list[str]) -> Opened:
        column = json.loads(config)["column"]
        if column not in header:
            raise Err(Failure_Config(f"there is no column `{column}`; found {', '.join(header)}"))
        return Opened(cls(), wanted=[header.index(column)], added=[])

    def process(self, input: Batch) -> Outcome:
        cells = [input.data[a:b].decode() for a, b in zip(input.offsets, input.offsets[1:])]
        rejected = [row for row, cell in enumerate(cells) if not cell]
        verdicts = bytes(KEEP if cell else REJECT for cell in cells)
        rejections = [Rejection(row, 0, "no-value", "the cell is empty") for row in rejected]
        return Outcome(verdicts, rejections, [0], column_of([cell.upper() for cell in cells]))


def column_of(cells: list[str]) -> Batch:
    """One column in the form of the contract: the bytes of the cells, and where each begins and ends."""
    encoded = [cell.encode() for cell in cells]
    offsets = [0]
    for cell in encoded:
        offsets.append(offsets[-1] + len(cell))
    return Batch(len(cells), b"".join(encoded), offsets, b"")
