"""SQLite and sealed contents on disk. Only this package writes SQL."""
