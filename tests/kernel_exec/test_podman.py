"""What podman says and what becomes of it; a program in its place says what a machine's podman rarely does."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.podman import Podman

WARNS = """#!/bin/sh
echo 'level=warning msg="\\"/\\" is not a shared mount"' >&2
case "$1" in
image) exit 1 ;;
create) echo 5d1a; echo 'Resource limits are not supported and ignored' >&2 ;;
container) echo 77 ;;
rm) exit 125 ;;
esac
"""


@pytest.fixture
def podman(tmp_path: Path) -> Podman:
    (program := tmp_path / "podman").write_text(WARNS)
    program.chmod(0o755)
    return Podman(str(program))


async def test_an_image_that_is_not_there_is_told_so_whatever_else_podman_warns_of(podman: Podman) -> None:
    with pytest.raises(ExecutorError, match="there is no image some here"):
        await podman.image("some")


async def test_what_podman_could_not_do_for_a_container_is_kept_with_it(podman: Podman) -> None:
    made = await podman.create("--memory", "2g", image="some", command=("true",))
    assert (made.id, made.pid) == ("5d1a", 77)
    assert "Resource limits are not supported and ignored" in made.warning


async def test_what_fails_has_podmans_words(podman: Podman) -> None:
    with pytest.raises(ExecutorError, match=r"podman rm: .*not a shared mount"):
        await podman.remove("some")
