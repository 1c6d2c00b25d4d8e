"""Every error this project raises on purpose.

    IFedICLError
    ├── ArtifactError        an artifact folder that must not be served, with the reason
    ├── KeyFileError         a key to sign with or to trust that cannot be used
    ├── PromptError          a template or label set the tokenizer cannot keep apart
    ├── DataError            labelled examples that cannot be read or used
    ├── ModelError           a checkpoint without the two injection sites
    ├── TaskNotFoundError    a task name (or digest) nobody loaded
    ├── JobNotFoundError     a job nobody has, or not one of this key
    ├── InputError           a request that cannot be served as it was sent
    │   ├── TextTooLongError
    │   └── UploadError      an uploaded artifact that could not serve here
    ├── FolderError          the tasks directory cannot be changed, or not as asked
    │   └── FolderFullError
    ├── TaskUnavailableError the engine could not load a task it was asked for
    ├── EngineDiedError      the engine is gone, and with it every request it had
    ├── OverloadedError      more work than this server holds at once
    ├── DrainingError        the server is stopping and takes no new work
    ├── DeadlineError        a request that was not answered in time
    └── FederationError      a message of a federation that is not what it must be
        └── QuorumError      too few clients answered

A message says what was seen, what was expected or available, and what to do. HTTP statuses
are chosen in `api`, never here.
"""


class IFedICLError(Exception):
    """Base of all errors below; its message is safe to show to a caller."""


class ArtifactError(IFedICLError):
    """An artifact failed validation; the message names the folder and the reason."""


class KeyFileError(IFedICLError):
    """A PEM file does not hold the Ed25519 keys it should."""


class PromptError(IFedICLError):
    """The template or the labels do not survive the tokenizer as the trie needs them."""


class DataError(IFedICLError):
    """Labelled data is missing, malformed, or does not fit the label set."""


class ModelError(IFedICLError):
    """The model has no decoder layers with an attention and an MLP output to adapt."""


class TaskNotFoundError(IFedICLError):
    """No task of that name is loaded."""


class JobNotFoundError(IFedICLError):
    """No job of that id is known, or it is another key's."""


class InputError(IFedICLError):
    """A request that cannot be served as sent."""


class TextTooLongError(InputError):
    """The rendered prompt does not fit the model's context."""


class UploadError(InputError):
    """An uploaded artifact that could not serve here; nothing has changed."""


class FolderError(IFedICLError):
    """The tasks directory is read-only or unreadable, or holds something else in that place."""


class FolderFullError(FolderError):
    """There is no space for another task; nothing was written."""


class TaskUnavailableError(IFedICLError):
    """A worker could not load the task's artifact; other tasks are unaffected."""


class EngineDiedError(IFedICLError):
    """The engine has stopped; the server will."""


class OverloadedError(IFedICLError):
    """No room for a request now. `retry_after`: seconds after which there may be some."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(IFedICLError):
    """The server finishes what it has and stops."""


class DeadlineError(IFedICLError):
    """A request was not answered within its time; its work was dropped."""


class FederationError(IFedICLError):
    """A message, or a client, that a federation cannot use; the message holds no client's data."""


class QuorumError(FederationError):
    """Fewer clients answered than the coordinator was told to need."""
