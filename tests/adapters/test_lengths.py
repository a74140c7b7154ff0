"""What a base can read is told from its files, as the loaded model says it."""

import json
import shutil
from pathlib import Path

import pytest

from adapters.backbones import encode_text, load_backbone
from adapters.config import BaseConfig
from adapters.errors import TextTooLong
from adapters.lengths import StatementLengths
from adapters.rows import encode_fact
from adapters.types import Fact


@pytest.mark.parametrize("family", ["tiny", "tiny_llada"])
def test_it_refuses_what_the_model_would_and_nothing_else(
    family: str, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(f"{family}_base")
    config: BaseConfig = request.getfixturevalue(f"{family}_config")
    lengths, backbone = StatementLengths(base, config.blank), load_backbone(base, config)
    for statement in ("7" * lengths.at_most, "sünde " * (lengths.at_most // 8)):
        tokens = len(encode_text(backbone, statement))
        assert lengths.tokens(statement) == tokens <= lengths.at_most
        assert lengths.problem(statement) is None
        encode_fact(backbone, Fact(key="0", statement=statement))
    long = "7" * (lengths.at_most + 1)
    assert lengths.problem(long) == (
        f"has {lengths.at_most + 1} tokens; the model can learn one of {lengths.at_most} at most: "
        "split it"
    )
    with pytest.raises(TextTooLong):
        encode_fact(backbone, Fact(key="0", statement=long))


def test_a_folder_that_does_not_say_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StatementLengths(tmp_path, " ____")
    shutil.copyfile(tiny_base / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say how many positions"):
        StatementLengths(tmp_path, " ____")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        StatementLengths(tmp_path, " ____")
