"""The signing service that a security team runs: `privyseal-server`."""
