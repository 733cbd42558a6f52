"""Stand-ins for services that a test cannot have; each has contract tests of its own."""
