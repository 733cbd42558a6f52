"""What a build farm installs: the SDK, and the `privyseal` command."""

__version__ = "0.1.0"
