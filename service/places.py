"""Where artefacts lie under the state directory."""

import os
from dataclasses import dataclass
from pathlib import Path

DIGEST_CHARACTERS = 16  #: of a digest in a folder's name; the whole one stands in the database


@dataclass(frozen=True, slots=True)
class Places:
    """The state directory's layout."""

    state_dir: Path

    @property
    def base(self) -> Path:
        return self.state_dir / "base"

    @property
    def current(self) -> Path:
        """A link to the head's composed model (service.current)."""
        return self.state_dir / "current"

    @property
    def webhook_secret(self) -> Path:
        return self.state_dir / "webhook_secret"

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def answers(self) -> Path:
        return self.state_dir / "answers"

    @property
    def anchors(self) -> Path:
        """What the base says to general prompts."""
        return self.state_dir / "anchors"

    @property
    def checkpoint(self) -> Path:
        """Of the training in progress; there is one refresh at a time."""
        return self.state_dir / "checkpoint"

    @property
    def adapters(self) -> Path:
        return self.state_dir / "adapters"

    @property
    def snapshots(self) -> Path:
        return self.state_dir / "snapshots"

    @property
    def candidates(self) -> Path:
        """What may never be a release."""
        return self.state_dir / "candidates"

    def adapter(self, digest: str) -> Path:
        return self.adapters / digest[:DIGEST_CHARACTERS]

    def snapshot(self, recipe_digest: str) -> Path:
        return self.snapshots / recipe_digest[:DIGEST_CHARACTERS]

    def candidate(self, refresh_id: int) -> Path:
        """Where a refresh writes its adapter before the digest, and so the name, is known."""
        return self.candidates / f"refresh-{refresh_id}"

    def without(self, recipe_digest: str) -> Path:
        """Where a process composes a head without some adapters, to examine it."""
        name = f"without-{recipe_digest[:DIGEST_CHARACTERS]}-{os.getpid()}"
        return self.candidates / name
