"""What the PKCS#11 module does by itself: `C_Sign` in a loop, in so many threads of this process.

    python bench/bare.py URI THREADS SECONDS

Prints JSON: signatures, seconds, and the process's CPU time in the loop. The module is loaded, and the key found, as
the service does it, and nothing is verified or recorded.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

from privyseal_backends.interface import Mechanism, SigningInput
from privyseal_backends.pkcs11.address import parse
from privyseal_backends.pkcs11.locate import locate
from privyseal_backends.pkcs11.module_registry import MODULES
from privyseal_backends.pkcs11.objects import MAPPER, find_private_key
from privyseal_backends.pkcs11.settings import Settings
from privyseal_backends.pkcs11.token import TokenLogin, find_token
from privyseal_backends.pkcs11.token_key import sign


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    uri, threads, seconds = parse(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    module = MODULES.acquire(locate(uri), None)
    counts = [0] * threads
    checksum = SigningInput(Mechanism.TYPE1, bytes(32))
    with module.call():
        token = find_token(module, uri)
        with TokenLogin(module, token).session(uri.pin_source, Settings()):
            handles = [find_private_key(token.open(attribute_mapper=MAPPER), uri) for _ in range(threads)]
            print("ready", flush=True)
            sys.stdin.readline()
            begun_s, begun_cpu_s = time.perf_counter(), cpu_s()

            def loop(place: int) -> None:
                while time.perf_counter() < begun_s + seconds:
                    sign(handles[place], checksum, 256)
                    counts[place] += 1

            started = [threading.Thread(target=loop, args=(place,)) for place in range(threads)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()
            took_s, used_s = time.perf_counter() - begun_s, cpu_s() - begun_cpu_s
    print(json.dumps({"signatures": sum(counts), "seconds": took_s, "cpu_s": used_s}))


if __name__ == "__main__":
    main()
