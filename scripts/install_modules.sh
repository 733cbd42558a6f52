#!/bin/sh
# Install the PKCS#11 modules of other makers that tests/modules runs the conformance suite on, from Debian's packages, as
# root or with sudo. Nothing is done where all of it is there. It says what is missing in the end, and exits 0 when
# nothing is.
set -u

packages='gcc libc6-dev libnss3 opencryptoki p11-kit p11-kit-modules softhsm2
    dbus-bin dbus-daemon libtpm2-pkcs11-1 libtss2-tcti-tabrmd0 swtpm tpm2-abrmd'

say() {
    printf 'install_modules: %s\n' "$*" >&2
}

module() {
    for folder in /usr/lib/*-linux-gnu /usr/lib /usr/lib64; do
        [ -e "$folder/$1" ] || [ -e "$folder/pkcs11/$1" ] && return
    done
    missing="$missing
$1 of the package $2"
}

program() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null && return
    missing="$missing
$1 of the package $2"
}

look() {
    missing=
    module libsoftokn3.so libnss3
    module libopencryptoki.so opencryptoki
    program pkcsslotd opencryptoki
    module p11-kit-client.so p11-kit-modules
    program p11-kit p11-kit
    program softhsm2-util softhsm2
    module libtpm2_pkcs11.so libtpm2-pkcs11-1
    module libtss2-tcti-tabrmd.so.0 libtss2-tcti-tabrmd0
    program swtpm swtpm
    program tpm2-abrmd tpm2-abrmd
    program dbus-daemon dbus-daemon
    program dbus-send dbus-bin
}

install() {
    as_root=
    if ! command -v apt-get >/dev/null; then
        say 'there is no apt-get here: install the counterparts of these packages yourself'
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say 'this needs root: run it as root, or install sudo'
            return
        fi
        as_root=sudo
    fi
    # shellcheck disable=SC2086 # one word for each package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages >&2 ||
        say 'apt-get could not install all of it, see above; its lists may be old: run apt-get update'
}

look
if [ -n "$missing" ]; then
    install
    look
fi
if [ -n "$missing" ]; then
    say "missing:$missing"
    exit 1
fi
