"""Stand-in until the transport is there."""
