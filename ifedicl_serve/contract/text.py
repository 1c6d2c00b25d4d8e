"""Strings that are text, and can be classified. JSON and Python can hold others."""


def is_unicode(text: str) -> bool:
    """Whether it can be encoded: not if it holds half of a surrogate pair ("\\ud800" in JSON),
    which no tokenizer takes and no file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def why_unusable(text: str) -> str | None:
    """Why no model can classify a text, to be put behind what names it; None if one can."""
    if not text.strip():
        return "is empty, expected something to classify"
    if not is_unicode(text):
        return "holds half of a surrogate pair, expected Unicode text"
    return None
