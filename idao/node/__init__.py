"""The only loop: where agreement meets the ledger."""
