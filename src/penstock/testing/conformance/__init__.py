"""Published conformance suites: one per contract, run by every driver, ours and others'."""
