"""A row of the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A name of vLLM's, as `module:Name.member`."""

    name: str
    role: str  # what it is to the file that uses it
    has: str = ""  # attributes of a class, or names in the body of a function, space between
    takes: str | None = None  # all parameters of a function, for what we wrap or override
    accepts: str = ""  # some of its parameters, by name, for what we call
    equals: str | None = None  # a constant's value
    formerly: str = ""  # its name in 0.32, where that is another one

    @property
    def places(self) -> tuple[str, ...]:
        """Where to look for it, in turn."""
        return tuple(filter(None, (self.name, self.formerly)))
