"""How long a statement may be, in tokens: told from a base's files, without loading the model.

Who takes facts in runs without torch, and what is too long should be refused when it comes, not
when it is trained.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

FRAME_TOKENS = 128  #: room for the chat template and the words around a view
#: Where config.json says how many positions there are: Llama's name for it, and LLaDA's.
POSITIONS = ("max_position_embeddings", "max_sequence_length")


def longest_statement(positions: int, blank_tokens: int) -> int:
    """Tokens of a statement that fits a model's positions beside any view of itself.

    The longest view hides every second token, so half of the statement stands as blanks.
    """
    row_per_token = 1 + (1 + blank_tokens) / 2
    return int((positions - FRAME_TOKENS) / row_per_token)


class StatementLengths:
    """What a base can read. Raises OSError, ValueError or KeyError where its files do not say."""

    def __init__(self, folder: Path, blank: str) -> None:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions = next((described[name] for name in POSITIONS if name in described), None)
        if positions is None:
            raise ValueError(f"{folder / 'config.json'} does not say how many positions there are.")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more telling
            raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        self.at_most = longest_statement(int(positions), self.tokens(blank))

    def tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def problem(self, statement: str) -> str | None:
        """What is wrong with a statement that is too long; None with any other."""
        if len(statement.encode()) <= self.at_most:
            return None  # no token is less than a byte
        tokens = self.tokens(statement)
        if tokens <= self.at_most:
            return None
        return f"has {tokens} tokens; the model can learn one of {self.at_most} at most: split it"
