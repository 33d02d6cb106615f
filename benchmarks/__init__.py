"""How fast it is, side by side with the alternatives: `make bench`."""

from workflow import instructions

instructions.limit(instructions.DEFAULT)
