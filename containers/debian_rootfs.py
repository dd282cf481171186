"""The root file system of a small Debian, made of this Debian's own files.

    python3 debian_rootfs.py OUT.tar PACKAGE...

No registry, no download: what the packages named and all that they need have installed here goes into a tar. Files that
somebody has changed here, accounts, and whatever no package has brought stay out.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# what a container has no use for, and what it has of its own
LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
# into /usr, on every Debian of today
LINKS = {link for link in ("/bin", "/sbin", "/lib", "/lib64") if Path(link).is_symlink()}
# made by the packages' scripts, from the files beside them
MADE = {
    "/etc/passwd": "/usr/share/base-passwd/passwd.master",
    "/etc/group": "/usr/share/base-passwd/group.master",
    "/etc/nsswitch.conf": "/usr/share/libc-bin/nsswitch.conf",
}


def main(out: str, *named: str) -> None:
    """Write the tar."""
    packages = with_dependencies([*essential(), *named])
    changed = set(changed_files(packages))
    listed = files(packages)
    paths = {real(path) for path in listed if not path.startswith(LEFT_OUT) and path not in changed}
    paths |= set(alternatives(paths))
    paths |= {str(path) for path in Path("/etc/ssl/certs").glob("*")}
    paths |= LINKS
    with tarfile.open(out, "w") as tar:
        for path in sorted(path for path in paths if os.path.lexists(path) and path not in MADE):
            tar.add(path, recursive=False)
        for path, source in MADE.items():
            add(tar, path, Path(source).read_bytes())


def asked(*command: str) -> list[str]:
    """The lines that a program answers."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return done.stdout.splitlines()


def essential() -> Iterator[str]:
    """The packages that every Debian has."""
    for line in asked("dpkg-query", "-W", "-f", "${Package} ${Essential}\n"):
        package, _, is_essential = line.partition(" ")
        if is_essential == "yes":
            yield package


def with_dependencies(packages: Sequence[str]) -> list[str]:
    """These and what they need, as installed here."""
    without = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = [f"--no-{relation}" for relation in without]
    found = asked("apt-cache", "depends", "--recurse", "--installed", *options, *packages)
    names = {line for line in found if line[:1].isalnum()}
    installed = asked("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${binary:Package}\n")
    rows = [line.split("\t") for line in installed]
    return [binary for status, package, binary in rows if status.strip() == "ii" and {package, binary} & names]


def files(packages: Sequence[str]) -> Iterator[str]:
    """What these packages have brought."""
    return (line for line in asked("dpkg-query", "-L", *packages) if line.startswith("/") and line != "/.")


def changed_files(packages: Sequence[str]) -> Iterator[str]:
    """Configuration files that are not as their package brought them."""
    for line in asked("dpkg-query", "-W", "-f", "${Conffiles}\n", *packages):
        path, _, digest = line.strip().partition(" ")
        file = Path(path or "/")
        if file.is_file() and hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != digest.split(" ")[0]:
            yield path


def real(path: str) -> str:
    """A path by way of /usr, where /bin and the like are links: a tar must name each file once."""
    _, top, *below = path.split("/")
    return f"/usr{path}" if below and f"/{top}" in LINKS else path


def alternatives(paths: Iterable[str]) -> Iterator[str]:
    """Programs that are links by way of /etc/alternatives to one of these: `awk`, `which`."""
    there = set(paths)
    for link in Path("/usr/bin").iterdir():
        if link.is_symlink() and os.readlink(link).startswith("/etc/alternatives/") and os.path.realpath(link) in there:
            yield str(link)
            yield os.readlink(link)


def add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    """A file of root's."""
    info = tarfile.TarInfo(path[1:])
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
