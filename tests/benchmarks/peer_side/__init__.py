"""What runs in the peer's environment: scripts with ``main(inputs) -> outputs``."""
