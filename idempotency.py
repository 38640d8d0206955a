"""`Idempotency-Key`: an upload that is sent again gets its first answer, and no second request.

Owns the header, what makes two uploads the same, and the statements of `idempotency_keys`.
`upload_intake` calls them in the transaction of the upload, so that a key and the rows it stands
for are committed together or not at all. See draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from errors import HttpError
from request_options import RequestOptions

if TYPE_CHECKING:
    from email.message import Message

    from database_helper import Cursor

HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"
MAX_KEY_CHARACTERS: Final = 255
_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARACTERS}}}")
_STRING: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # RFC 9651 section 3.3.3
LONGEST_WAIT: Final = "10s"  # for an upload with the same key; its client comes again
_IS_EXPIRED: Final = "created_at < now() - interval '24 hours'"


@dataclass(frozen=True, slots=True)
class KeyedUpload:
    """An upload that its client may send again. `owner` is empty where no keys are asked for."""

    owner: str
    key: str
    fingerprint: str


def parse_key(headers: Message) -> str | None:
    """Return the key that a request carries, None if there is none.

    It may stand as a structured field's string or bare, as most clients send it: `"a"` and `a` are
    the same key. Raises HttpError 422 for anything else.
    """
    values = headers.get_all(HEADER)
    if values is None:
        return None
    value = values[0].strip()
    if string := _STRING.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", string[1])
    elif value.startswith('"'):
        value = ""
    if len(values) > 1 or not _KEY.fullmatch(value):
        raise _refusal(
            f"{HEADER}: takes one key of 1 to {MAX_KEY_CHARACTERS} visible ASCII characters"
        )
    return value


def fingerprint(csv_sha256: bytes, options: RequestOptions) -> str:
    """Return a digest of all that makes two uploads the same: the CSV's bytes and the options.

    Options count where they differ from their defaults, so that a version which knows one more
    still recognises what an earlier one took.
    """
    defaults = _flat(RequestOptions())
    given = {name: value for name, value in _flat(options).items() if value != defaults[name]}
    canonical = json.dumps(given, sort_keys=True)
    return hashlib.sha256(csv_sha256 + canonical.encode()).hexdigest()


def _flat(options: RequestOptions) -> dict[str, Any]:
    values = asdict(options)
    of_image: dict[str, Any] = values.pop("image")
    return values | of_image


def claim_key(cursor: Cursor, upload: KeyedUpload, request_id: str) -> dict[str, Any] | None:
    """Take the key for this request; where it is taken, return the body that was answered then.

    Waits for another upload with the key that is not committed yet, but not for long. Raises
    HttpError 422 when the key was another content's.
    """
    cursor.execute("select set_config('lock_timeout', %s, true)", (LONGEST_WAIT,))
    cursor.execute(
        # Where the key is taken and fresh nothing is returned, but its row is locked.
        f"""insert into idempotency_keys as known (owner, key, fingerprint, request_id)
            values (%s, %s, %s, %s)
            on conflict (owner, key) do update
               set fingerprint = excluded.fingerprint, request_id = excluded.request_id,
                   response = null, created_at = now()
             where known.{_IS_EXPIRED}
         returning request_id""",  # noqa: S608  # a constant
        (upload.owner, upload.key, upload.fingerprint, request_id),
    )
    if cursor.fetchone():
        return None
    cursor.execute(
        "select fingerprint, response from idempotency_keys where owner = %s and key = %s",
        (upload.owner, upload.key),
    )
    known = cursor.fetchone()
    assert known is not None  # noqa: S101  # it is locked
    if known["fingerprint"] != upload.fingerprint:
        raise _refusal(f"{HEADER}: this key was used for an upload with another CSV or options")
    answer: dict[str, Any] = known["response"]
    return answer


def remember_answer(cursor: Cursor, upload: KeyedUpload, body: dict[str, Any]) -> None:
    """Keep the body that the upload which took the key is answered with."""
    cursor.execute(
        "update idempotency_keys set response = %s where owner = %s and key = %s",
        (json.dumps(body), upload.owner, upload.key),
    )


def delete_expired_keys(cursor: Cursor) -> int:
    """Forget the keys that are over; return how many. One that is being replaced is left alone."""
    cursor.execute(
        f"""delete from idempotency_keys
             where (owner, key) in (select owner, key from idempotency_keys
                                     where {_IS_EXPIRED} for update skip locked)"""  # noqa: S608
    )
    return cursor.rowcount


def _refusal(detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
