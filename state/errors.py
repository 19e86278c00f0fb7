"""The one error tree.

TorporError
├── BadInput                 the caller gave something we cannot take
│   ├── InvalidId
│   ├── AmbiguousId          a short id that several backups end with
│   ├── InvalidManifest
│   ├── InvalidSettings
│   ├── TooLarge
│   ├── UnsupportedMedia     a request whose body is encoded, or of a type that forms and beacons send
│   ├── UnsupportedState     a value, dtype or cache that has no lossless form here
│   ├── UnknownFormat        a file of some other kind
│   ├── NewerFormat          a file of a version that this one does not know yet
│   ├── InvalidFile          a file whose parts contradict each other
│   ├── FileDamaged          a file that was cut short or altered
│   ├── UnsuitableTemplate   a chat template that cannot render the conversation, or not message by message
│   └── UntrackedSession     a session of which nobody knows how far its ids follow the conversation
├── NotFound
│   ├── SessionNotFound
│   ├── BackupNotFound
│   ├── BlobNotFound
│   ├── GroupNotFound
│   ├── ObjectNotFound       an object that the bucket does not have
│   └── BucketNotFound
├── Refused                  understood, and not done
│   ├── Unauthorized
│   ├── HostNotAllowed
│   ├── VersionMismatch
│   ├── Conflict
│   ├── FileExists
│   ├── MissingBlobs
│   ├── DaemonAlreadyRunning
│   ├── ForkedProcess        a keeper of the process that this one was forked from
│   ├── UnsafeHome
│   │   └── NetworkHome      a network file system, whose locks and fsync cannot be trusted
│   ├── NewerIndex           the index was written by a newer version; it was left untouched
│   ├── ScopeDenied          the token is known, and not allowed to do this
│   ├── RestoreRefused
│   ├── ContextTooLong       more tokens than the model's window has
│   ├── GroupIncomplete      some of the backups that were saved as one were removed
│   ├── SyncOff              no S3 storage is configured
│   ├── RemoteDenied         the storage does not accept the credentials, or not for this
│   ├── ClockSkewed          the clocks of this machine and of the storage are too far apart
│   ├── ObjectExists         a conditional write found the name taken
│   ├── RemoteRefused        the storage will not do this, however often it is asked
│   ├── UnknownRepository    the bucket holds something else, or a newer layout
│   ├── KeyMissing           what is stored is encrypted, and this machine has not the key
│   └── WrongPassphrase
├── Damaged                  bytes are not what was written
│   ├── BlobDamaged
│   ├── ManifestDamaged
│   ├── IndexDamaged
│   └── ObjectDamaged        an object of the bucket is not what was written
├── Unavailable              may heal by itself
│   ├── DaemonNotRunning
│   ├── NoProcess            no inference process is attached that could do it
│   ├── StoreFull
│   │   └── QuotaFull        what may be used is used, and nothing may go
│   ├── StoreFailed
│   ├── OutOfMemory          what was asked for takes more memory than is free
│   ├── SnapshotLost
│   ├── FileChanged
│   ├── Timeout
│   ├── TooManyAttempts      too many wrong tokens; each counts
│   ├── WatchLimit
│   ├── NoServiceManager     no systemd of the user's own runs here
│   ├── ServiceFailed        the service manager could not do it, or the service ended at once
│   ├── Offline              the storage cannot be reached
│   ├── Throttled            the storage asks for fewer requests
│   └── RemoteFailed         the storage answered with a failure of its own
└── MissingExtra             an optional dependency is not installed

Each class carries a stable `code` (the HTTP problem type), the exit status of the command line, the HTTP status,
whether a retry can help, and a hint that says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class TorporError(Exception):
    """Anything that Torpor refuses or fails to do."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Torpor failed"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "See the daemon's log; `torpor status` names it."

    def __init__(self, detail: str, *, hint: str | None = None) -> None:
        self.detail = detail if detail.isprintable() else "".join(map(_shown, detail))
        super().__init__(self.detail)
        self.hint = hint if hint is not None else self.default_hint
        self.kept: str | None = None

    def keep(self, backup_id: str) -> None:
        """Note that text and tokens of a save that failed were saved all the same, as this backup or group."""
        self.kept = backup_id
        self.hint = f"Its text and tokens are kept as {backup_id}. {self.hint}"


def _shown(character: str) -> str:
    """Escape what a terminal would obey or no UTF-8 can carry: a name from a file ends up in a detail."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class BadInput(TorporError):
    code, title, exit_code, http_status = "bad-input", "The input cannot be used", 2, 422
    default_hint = "Correct the input and try again; nothing was changed."


class InvalidId(BadInput):
    code, title = "invalid-id", "The id is not valid"
    default_hint = (
        "Session ids are 1 to 128 of A-Z a-z 0-9 . _ : @ + = -, starting with a letter or digit; "
        "backup ids are listed by `torpor ls`."
    )


class AmbiguousId(BadInput):
    code, title = "ambiguous-id", "Several backups have an id that ends so"
    default_hint = "Add more characters from the end of the id; `torpor ls` lists whole ids."


class InvalidManifest(BadInput):
    code, title = "invalid-manifest", "The manifest is not valid"
    default_hint = "The file was not written by Torpor, or by a newer version of it."


class InvalidSettings(BadInput):
    code, title = "invalid-settings", "A setting is not valid"
    default_hint = "Check config.toml and the TORPOR_* environment variables."


class TooLarge(BadInput):
    code, title, http_status = "too-large", "The request is too large", 413
    default_hint = "Tensors go into blobs of their own; a manifest stays small."


class UnsupportedMedia(BadInput):
    code, title, http_status = "unsupported-media", "The body of the request is of a type that is not taken", 415
    default_hint = "Send JSON as application/json, or bytes as application/octet-stream, without Content-Encoding."


class UnsupportedState(BadInput):
    code, title = "unsupported-state", "The state holds something that cannot be saved without loss"
    default_hint = "Convert the named value to JSON, a numpy array or a torch tensor first."


class UnknownFormat(BadInput):
    code, title, http_status = "unknown-format", "The file is in no format that can be read", 415
    default_hint = "qwen-state/v1 (.qwnbak), bundles, .safetensors and .pt files can be imported."


class NewerFormat(BadInput):
    code, title, http_status = "newer-format", "The file was written by a newer version", 415
    default_hint = "Update torpor (`pip install --upgrade torpor`) and try again."


class InvalidFile(BadInput):
    code, title = "invalid-file", "The file contradicts itself"
    default_hint = "Nothing was imported. Ask the program that wrote the file for another copy."


class FileDamaged(BadInput):
    code, title = "file-damaged", "The file was cut short or altered"
    default_hint = "Nothing was imported. If it is still being copied, wait until it is whole; else use another copy."


class UnsuitableTemplate(BadInput):
    code, title = "unsuitable-template", "The chat template cannot render the conversation"
    default_hint = "Give the tokenizer a chat template of its model; the conversation itself was not changed."


class UntrackedSession(BadInput):
    code, title = "untracked-session", "It is not known how far the token ids follow the conversation"
    default_hint = "Start the session with `start_chat`, and let `say` and `reply` append to it."


class NotFound(TorporError):
    code, title, exit_code, http_status = "not-found", "Not found", 3, 404
    default_hint = "`torpor ls` lists what there is."


class SessionNotFound(NotFound):
    code, title = "session-not-found", "There is no such session"


class BackupNotFound(NotFound):
    code, title = "backup-not-found", "There is no such backup"


class BlobNotFound(NotFound):
    code, title = "blob-not-found", "A blob is missing from the store"
    default_hint = "Part of this backup is gone; `torpor ls` shows older backups of the session."


class GroupNotFound(NotFound):
    code, title = "group-not-found", "There is no such group"
    default_hint = "`torpor groups` lists what there is."


class ObjectNotFound(NotFound):
    code, title = "object-not-found", "The bucket does not have this object"
    default_hint = "Another machine may have removed it; `torpor ls --remote` lists what there is."


class BucketNotFound(NotFound):
    code, title = "bucket-not-found", "There is no such bucket"
    default_hint = "Create the bucket, or correct S3_BUCKET; nothing is lost, backups wait on this machine."


class Refused(TorporError):
    code, title, exit_code, http_status = "refused", "Refused", 4, 409
    default_hint = "Nothing was changed."


class Unauthorized(Refused):
    code, title, exit_code, http_status = "unauthorized", "The token is missing or wrong", 5, 401
    default_hint = "The token is in the file `token` of the home folder; set TORPOR_TOKEN or TORPOR_HOME."


class HostNotAllowed(Refused):
    code, title, exit_code, http_status = "host-not-allowed", "The Host or Origin header is not allowed", 5, 403
    default_hint = "Call the daemon as 127.0.0.1 or localhost, or add the name to TORPOR_ALLOWED_HOSTS."


class VersionMismatch(Refused):
    code, title, http_status = "version-mismatch", "Client and daemon do not speak the same API version", 426
    default_hint = "Install the same version of torpor in both environments and restart the daemon."


class Conflict(Refused):
    code, title = "conflict", "The id is already used for something else"


class FileExists(Refused):
    code, title = "file-exists", "The file exists already"
    default_hint = "Choose another name, or add --force to replace it; nothing was changed."


class MissingBlobs(Refused):
    code, title, retryable = "missing-blobs", "The manifest names blobs that the store does not have", True
    default_hint = "The SDK writes them again by itself; a direct caller uploads them first."

    def __init__(self, detail: str, *, hint: str | None = None, digests: tuple[str, ...] = ()) -> None:
        super().__init__(detail, hint=hint)
        self.digests = digests


class DaemonAlreadyRunning(Refused):
    code, title, exit_code = "daemon-already-running", "Another daemon owns this home folder", 6
    default_hint = "Use the running one (`torpor status`), or set TORPOR_HOME to another folder."


class ForkedProcess(Refused):
    code, title = "forked-process", "It belongs to another process"
    default_hint = (
        "Threads do not live through a fork: call `connect()` in each process, behind the fork "
        "(gunicorn: in `post_fork`; multiprocessing: in the worker, or with the start method 'spawn')."
    )


class UnsafeHome(Refused):
    code, title = "unsafe-home", "The home folder cannot be trusted"
    default_hint = "The folder must belong to you and must not be a symbolic link."


class NetworkHome(UnsafeHome):
    code, title = "network-home", "The home folder lies on a network file system"
    default_hint = "Set TORPOR_HOME to a folder on a local disk; S3 is the way to other machines."


class NewerIndex(Refused):
    code, title = "newer-index", "The index was written by a newer version"
    default_hint = "Start the newer torpor that wrote it; nothing was changed."


class ScopeDenied(Refused):
    code, title, exit_code, http_status = "scope-denied", "The token is not allowed to do this", 5, 403
    default_hint = "Use the token of the home folder, or approve the origin for more (`torpor pair`)."


class RestoreRefused(Refused):
    code, title = "restore-refused", "The restore that was asked for is not possible"
    default_hint = "`torpor plan` shows what can be restored and why the rest cannot."


class ContextTooLong(Refused):
    code, title, http_status = "context-too-long", "The context is longer than the model's window", 413
    default_hint = (
        "Nothing was changed. Restore again with overflow='keep-system-and-newest' (the system message and as many of "
        "the newest turns as fit) or overflow='keep-newest' (the newest turns alone); the whole conversation stays in "
        "the session either way."
    )


class GroupIncomplete(Refused):
    code, title = "group-incomplete", "Part of the group is gone"
    default_hint = "Restore the sessions that are left one by one; `torpor ls` lists them with their group."


class SyncOff(Refused):
    code, title = "sync-off", "No S3 storage is configured"
    default_hint = "Set PERSISTENCE_BACKEND=s3, S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY and S3_BUCKET; start again."


class RemoteDenied(Refused):
    code, title, http_status = "remote-denied", "The storage does not accept the credentials", 403
    default_hint = "Check S3_ACCESS_KEY, S3_SECRET_KEY and what they may do in the bucket; then `torpor sync now`."


class ClockSkewed(Refused):
    code, title = "clock-skewed", "The clocks of this machine and of the storage are too far apart"
    default_hint = "Set this machine's clock (`timedatectl set-ntp true`); the queue goes on by itself then."


class ObjectExists(Refused):
    code, title = "object-exists", "An object of this name exists already"
    default_hint = "It was written before; what it holds is compared by itself."


class RemoteRefused(Refused):
    code, title = "remote-refused", "The storage refuses this for good"
    default_hint = "The message is the storage's; `torpor sync retry` tries it again once the reason is gone."


class UnknownRepository(Refused):
    code, title = "unknown-repository", "The bucket holds something that is not ours, or a newer layout"
    default_hint = "Set another S3_BUCKET or S3_PREFIX, or update torpor; nothing was written."


class KeyMissing(Refused):
    code, title = "key-missing", "The bucket is encrypted, and this machine does not have the key"
    default_hint = "`torpor key init` asks for the passphrase of this bucket."


class WrongPassphrase(Refused):
    code, title, exit_code = "wrong-passphrase", "The passphrase is wrong", 5
    default_hint = "Try again; nothing was changed, and what is stored is not damaged."


class Damaged(TorporError):
    code, title, exit_code, http_status = "damaged", "Stored data is damaged", 7, 500
    default_hint = "Restore an older backup of the session (`torpor ls`); nothing was handed over."


class BlobDamaged(Damaged):
    code, title = "blob-damaged", "A blob does not match its digest"


class ManifestDamaged(Damaged):
    code, title = "manifest-damaged", "A manifest does not match its checksum"


class IndexDamaged(Damaged):
    code, title = "index-damaged", "The SQLite index cannot be used"
    default_hint = "Restart the daemon: a start makes a damaged index again from the files; nothing is lost by that."


class ObjectDamaged(Damaged):
    code, title = "object-damaged", "An object of the bucket is not what was written"
    default_hint = "The machine that saved it may still have it; `torpor ls --remote` says which one that is."


class Unavailable(TorporError):
    code, title, exit_code, http_status, retryable = "unavailable", "Not available now", 8, 503, True
    default_hint = "Try again."


class DaemonNotRunning(Unavailable):
    code, title = "daemon-not-running", "The daemon is not running"
    default_hint = "Start it with `torpor serve`."


class NoProcess(Unavailable):
    code, title = "no-process", "No inference process is attached"
    default_hint = "In the process that runs the model: `keeper.attach(provider)`. It is found as soon as it is there."


class StoreFull(Unavailable):
    code, title, http_status = "store-full", "The disk of the store is full", 507
    default_hint = "Free space on the disk of the home folder, or remove backups with `torpor rm`."


class QuotaFull(StoreFull):
    code, title = "quota-full", "The quota of the store is used up"
    default_hint = "Raise TORPOR_QUOTA, unpin or remove backups (`torpor rm`); `torpor gc --dry-run` says what may go."


class StoreFailed(Unavailable):
    code, title, http_status = "store-failed", "The store could not read or write a file", 500
    default_hint = "Check the disk and the permissions of the home folder."


class OutOfMemory(Unavailable):
    code, title = "out-of-memory", "There is not enough free memory"
    default_hint = "End other programs, or ask for less."


class SnapshotLost(Unavailable):
    code, title = "snapshot-lost", "The live cache changed before the save had read it"
    default_hint = "Save again."


class FileChanged(Unavailable):
    code, title, http_status = "file-changed", "The file changed while it was read", 409
    default_hint = "Try again when the program that writes it is done."


class Timeout(Unavailable):
    code, title, http_status = "timeout", "It took too long", 504


class WatchLimit(Unavailable):
    code, title = "watch-limit", "A limit of inotify is reached"
    default_hint = "Raise fs.inotify.max_user_watches; until then the folder is looked at every few seconds."


class NoServiceManager(Unavailable):
    code, title, retryable = "no-service-manager", "There is no service manager to ask", False
    default_hint = "`torpor serve` runs the daemon in a terminal; `torpor service install --autostart` at each login."


class ServiceFailed(Unavailable):
    code, title, retryable = "service-failed", "The service could not be started or changed", False
    default_hint = "`journalctl --user -u torpor` and the daemon's log say more."


class TooManyAttempts(Unavailable):
    code, title, exit_code, http_status = "too-many-attempts", "Too many wrong tokens", 5, 429
    default_hint = "Wait a minute, and use the token of the home folder."


class Offline(Unavailable):
    code, title = "offline", "The storage cannot be reached"
    default_hint = "Nothing is lost: it goes on by itself as soon as the storage can be reached."


class Throttled(Unavailable):
    code, title = "throttled", "The storage asks for fewer requests"
    default_hint = "It is tried again later by itself; `torpor sync limit` lowers the rate."

    def __init__(self, detail: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.retry_after_s = retry_after_s  # as the storage asks; None when it does not say


class RemoteFailed(Unavailable):
    code, title, http_status = "remote-failed", "The storage failed", 502
    default_hint = "It is tried again by itself; `torpor sync status` shows when."


class MissingExtra(TorporError):
    code, title, exit_code, http_status = "missing-extra", "An optional dependency is not installed", 9, 501
    default_hint = "Install the extra that the message names, e.g. pip install 'torpor[daemon]'."


def _tree(root: type[TorporError]) -> Iterator[type[TorporError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_classes() -> dict[str, type[TorporError]]:
    """Return every class of the tree by its code."""
    return {cls.code: cls for cls in _tree(TorporError)}
