"""The words that a model reads for a label."""

from collections.abc import Sequence

from ifedicl_serve.errors import DataError


def verbalize(name: str) -> str:
    """The words the model reads for a label: lower case, underscores as spaces."""
    return name.replace("_", " ").lower().strip()


def refuse_unclear(labels: Sequence[tuple[str, str]], source: str) -> None:
    """Raise DataError for labels, as names with their words, that the model, or whoever reads its
    answers, could not tell apart."""
    seen: dict[str, str] = {}
    for number, (name, words) in enumerate(labels, start=1):
        if not name.strip():
            raise DataError(f"{source}: label {number} has an empty name; name it or leave it out")
        if not words.strip():
            raise DataError(
                f"{source}: the model would read nothing for label {name!r}; give it words, as in "
                f"'{name}=words'"
            )
        if name in seen.values():
            raise DataError(f"{source}: label {name!r} is there twice; leave one out")
        if words in seen:
            raise DataError(
                f"{source}: the model would read {words!r} for {seen[words]!r} and for {name!r}; "
                f"give one of them other words, as in '{name}=words', or let them be one label"
            )
        seen[words] = name
