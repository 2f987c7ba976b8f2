"""What users and drivers test with: conformance suites, simulation, strategies."""
