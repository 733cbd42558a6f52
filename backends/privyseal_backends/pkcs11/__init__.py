"""Keys in PKCS#11 tokens: SoftHSM, AWS CloudHSM, Luna, nShield, YubiHSM and whatever else has a module.

A key is named by a URI (RFC 7512):

    pkcs11:token=TOKEN;object=LABEL?module-path=/path/to/module.so&pin-source=file:/path/to/pin

`token` or `serial` (or `manufacturer`, `model`, `slot-id`, …) choose the token, `object` or `id` the private key;
`pin-source` is `file:PATH`, `env:NAME` or `credential:NAME` (systemd's), never the PIN itself. The token's user needs
to see the private key and to use it; making a key needs a token that lets its user create objects.

Settings stand in `[stores.pkcs11]`, see `settings.Settings`. Modules for Linux and macOS are supported.
"""
