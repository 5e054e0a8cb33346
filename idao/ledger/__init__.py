"""What a transaction does: one file a family, named in `registry.py`. Pure functions of state and block."""
