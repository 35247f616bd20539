"""Values as messages quote them: as Python writes them, but short, whatever an untrusted file holds."""

import reprlib


class _Short(reprlib.Repr):
    """Leave out the middle of what is long, and what is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 1
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write thousands of digits.
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


def quoted(value: object) -> str:
    """Return the value as Python writes it, shortened where that is long."""
    return _Short().repr(value)
