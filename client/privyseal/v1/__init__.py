"""The API as Python classes, generated from proto/privyseal/v1 by `make proto`."""
