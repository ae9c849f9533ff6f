"""Writes a column in capital letters."""

import json

from wit_world import exports
from wit_world.exports.processor import Description

SCHEMA = {
    "type": "object",
    "properties": {"column": {"type": "string", "description": "The column to change."}},
    "required": ["column"],
    "additionalProperties": False,
}


class Processor(exports.Processor):
    """Describes the plugin."""

    def describe(self) -> Description:
        return Description("{{name}}", "0.1.0", "Writes a column in capital letters.", json.dumps(SCHEMA))
