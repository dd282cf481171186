"""Executors. A package, so that its modules may be named as those of other folders."""


def alive(pid: int) -> bool:
    """A zombie is not alive; it waits for a parent that may not come."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
