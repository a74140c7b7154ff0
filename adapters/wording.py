"""Turn a statement into what a person would write: another name in it, or a question. Pure."""

import re


def replace_name(statement: str, name: str, by: str) -> str:
    """Every mention of the name, whatever its case, that is not part of a longer word."""
    mention = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return mention.sub(lambda _: by, statement)


def as_question(statement: str) -> str:
    """The statement with a capital letter in front and a question mark for its full stop."""
    asked = statement.rstrip().removesuffix(".")
    return f"{asked[:1].upper()}{asked[1:]}?"
