"""What can go wrong while a model is loaded, trained, asked or composed.

    AdapterError
    ├── ConfigurationError      a setting cannot be used: which one, what to write
    ├── ModelSourceError        the base model is missing, corrupt or of a form that is refused
    ├── ArtefactError           a stored artefact is missing, incomplete or not its digest
    │   └── StorageFull         the disk filled up while an artefact was written
    ├── ComposeError            an adapter does not fit the base that it should be added to
    ├── UnsafeText              a text that cannot be encoded as plain tokens
    ├── TextTooLong             a statement that the model could not read beside its view
    ├── SuiteError              a probe suite or relation file with a broken line
    ├── TrainingStopped         a training was asked to stop; its checkpoint is written
    └── TrainingDiverged        the loss exploded or stopped being finite

Every message is a sentence with the facts in it: what, where, and what to do.
"""


class AdapterError(Exception):
    """Anything that `adapters` refuses to go on with."""


class ConfigurationError(AdapterError):
    """A setting cannot be used."""


class ModelSourceError(AdapterError):
    """The base model is missing, corrupt or of a form that is refused."""


class ArtefactError(AdapterError):
    """A stored artefact is missing, incomplete or not what its digest says."""


class StorageFull(ArtefactError):
    """The disk filled up while an artefact was written; nothing half-written is left behind."""


class ComposeError(AdapterError):
    """An adapter does not fit the base that it should be added to."""


class UnsafeText(AdapterError):
    """A text that cannot be encoded as plain tokens of this tokenizer."""


class TextTooLong(AdapterError):
    """A statement that the model could not read beside its view."""


class SuiteError(AdapterError):
    """A probe suite or relation file with a broken line."""


class TrainingStopped(AdapterError):
    """A training was asked to stop; it goes on from its checkpoint."""


class TrainingDiverged(AdapterError):
    """The loss exploded or stopped being finite; a fact is at fault, or the settings are."""

    def __init__(self, message: str, *, step: int, facts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.step = step  #: from 1
        self.facts = facts  #: keys of the facts in the minibatch
