"""A release of an app's web files for a self-hosted update endpoint: a sealed zip, a sealed delta, and update.json.

`seal` makes one from a folder, `opening` does with it what a device does. The rules are those of the published Capgo
CLI and of the device code of @capgo/capacitor-updater 8.51.23.
"""
