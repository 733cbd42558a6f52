"""What a build farm installs: the SDK, and the `privyseal` command."""
