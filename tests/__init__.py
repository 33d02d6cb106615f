"""All tests compute with the instructions that results are published with."""

from workflow import instructions

instructions.limit(instructions.DEFAULT)
