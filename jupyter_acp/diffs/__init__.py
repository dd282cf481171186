"""What a turn has changed in the project's files: seen, shown and undone."""
