"""The credentials of URLs are not shown: in no log, status, report or error. Pure."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^ \t\r\n]+")
_SLASHES = r"(?:(?<=:)[/\\]|[/\\]{2})[/\\]*+"
_PLAIN_HOST = r"[\w-]++(?:\.[\w-]++)++(?::[0-9]{1,5})?+[/?#]"  # hardly a user and a password
_MAY_HAVE_CREDENTIALS = re.compile(f"{_SLASHES}(?!{_PLAIN_HOST})")
_PLAIN_URL = re.compile(f" *https?://{_PLAIN_HOST}", re.IGNORECASE)
_URL_START = re.compile(r" *(?:https?:|[a-z][a-z0-9+.-]*:(?=//))?[/\\]*", re.IGNORECASE)


def redact(text: str) -> str:
    """Hide the credentials of URLs in a text that is shown or logged.

    Rather too much than too little: a password may have been written with slashes, so whatever
    stands between a URL's first slashes and the last @ of the word is hidden, except where a
    host of at least two labels, and nothing else, comes before the path.
    """
    return _WORD.sub(lambda word: _hide(word[0], _MAY_HAVE_CREDENTIALS), text)


def redact_url(url: str) -> str:
    """Hide the credentials of what is known to be meant as one URL, spaces and all."""
    if _PLAIN_URL.match(url):
        return redact(url)
    return _hide(url, _URL_START)


def _hide(text: str, start: re.Pattern[str]) -> str:
    end = text.rfind("@")
    found = start.search(text, 0, max(end, 0))
    return f"{text[: found.end()]}***{text[end:]}" if found and end >= 0 else text
