"""Submits a CSV to the service and waits for its output: the command line's client.

Owns what a client says to the service over HTTP and what a person sees of it. `ServiceClient`
and the functions beside it print nothing and are `demo`'s too; `main()` does the talking. What
a CSV or an option may hold is the service's to judge.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]

DEFAULT_SERVER = "http://127.0.0.1:8000"
FINAL_STATUSES = frozenset({"completed", "completed_with_errors", "failed", "cancelled"})
EXIT_SUCCEEDED, EXIT_SOME_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 130

OUTAGE_SECONDS = 120.0  # a restart of the service, or of what stands before it, is shorter
OUTAGE_PAUSE_SECONDS = 1.0
UPLOAD_TIMEOUT = (30.0, 900.0)  # connect and each write, answer: a million rows are validated first
READ_TIMEOUT = (10.0, 60.0)
POLL_SECONDS = 0.5  # where the service names no Retry-After
SMALL_JOB_IMAGES = 1000  # a person watches these: look at least once a second
PIECE_BYTES = 64 * 1024

EPILOG = """\
example:
  python submit.py products.csv --option format=webp --option max_width=1600

environment:
  API_KEY   the key for a service that asks for one; sent as Authorization: Bearer KEY

exit status:
  0    every image succeeded (or, with dry_run=true, the file is valid)
  1    some images failed: the report that is named at the end says which and why
  2    refused, or the service can't be reached
  130  interrupted; a request that was accepted goes on without this program
"""


class SubmitError(Exception):
    """The service refused, or can't be reached; the text is for the person at the terminal."""


class ServiceClient:
    """Speaks to one service. Close it, or use it in a `with` statement.

    Every URL is built on `server`, whatever PUBLIC_URL the service has, so that a tunnel works
    and the key goes nowhere else. Every method raises SubmitError.
    """

    def __init__(
        self, server: str, api_key: str = "", *, outage_seconds: float = OUTAGE_SECONDS
    ) -> None:
        self.server = server.rstrip("/")
        self._outage_seconds = outage_seconds
        self._session = requests.Session()
        # A proxy of the environment can't reach this machine's own loopback.
        self._session.trust_env = urlsplit(server).hostname not in {"127.0.0.1", "::1", "localhost"}
        if api_key:
            # As `auth`, not as a header: an entry in .netrc would replace the header.
            self._session.auth = _BearerAuth(api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._session.close()

    def upload(self, csv_path: Path, options: Mapping[str, str]) -> Json:
        """Send the file as a raw body, read in pieces, and return the service's answer."""
        with csv_path.open("rb") as file:
            is_empty = os.fstat(file.fileno()).st_size == 0
            try:
                response = self._session.post(
                    f"{self.server}/upload",
                    params=dict(options),
                    data=b"" if is_empty else file,  # an empty file would be sent chunked
                    headers={"Content-Type": "text/csv"},
                    timeout=UPLOAD_TIMEOUT,
                    allow_redirects=False,  # a redirected POST becomes a GET
                )
            except requests.RequestException as error:
                raise SubmitError(_unreachable(self.server, error)) from None
        answer = _json(response)
        if not {"products", "images"} <= answer.keys():
            raise SubmitError(_not_this_service(response))
        return answer

    def status(self, request_id: str) -> tuple[Json, float]:
        """Return the status and how many seconds to wait before asking again."""
        response = self._get(f"/status/{request_id}")
        status, pause = _json(response), _retry_after(response, POLL_SECONDS)
        if status.get("progress", {}).get("total", 0) <= SMALL_JOB_IMAGES:
            pause = min(pause, 1.0)
        return status, pause

    def watch(self, request_id: str) -> Iterator[Json]:
        """Yield the status again and again; the last one is final."""
        while True:
            status, pause = self.status(request_id)
            yield status
            if status["status"] in FINAL_STATUSES:
                return
            time.sleep(pause)

    def images(self, request_id: str) -> Iterator[Json]:
        """Yield every image of the request in input order."""
        cursor: str | None = ""
        while cursor is not None:
            params = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            page = _json(self._get(f"/status/{request_id}/images", params))
            yield from page["images"]
            cursor = page["next_cursor"]

    def save_output(self, request_id: str, path: Path) -> None:
        """Save the output CSV, whole or not at all."""
        part = path.with_name(path.name + ".part")
        try:
            response = self._get(f"/static/{request_id}.csv", stream=True)
            with response, part.open("wb") as file:
                for piece in response.iter_content(PIECE_BYTES):
                    file.write(piece)
            part.replace(path)
        except (requests.RequestException, OSError) as error:
            raise SubmitError(f"The output could not be saved to {path}: {error}") from None
        finally:
            part.unlink(missing_ok=True)

    def _get(
        self, path: str, params: Mapping[str, str] | None = None, *, stream: bool = False
    ) -> requests.Response:
        """Return a success, though the service may be away for a while; close it if streamed."""
        gives_up_at: float | None = None
        while True:
            pause = OUTAGE_PAUSE_SECONDS
            try:
                response = self._session.get(
                    self.server + path,
                    params=params,
                    timeout=READ_TIMEOUT,
                    stream=stream,
                    allow_redirects=False,
                )
                if response.status_code < 500 and response.status_code != 429:
                    _raise_for_refusal(response)
                    return response
                trouble = f"{self.server} answers {response.status_code} {response.reason}."
                pause = _retry_after(response, pause)
                response.close()
            except _OUTAGES as error:
                trouble = _unreachable(self.server, error)
            now = time.monotonic()
            gives_up_at = gives_up_at or now + self._outage_seconds
            if now >= gives_up_at:
                raise SubmitError(trouble)
            time.sleep(min(pause, gives_up_at - now))


_OUTAGES = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class _BearerAuth(requests.auth.AuthBase):
    """Sends the key with each request."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _unreachable(server: str, error: Exception) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError):
        return f"No service answers at {server}. Is it running there? (--server says where)"
    return f"The connection to {server} broke: {error}"


def _not_this_service(response: requests.Response) -> str:
    return f"What answers at {response.url} is not this service."


def _retry_after(response: requests.Response, default: float) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else default


def _json(response: requests.Response) -> Json:
    _raise_for_refusal(response)
    try:
        body = response.json()
    except requests.RequestException:
        body = None
    if not isinstance(body, dict):
        raise SubmitError(_not_this_service(response))
    return body


def _raise_for_refusal(response: requests.Response) -> None:
    """Raise SubmitError for anything but a success; RFC 9457 documents give the text."""
    if response.ok and not response.is_redirect:
        return
    status = f"{response.status_code} {response.reason}"
    if response.is_redirect:
        raise SubmitError(f"Refused ({status}): use --server {response.headers['Location']}")
    try:
        problem = response.json()
    except requests.RequestException:
        problem = None
    if not isinstance(problem, dict):
        raise SubmitError(f"Refused ({status}).")
    raise SubmitError("\n".join([f"Refused ({status}): {_detail(problem)}", *_places(problem)]))


def _detail(problem: Json) -> str:
    return str(problem.get("detail") or problem.get("title") or "no reason given")


def _places(problem: Json) -> Iterator[str]:
    """Yield a line for each error in the CSV, and one for those that were left off."""
    errors = problem.get("errors") or []
    for error in errors:
        place = f"line {error['line']}" if error.get("line") else "file"
        if error.get("column"):
            place += f", column {error['column']}"
        yield f"  {place}: {error.get('detail')} ({error.get('code')})"
    left_off = problem.get("errors_total", len(errors)) - len(errors)
    if left_off > 0:
        yield f"  and {left_off:,} more"


# What a person sees


def show_progress(statuses: Iterator[Json], total: int) -> Json:
    """Draw a progress bar on stderr from the statuses and return the last one."""
    status: Json = {}
    with tqdm(total=total, unit=" images", unit_scale=False, dynamic_ncols=True) as bar:
        for status in statuses:
            progress = status["progress"]
            bar.set_description_str(status["status"], refresh=False)
            bar.set_postfix_str(f"{progress['failed']:,} failed", refresh=False)
            bar.update(progress["done"] - bar.n)
            bar.refresh()
    return status


def format_bytes(count: int | None) -> str:
    """Return a size for people; decimal units, as shops and storage bills have them."""
    return "-" if count is None else f"{tqdm.format_sizeof(count)}B"


def summary(status: Json) -> str:
    """Return how a request ended: images, failures by code, bytes."""
    progress = status["progress"]
    lines = [f"{status['status']}: {progress['succeeded']:,} of {progress['total']:,} images"]
    lines += [
        f"  {count:,} failed: {code}"
        for code, count in sorted((status.get("errors_by_code") or {}).items())
    ]
    if status.get("bytes_in"):
        saved = status.get("saved_percent")
        share = "" if saved is None else f" ({saved:.1f} % saved)"
        before, after = format_bytes(status["bytes_in"]), format_bytes(status["bytes_out"])
        lines.append(f"  {before} became {after}{share}")
    return "\n".join(lines)


# The command


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, like format=webp")
    return name, value


def _server(text: str) -> str:
    if not (text.startswith(("http://", "https://")) and urlsplit(text).hostname):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL like {DEFAULT_SERVER}")
    return text


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="submit.py",
        description="Upload a product CSV, wait while its images are compressed, and save\n"
        "the CSV that names the compressed images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE.csv", type=Path, help="the CSV to upload")
    parser.add_argument(
        "--server",
        metavar="URL",
        type=_server,
        default=DEFAULT_SERVER,
        help="where the service is (default: %(default)s)",
    )
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        dest="options",
        type=_option,
        action="append",
        default=[],
        help="an option of the upload, as often as needed: format (keep jpeg png webp avif), "
        "quality (1 to 100, or auto), effort (fast balanced best), max_width, max_height, "
        "max_bytes, background (#rrggbb), webhook_url, strict, dry_run (true false), priority "
        "(low normal high)",
    )
    parser.add_argument(
        "--output",
        metavar="OUT.csv",
        type=Path,
        help="where the output goes (default: FILE-output.csv beside the input)",
    )
    return parser.parse_args(argv)


def _check_paths(file: Path, output: Path) -> None:
    """Raise SubmitError while nothing has been uploaded yet."""
    if not file.is_file():
        raise SubmitError(f"{file} is not a file.")
    if not output.parent.is_dir() or output.is_dir():
        raise SubmitError(f"{output} can't be written: its folder must be there.")
    if output.resolve() == file.resolve():
        raise SubmitError("The output would replace the input: name another --output.")


@contextmanager
def _naming_the_request(status_url: str) -> Iterator[None]:
    """Say where the request can be found when this program stops before its end."""
    try:
        yield
    except (SubmitError, KeyboardInterrupt):
        print(f"\nThe service still has the request: {status_url}", file=sys.stderr)
        print(f"To cancel it: curl -X DELETE {status_url}", file=sys.stderr)
        raise


def _submit(client: ServiceClient, file: Path, output: Path, options: Mapping[str, str]) -> int:
    answer = client.upload(file, options)
    counts = f"{answer['products']:,} products, {answer['images']:,} images"
    request_id = answer.get("request_id")
    if not request_id:
        print(f"Valid: {counts}. Nothing was fetched.")
        return EXIT_SUCCEEDED
    print(f"Request {request_id}: {counts}", flush=True)
    with _naming_the_request(answer["status_url"]):
        status = show_progress(client.watch(request_id), answer["images"])
        print(summary(status))
        links = status["links"]
        if links.get("output_csv"):
            client.save_output(request_id, output)
            print(f"Output: {output}")
    if status["status"] == "completed":
        return EXIT_SUCCEEDED
    if links.get("report_csv"):
        print(f"Report: {links['report_csv']}")
    return EXIT_SOME_FAILED


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = _arguments(argv)
    file: Path = arguments.file
    output: Path = arguments.output or file.with_name(f"{file.stem}-output.csv")
    try:
        _check_paths(file, output)
        with ServiceClient(arguments.server, os.environ.get("API_KEY", "").strip()) as client:
            return _submit(client, file, output, dict(arguments.options))
    except (SubmitError, OSError) as error:  # a file that can't be read or written
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
